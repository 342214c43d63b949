"""Does the constant part of an MLP apply a function to what heads wrote?

If it does, as Lv et al. claim (arXiv 2403.19521), it is read as answers, not as
names; and without it the answer falls and the name rises. The control is the
part of the MLP that depends on the subject.

Letters: n prompts, U subjects, and those of the library.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np

from experiments.factual_recall.least_squares import cosine
from experiments.factual_recall.path_patching import streams_with_added
from experiments.factual_recall.regression import READ, finite, to_dicts
from experiments.factual_recall.task_prompts import Prompts
from experiments.factual_recall.trace import Readout, Trace
from experiments.stats import resampling
from experiments.stats.intervals import Estimate, number_units
import gemma_jax as gj


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class FunctionApplication:
  """Says whether an intercept turns names into answers.

  Attributes:
    layer: The MLP's.
    tokens: int [top], those that the intercept favours most.
    values: float32 [top], what it adds to their logits, but for a scale.
    answer_fraction: Share of `tokens` that begin an answer of the task.
    effects: Part -> 'removed' or 'added' -> 'answer' or 'name' -> mean change
      of pi, heads above held and MLPs free. The parts are 'intercept', the
      constant of the regression without subjects, and of its control, if
      given, 'control intercept' and 'subject': the constant, and what the
      control adds to it for the prompt's subject. Compare the latter two, which
      are of one fit.
    cosines: 'answers' and 'names' -> of the intercept with the mean of their
      rows of the unembedding (`value`), the mean of the same for `sets` random
      sets of `size` tokens (`random`), and the percentage of sets below
      (`percentile`).
    seed: Random seed of resamples and sets.
  """

  layer: int
  tokens: np.ndarray
  values: np.ndarray
  answer_fraction: float
  effects: dict[str, dict[str, dict[str, Estimate]]]
  cosines: dict[str, dict[str, float | int | None]]
  seed: int

  @property
  def raises_answer(self) -> bool:
    """Returns True if pi(Y) falls without the intercept, by its interval."""
    return self.effects['intercept']['removed']['answer'].high < 0

  @property
  def lowers_name(self) -> bool:
    """Returns True if pi(N) rises without the intercept, by its interval."""
    return self.effects['intercept']['removed']['name'].low > 0

  def to_results(self) -> dict:
    """Returns JSON-able numbers."""
    return {
      'layer': self.layer,
      'site': 'mlp_out',
      'tokens': self.tokens.tolist(),
      'values': self.values.tolist(),
      'answer_fraction': self.answer_fraction,
      'effects': to_dicts(self.effects),
      'raises_answer': self.raises_answer,
      'lowers_name': self.lowers_name,
      'cosines': self.cosines,
      'seed': self.seed,
    }


def function_application(
  model: gj.Decoder,
  trace: Trace,
  prompts: Prompts,
  readout: Readout,
  layer: int,
  intercept: np.ndarray,
  subject_intercepts: np.ndarray | None = None,
  *,
  control_intercept: np.ndarray | None = None,
  seed: int = 0,
  top: int = 10,
  sets: int = 1000,
) -> FunctionApplication:
  """Reads an intercept as tokens, and takes it out of the MLP's output.

  Args:
    model: Stacked.
    trace: A run of the prompts.
    prompts: n of them.
    readout: Readout of their answers and names.
    layer: The MLP's.
    intercept: [D], b of the regression without subjects, `fit.intercept` of a
      `Decomposition`.
    subject_intercepts: [U, D], c of the control, `subject_intercepts` of the
      same: of the prompts' subjects in the order of their first prompts. None
      leaves them out.
    control_intercept: [D], b of the control, `control.intercept` of the same;
      None leaves it out.
    seed: Random seed.
    top: How many tokens.
    sets: How many random sets of tokens.

  Raises:
    ValueError: the intercepts have another shape, or numbers not finite.
  """
  which, subjects = number_units(prompts.units)
  n, D = len(prompts), model.config.d_model
  b = _checked(intercept, (D,), 'intercept')
  vectors = {'intercept': np.broadcast_to(b, (n, D))}
  if control_intercept is not None:
    own = _checked(control_intercept, (D,), 'control_intercept')
    vectors['control intercept'] = np.broadcast_to(own, (n, D))
  if subject_intercepts is not None:
    shape = (len(subjects), D)
    c = _checked(subject_intercepts, shape, 'subject_intercepts')
    vectors['subject'] = c[which]
  signed = np.stack([s * each for each in vectors.values() for s in (-1, 1)])
  streams = streams_with_added(model, trace, prompts, layer, signed)
  changes = readout.pi(streams) - readout.pi(trace.final)  # [S, n, 2]
  flat = iter(
    resampling.cluster_bootstrap_means(
      changes.swapaxes(0, 1).reshape(n, -1), prompts.units, seed
    )
  )
  logits = np.asarray(gj.to_vocabulary(model, b))
  tokens = np.argsort(-logits, kind='stable')[:top]
  return FunctionApplication(
    layer=layer,
    tokens=tokens,
    values=logits[tokens],
    answer_fraction=float(np.isin(tokens, prompts.answers).mean()),
    effects={
      name: {
        how: {read: next(flat) for read in READ} for how in ('removed', 'added')
      }
      for name in vectors
    },
    cosines={
      name: _cosine_with(model, b, np.unique(asked), sets, seed)
      for name, asked in (
        ('answers', prompts.answers),
        ('names', prompts.names),
      )
    },
    seed=seed,
  )


def _checked(array, shape: tuple[int, ...], name: str) -> np.ndarray:
  array = np.asarray(array, np.float64)
  if array.shape != shape or not np.isfinite(array).all():
    raise ValueError(
      f'{name} must be finite numbers {list(shape)}, got shape '
      f'{list(array.shape)}.'
    )
  return array


def _cosine_with(model, b, tokens, sets, seed) -> dict:
  """Returns the intercept's cosine with tokens' mean row; `cosines`."""
  V, size = model.config.vocab_size, len(tokens)
  rng = np.random.default_rng([seed, size])

  def mean_row(ids):
    return np.asarray(model.unembedding[jnp.asarray(ids)], np.float64).mean(-2)

  value = cosine(b, mean_row(tokens))
  drawn = [rng.choice(V, size, replace=False) for _ in range(sets)]
  random = np.concatenate(
    [
      cosine(b, mean_row(np.stack(drawn[start : start + 64])))
      for start in range(0, sets, 64)
    ]
  )
  return {
    'value': finite(value),
    'random': finite(random.mean()),
    'percentile': finite(100 * (random < value).mean() + 0 * value),
    'size': size,
    'sets': sets,
  }
