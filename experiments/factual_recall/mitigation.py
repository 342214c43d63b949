"""Undoes the last layer's restraint: a mask, and the MLP's intercept taken off.

Both change a prompt's last token only (section 1.6 of the recall
specification):

  mask        in the last layer every head of the last query sees itself alone,
              so that it writes its value of that token. This is the last block
              run on that token without any other.
  intercept   the constant part of the last MLP is subtracted from the last
              stream. It is fitted on half of the subjects and subtracted for
              the other half; '_in_sample' is fitted on all of them and
              overstates the gain, as the published figure may.
  both        the mask, then the intercept of the run without it.
  mean        a control: the mean output of the last MLP, of the other half of
              subjects too, is subtracted instead.
  random      a control: a random direction of the intercept's norm is
              subtracted instead; DIRECTIONS of them, each by itself.

The intercept means something as far as its arms differ from the controls.
'both_frozen' holds the final norm's scale at that of the untouched run: what
both changes do apart from rescaling all logits.

Letters: n prompts, R random directions, and those of the library.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from experiments.factual_recall import least_squares, regression
from experiments.factual_recall.task_prompts import Prompts
from experiments.factual_recall.trace import (
  Outcomes,
  Trace,
  in_batches,
  outcomes,
)
from experiments.stats.intervals import Estimate
from experiments.stats.resampling import cluster_bootstrap_means
import gemma_jax as gj
from gemma_jax.capture import Capture
from gemma_jax.model import run_blocks

NONE = 'none'
MEASURES = ('prob', 'log_prob', 'pi', 'top1', 'entropy')
# How many random directions the intercept is compared with.
DIRECTIONS = 2


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Mitigations:
  """Holds what the model says under every arm.

  Attributes:
    arms: Name -> outcomes of n prompts; the first is 'none'. Those of 'random'
      have a leading axis, [R, n]: one row for each direction.
    units: The subject of each prompt.
    first_half: bool [n], of which half of the subjects each prompt is.
    intercepts: float64 [3, D]: fitted on all prompts, on the first half, and on
      the second half, which is subtracted in the first.
  """

  arms: dict[str, Outcomes]
  units: tuple[str, ...]
  first_half: np.ndarray
  intercepts: np.ndarray

  def to_results(self, seed: int = 0) -> dict:
    """Returns means with intervals over subjects, for results.json.

    Args:
      seed: Random seed of the resamples, which all arms share.

    Returns:
      'arms': for each its 'mean' and its 'change', prompt by prompt, from no
      change, each of 'prob', 'log_prob', 'pi' (after the soft cap), 'top1' and
      'entropy'; of 'random', each prompt's mean over directions is taken first.
      'intercept': the 'norm' of that of all prompts, and the
      'cosine_of_halves', without intervals.
    """
    none = _columns(self.arms[NONE])
    results = {}
    for name, arm in self.arms.items():
      own = _columns(arm)
      found = cluster_bootstrap_means(
        np.concatenate([own, own - none], axis=1), self.units, seed
      )
      found = [each.to_dict() for each in found]
      size = len(MEASURES)
      results[name] = {
        'mean': dict(zip(MEASURES, found[:size], strict=True)),
        'change': dict(zip(MEASURES, found[size:], strict=True)),
      }
    whole, *halves = self.intercepts
    numbers = {
      'norm': np.linalg.norm(whole),
      'cosine_of_halves': least_squares.cosine(*halves),
    }
    return {
      'arms': results,
      'intercept': {
        name: Estimate.without_interval(value, len(self.units)).to_dict()
        for name, value in numbers.items()
      },
    }


def mitigate(
  model: gj.Decoder,
  trace: Trace,
  prompts: Prompts,
  *,
  with_other: bool = False,
  seed: int = 0,
) -> Mitigations:
  """Runs every arm at the prompts' last tokens.

  Args:
    model: Stacked.
    trace: A run of the prompts.
    prompts: n of them, of at least two subjects.
    with_other: True if the rest of the stream is a regressor of the last MLP's
      outputs, beside what the last layer's heads added to it.
    seed: Random seed of the split of the subjects and of directions.

  Returns:
    Outcomes of 'none', 'mask', 'intercept', 'both', 'intercept_in_sample',
    'both_in_sample', 'mean', 'random' and 'both_frozen'.

  Raises:
    ValueError: there are fewer than two subjects.
  """
  L = model.config.num_layers
  plain = trace.final
  masked = run_alone(model, trace['resid_pre'][L - 1], prompts.ends)
  heads, other = regression.regressors(model, trace, L - 1)
  mlp = trace['mlp_out'][L - 1]
  first = split_subjects(prompts.subjects, seed)

  def of_rows(rows):
    rest = other[rows] if with_other else None
    return least_squares.fit(mlp[rows], heads[rows], rest).intercept

  whole = of_rows(np.ones(len(prompts), bool))
  halves = of_rows(first), of_rows(~first)
  # The other half's, [n, D].
  held_out = np.where(first[:, None], halves[1], halves[0])
  mean = np.where(first[:, None], mlp[~first].mean(0), mlp[first].mean(0))
  random = random_directions(DIRECTIONS, model.config.d_model, seed)[:, None]
  streams = {
    'mask': masked,
    'intercept': plain - held_out,
    'both': masked - held_out,
    'intercept_in_sample': plain - whole,
    'both_in_sample': masked - whole,
    'mean': plain - mean,
    'random': plain - np.linalg.norm(held_out, axis=1)[:, None] * random,
  }
  arms = {NONE: outcomes(model, plain, prompts.answers)}
  for name, x in streams.items():
    arms[name] = _read(model, x, prompts.answers)
  arms['both_frozen'] = _read(
    model,
    streams['both'],
    prompts.answers,
    gj.norm_scale(model.config, plain),
  )
  return Mitigations(
    arms=arms,
    units=tuple(prompts.units),
    first_half=first,
    intercepts=np.stack([whole, *halves]),
  )


def random_directions(count: int, D: int, seed: int) -> np.ndarray:
  """Returns unit vectors float64 [count, D]; fewer are the first of more."""
  drawn = np.random.default_rng([seed, D]).standard_normal((count, D))
  return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


def split_subjects(subjects: np.ndarray, seed: int) -> np.ndarray:
  """Returns bool [n]: whether a prompt's subject is in the first half.

  Args:
    subjects: int [n], of each prompt.
    seed: Random seed.

  Raises:
    ValueError: there are fewer than two subjects.
  """
  asked = np.unique(subjects)
  if len(asked) < 2:
    raise ValueError(
      f'There are prompts about {len(asked)} subject; at least 2 are needed, '
      'so that the intercept is fitted on others.'
    )
  shuffled = np.random.default_rng(seed).permutation(asked)
  return np.isin(subjects, shuffled[: len(asked) // 2])


def run_alone(
  model: gj.Decoder,
  streams: np.ndarray,
  positions: np.ndarray,
  *,
  rows_per_batch: int = 1024,
) -> np.ndarray:
  """Runs the last block on single tokens, each of which sees itself alone.

  Args:
    model: Stacked.
    streams: float32 [m, D], what enters the last layer.
    positions: int [m], the tokens' places in their texts.
    rows_per_batch: Tokens at once; bounds memory.

  Returns:
    float32 [m, D], the streams that leave it.
  """
  return in_batches(
    lambda rows: _alone(
      model,
      jnp.asarray(streams[rows], model.dtype),
      jnp.asarray(positions[rows], jnp.int32),
    ),
    len(streams),
    rows_per_batch,
  )


@jax.jit
def _alone(model, streams, positions):
  L = model.config.num_layers
  x, _, _ = run_blocks(
    model,
    streams[:, None],
    positions[:, None],
    capture=Capture(sites=()),
    first_layer=jnp.int32(L - 1),
    num_layers=L,
  )
  return x[:, 0]


def _read(model, streams, answers, scale=None) -> Outcomes:
  """Outcomes [..., n] of streams [..., n, D]; answers and scale are [n]."""
  shape = streams.shape[:-1]
  wide = lambda x: np.broadcast_to(x, shape).reshape(-1)
  found = outcomes(
    model,
    streams.reshape(-1, streams.shape[-1]).astype(np.float32),
    wide(answers),
    None if scale is None else wide(scale),
  )
  fields = {f.name: getattr(found, f.name) for f in dataclasses.fields(found)}
  return Outcomes(**{name: x.reshape(shape) for name, x in fields.items()})


def _columns(found: Outcomes) -> np.ndarray:
  """float64 [n, measures], means over directions if there are some."""
  columns = [found.prob, found.log_prob, found.pi, found.says, found.entropy]
  n = found.pi.shape[-1]
  table = np.stack(columns, axis=-1).astype(np.float64)
  return table.reshape(-1, n, len(columns)).mean(0)
