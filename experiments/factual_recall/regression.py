"""What an MLP does with what heads wrote: a regression of its output.

  mlp_out = sum_h alpha_h head_h + b

at the last token of n prompts, by least squares (`least_squares.py`). The
stream above the MLP has 1 + alpha_h times what head h wrote: the MLP erases the
head, or amplifies it. b is what it writes whatever heads say, "function
application" in Lv et al. (arXiv 2403.19521; how they regress is not public, so
this is the reconstruction of the recall specification, section 1.5). The
control is one more vector for each subject: if the answer is in that one, the
MLP looks the subject up and applies no function.

The rest of the stream, `other`, may be a regressor too. Its mean is far from 0,
and b is then an extrapolation to a stream without it.

Letters: n prompts, U subjects, k heads, K regressors, and the library's.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import itertools
import math

import numpy as np

from experiments.factual_recall import least_squares
from experiments.factual_recall.least_squares import Fit, cosine, ratio, solve
from experiments.factual_recall.task_prompts import Prompts
from experiments.factual_recall.trace import Readout, Trace
from experiments.stats import resampling
from experiments.stats.intervals import Estimate, number_units
import gemma_jax as gj

RESAMPLES = 1000
READ = ('answer', 'name')


def regressors(
  model: gj.Decoder,
  trace: Trace,
  layer: int,
  heads: Sequence[tuple[int, int]] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
  """Returns what heads added to the stream that an MLP reads, and all else.

  The two sum to resid_mid. Biases belong to no head. With post-norms, a head's
  write is scaled as in the run.

  Args:
    model: Stacked.
    trace: A run of n prompts.
    layer: The MLP's.
    heads: k pairs (layer, head), not above that layer; None is all N heads of
      the layer itself.

  Returns:
    float64 [n, k, D] and [n, D].

  Raises:
    ValueError: a head does not exist, is above the MLP, or is named twice.
  """
  config = model.config
  heads = _named(config, layer, heads)
  middle = trace['resid_mid'][layer].astype(np.float64)
  writes = np.empty((len(middle), len(heads), config.d_model))
  for at in {each for each, _ in heads}:
    found = gj.head_outputs(
      model, at, trace['z'][at], trace['attn_out_raw'][at]
    )
    for column, (own, head) in enumerate(heads):
      if own == at:
        writes[:, column] = found[:, head]
  return writes, middle - writes.sum(1)


def _named(config, layer, heads) -> tuple[tuple[int, int], ...]:
  if not 0 <= layer < config.num_layers:
    raise ValueError(
      f'Layer {layer} does not exist; there are {config.num_layers}.'
    )
  if heads is None:
    heads = [(layer, head) for head in range(config.num_heads)]
  heads = tuple((int(at), int(head)) for at, head in heads)
  for at, head in heads:
    if not (0 <= at <= layer and 0 <= head < config.num_heads):
      raise ValueError(
        f'Head {(at, head)} must be (layer, head) with a layer from 0 to '
        f'{layer}, the one of the MLP, and a head below {config.num_heads}.'
      )
  if len(set(heads)) < len(heads):
    raise ValueError(f'A head is named twice in {heads}.')
  return heads


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Decomposition:
  """The regression of one layer's MLP, with intervals over subjects.

  Attributes:
    layer: The MLP's.
    heads: k pairs (layer, head).
    subjects: U names, in the order of their first prompts.
    fit: Without subjects' intercepts.
    control: With them; its intercept is their mean over prompts.
    subject_intercepts: float64 [U, D], c of the control; their mean over
      prompts is 0.
    coefficients: K estimates, of heads and then of `other` if it is one.
    control_coefficients: The same, of the control.
    r2: R2 of the fit, in sample.
    r2_held_out: R2 held out of the fit, for subjects that it did not see,
      against the mean of those that it saw. The interval is over held-out
      subjects.
    r2_control: R2 control of the control, in sample.
    subjects_alone: Share of the variance that subjects' means explain.
    subjects_by_chance: The same if subjects did not matter, (U-1) / (n-1).
    folds: int [U], the fold that each subject is held out in.
    carried: 'mlp', 'fit' and 'control' -> part -> 'answer' or 'name' -> what
      the part adds to pi directly, the final norm's scale held; means over
      prompts.
    resamples: How many.
    seed: Random seed of resamples and folds.
  """

  layer: int
  heads: tuple[tuple[int, int], ...]
  subjects: tuple[str, ...]
  fit: Fit
  control: Fit
  subject_intercepts: np.ndarray
  coefficients: list[Estimate]
  control_coefficients: list[Estimate]
  r2: Estimate
  r2_held_out: Estimate
  r2_control: Estimate
  subjects_alone: Estimate
  subjects_by_chance: float
  folds: np.ndarray
  carried: dict[str, dict[str, dict[str, Estimate]]]
  resamples: int
  seed: int

  @property
  def names(self) -> list[str]:
    """K names of the regressors: 'L9H8', and 'other' if it is one."""
    named = [f'L{layer}H{head}' for layer, head in self.heads]
    return named + ['other'] * (len(self.coefficients) - len(named))

  def to_results(self) -> dict:
    """Returns JSON-able numbers; intercepts stay arrays."""
    results = {
      'layer': self.layer,
      'site': 'mlp_out',
      'n': self.r2.n,
      'subjects': list(self.subjects),
      'regressors': _described(self.names, self.fit, self.coefficients),
      'rank': self.fit.rank,
      'intercept': self.fit.intercept,
      'control': {
        'regressors': _described(
          self.names, self.control, self.control_coefficients
        ),
        'rank': self.control.rank,
        'intercept': self.control.intercept,
        'subject_intercepts': self.subject_intercepts,
      },
      'subjects_by_chance': finite(self.subjects_by_chance),
      'folds': int(self.folds.max(initial=-1)) + 1,
      'carried': to_dicts(self.carried),
      'resamples': self.resamples,
      'seed': self.seed,
    }
    for name in ('r2', 'r2_held_out', 'r2_control', 'subjects_alone'):
      results[name] = getattr(self, name).to_dict()
    return results


def decompose(
  model: gj.Decoder,
  trace: Trace,
  prompts: Prompts,
  layer: int,
  *,
  heads: Sequence[tuple[int, int]] | None = None,
  with_other: bool = False,
  readout: Readout | None = None,
  seed: int = 0,
  resamples: int = RESAMPLES,
) -> Decomposition:
  """Regresses one MLP on heads, with intervals, held-out R2 and the control.

  Args:
    model: Stacked.
    trace: A run of the prompts.
    prompts: n of them.
    layer: The MLP's.
    heads: As in `regressors`.
    with_other: True if the rest of the stream is a regressor beside the heads.
    readout: Readout of the prompts' answers and names; None makes it, which
      reads the whole unembedding.
    seed: Random seed.
    resamples: Resamples of subjects.
  """
  which, subjects = number_units(prompts.units)
  n, U = len(prompts), len(subjects)
  heads = _named(model.config, layer, heads)
  writes, other = regressors(model, trace, layer, heads)
  columns = least_squares.stack_columns(
    trace['mlp_out'][layer], writes, other if with_other else None
  )
  if len(columns) != n:
    raise ValueError(f'The trace is of {len(columns)} prompts, not of {n}.')
  moments = least_squares.Moments.of(columns, which)
  draws = resampling.draw(U, np.random.default_rng(seed), resamples)
  counts = np.concatenate([np.ones((1, U)), draws])  # first the sample itself
  main = solve(moments.centred(counts), moments)
  control = solve(moments.within(counts), moments)

  def estimate(values):  # [1 + resamples]
    resampled = values[1:] if U > 1 else np.full(resamples, math.nan)
    return resampling.estimate(values[0], resampled, n)

  folds, wrong, whole = least_squares.hold_out(moments, seed)
  unexplained = control.variance - control.explained
  of = lambda solved: least_squares.to_fit(moments, solved, with_other)
  fits = [of(main), of(control)]
  slopes = control.coefficients[0]
  c = np.append(-slopes, 1) @ moments.sums / moments.sizes[:, None]
  r2_control = 1 - ratio(unexplained, main.variance)
  return Decomposition(
    layer=layer,
    heads=heads,
    subjects=tuple(subjects),
    fit=fits[0],
    control=dataclasses.replace(fits[1], r2=float(r2_control[0])),
    subject_intercepts=c,
    coefficients=[estimate(each) for each in main.coefficients.T],
    control_coefficients=[estimate(each) for each in control.coefficients.T],
    r2=estimate(ratio(main.explained, main.variance)),
    r2_held_out=estimate(1 - ratio(counts @ wrong, counts @ whole)),
    r2_control=estimate(r2_control),
    subjects_alone=estimate(1 - ratio(control.variance, main.variance)),
    subjects_by_chance=(U - 1) / (n - 1) if n > 1 else math.nan,
    folds=folds,
    carried=_carried(
      readout or Readout.of(model, prompts.answers, prompts.names),
      trace.final,
      columns,
      fits,
      c[which],
      prompts.units,
      seed,
    ),
    resamples=resamples,
    seed=seed,
  )


def _carried(readout, final, columns, fits, subject, units, seed):
  """Returns what the parts of the MLP's output add to pi."""
  mlp = columns[:, -1]
  parts = {('mlp', 'whole'): mlp}
  for name, found in zip(('fit', 'control'), fits, strict=True):
    k = len(found.coefficients)
    own = {'heads': np.einsum('nkD,k->nD', columns[:, :k], found.coefficients)}
    if found.other is not None:
      own['other'] = found.other * columns[:, k]
    own['intercept'] = np.broadcast_to(found.intercept, mlp.shape)
    if name == 'control':
      own['subject'] = subject
    own['residual'] = mlp - sum(own.values())
    parts |= {(name, part): value for part, value in own.items()}
  scale = gj.norm_scale(readout.model.config, final)
  values = [
    (part * directions).sum(-1) / scale
    for part in parts.values()
    for directions in (readout.answer, readout.name)
  ]
  means = iter(
    resampling.cluster_bootstrap_means(np.stack(values, 1), units, seed)
  )
  found = {}
  for name, part in parts:
    found.setdefault(name, {})[part] = {read: next(means) for read in READ}
  return found


def _described(names, found: Fit, coefficients: list[Estimate]) -> list[dict]:
  rows = []
  for i, (name, own) in enumerate(zip(names, coefficients, strict=True)):
    gain = dataclasses.replace(
      own, value=1 + own.value, low=1 + own.low, high=1 + own.high
    )
    identified = bool(found.identified[i])
    rows.append(
      {
        'name': name,
        'coefficient': own.to_dict(),
        'gain': gain.to_dict(),
        'verdict': verdict(gain) if identified else 'neither',
        'identified': identified,
      }
    )
  return rows


def verdict(gain: Estimate) -> str:
  """Returns whether the MLP 'erases' or 'amplifies' what has a net gain."""
  if gain.high < 1:
    return 'erases'
  return 'amplifies' if gain.low > 1 else 'neither'


def compare_intercepts(
  intercepts: Mapping[str, np.ndarray],
) -> dict[str, dict[str, list[float | None]]]:
  """Returns cosines [L] of the intercepts of every pair of tasks.

  Args:
    intercepts: Task -> [L, D].

  Returns:
    First task -> second task -> a cosine per layer, each pair once; None where
    an intercept is 0.

  Raises:
    ValueError: tasks have different shapes, or a number is not finite.
  """
  arrays = {task: np.asarray(b, np.float64) for task, b in intercepts.items()}
  shapes = {task: b.shape for task, b in arrays.items()}
  if len(set(shapes.values())) > 1 or any(len(s) != 2 for s in shapes.values()):
    raise ValueError(f'Intercepts must be [L, D] of one model, got {shapes}.')
  for task, b in arrays.items():
    if not np.isfinite(b).all():
      raise ValueError(f'The intercepts of {task} have numbers not finite.')
  found = {}
  for one, two in itertools.combinations(arrays, 2):
    cosines = cosine(arrays[one], arrays[two])
    found.setdefault(one, {})[two] = [finite(each) for each in cosines]
  return found


def finite(value) -> float | None:
  """Returns a number for JSON; None if it is not finite."""
  return float(value) if math.isfinite(value) else None


def to_dicts(tree):
  """Returns nested dictionaries whose estimates are as `to_dict` has them."""
  if isinstance(tree, Estimate):
    return tree.to_dict()
  return {name: to_dicts(each) for name, each in tree.items()}
