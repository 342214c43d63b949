"""From attention per prompt to numbers per head.

Units are entities: prompts of one entity are averaged before anything else, and
n counts entities. A head's change is compared with two things.

  other prompts   sign flips of units, max-T over heads and false discovery
                  rate: is the change, less the mean change under the random
                  latents, other than 0?
  other latents   the latent among its random controls: does it change the head
                  further than they do? The adjusted p-value compares it with
                  the largest of all heads under each of them.

The first asks whether this latent does something of its own to a head, which
any fixed direction does, given prompts enough. The second is the one that says
whether it is special, and no number of prompts makes up for few controls.
"""

from collections.abc import Sequence
import math

import numpy as np
from scipy import stats

from experiments.attention.entity_attention import KEYS, MEASURES
from experiments.attention.shifts import Shift
from experiments.stats.intervals import Estimate
from experiments.stats.multiplicity import (
  ALPHA,
  holm,
  max_t_permutation,
  max_t_two_samples,
)
from experiments.stats.paired import benjamini_hochberg
from experiments.stats.resampling import (
  cluster_bootstrap_means,
  differences_of_means,
  mean_by_unit,
)

# Adding a latent of a label is to move attention this way.
EXPECTED = {'known': 1, 'unknown': -1}


def compare_classes(
  known: Shift, unknown: Shift, *, seed: int = 0
) -> list[dict]:
  """Compares attention to known and to unknown entities, for all measures.

  Args:
    known, unknown: What was measured; nothing that was added is looked at.
    seed: Random seed of resamples and permutations.

  Returns:
    Per measure and keys the test as a whole and its heads, each with both
    means, their difference, and p-values.
  """
  found = []
  for m, a in np.ndindex(len(MEASURES), len(KEYS)):
    values, per_unit = {}, {}
    for label, shift in (('known', known), ('unknown', unknown)):
      x = shift.before[:, :, m, a].reshape(len(shift.cases), -1)  # [C, LN]
      units = [case.unit for case in shift.cases]
      per_unit[label] = mean_by_unit(x, units)[0]
      values[label] = _means(per_unit[label], seed)
    joined = np.concatenate([per_unit['known'], per_unit['unknown']])
    is_known = np.arange(len(joined)) < len(per_unit['known'])
    test = max_t_two_samples(joined, is_known, seed=seed)
    p = _welch_p(per_unit['known'], per_unit['unknown'])
    q = benjamini_hochberg(p)
    difference = differences_of_means(
      per_unit['known'], per_unit['unknown'], seed
    )
    heads = [
      {
        **_head(i, known.before.shape[-1], 0),
        'known': values['known'][i].to_dict(),
        'unknown': values['unknown'][i].to_dict(),
        'difference': difference[i].to_dict(),
        't': test.t[i],
        'p_max_t': test.p_adjusted[i],
        'q': q[i],
      }
      for i in range(joined.shape[1])
    ]
    found.append(
      {'measure': MEASURES[m], 'keys': KEYS[a], **test.to_dict()}
      | {'heads': heads}
    )
  return found


def summarise_shift(
  shift: Shift, *, seed: int = 0, reference: bool = False
) -> list[dict]:
  """Returns what adding a latent changes, for all measures.

  Args:
    shift: What was measured, with a target.
    seed: Random seed of resamples and permutations.
    reference: True to add the published test.

  Returns:
    Per measure and keys: all heads that can change, and their 'mean'.
  """
  changes, target = shift.changes, shift.target
  units = [case.unit for case in shift.cases]
  found = []
  for m, a in np.ndindex(len(MEASURES), len(KEYS)):
    x = changes[:, :, :, m, a]  # [C, 1 + R, L', N]
    N = x.shape[-1]
    flat = x.reshape(*x.shape[:2], -1)  # [C, 1 + R, L'N]
    entry = {
      'target': target.label,
      'prompts': shift.cases[0].entity_class,
      'measure': MEASURES[m],
      'keys': KEYS[a],
      'expected': EXPECTED[target.label],
      'num_controls': len(target.controls),
    }
    whole = flat.mean(axis=2, keepdims=True)
    (entry['mean'],), _ = _cells(whole, units, seed)
    cells, tests = _cells(flat, units, seed)
    entry |= tests
    entry['heads'] = [
      _head(i, N, shift.first) | cell for i, cell in enumerate(cells)
    ]
    if reference and len(target.controls):
      entry['reference'] = welch_flattened(flat, EXPECTED[target.label])
    found.append(entry)
  return found


def among_random(
  latent: np.ndarray, random: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Returns how often random latents change a cell as far as the latent does.

  Changes are standardised per cell over the latent and its controls together,
  so that all of them are exchangeable if the latent is not special.

  Args:
    latent: float [m], mean changes of cells by the latent.
    random: float [R, m], mean changes by its controls.

  Returns:
    p-values [m], cell by cell; and adjusted, against each control's cell that
    stands out most. At least 1 / (R + 1). NaN where nothing changes.
  """
  both = np.concatenate([latent[None], random])  # [1 + R, m]
  spread = both.std(axis=0)
  scale = np.where(spread > 1e-12 * np.abs(both).max(initial=1), spread, np.nan)
  size = np.abs(both - both.mean(axis=0)) / scale
  # Rounding must not break ties.
  as_far = size >= size[0] * (1 - 1e-9)
  largest = np.where(np.isnan(size), -np.inf, size).max(axis=1, keepdims=True)
  beyond = largest >= size[0] * (1 - 1e-9)
  p, adjusted = as_far.mean(axis=0), beyond.mean(axis=0)
  nothing = np.isnan(scale)
  p[nothing] = adjusted[nothing] = np.nan
  return p, adjusted


def welch_flattened(changes: np.ndarray, expected: int) -> dict:
  """Runs the published test: prompts times heads are independent samples.

  One-tailed Welch tests of the latent against each random latent (paper.md,
  10.1 no. 13). Heads of one prompt are anything but independent, so that its
  p-values are far too small.

  Args:
    changes: [C, 1 + R, m], changes by the latent, then by its controls.
    expected: 1 or -1, the sign of the expected change.
  """
  side = 'greater' if expected > 0 else 'less'
  latent = changes[:, 0].ravel()
  p_values = [
    float(
      stats.ttest_ind(
        latent, changes[:, r].ravel(), equal_var=False, alternative=side
      ).pvalue
    )
    for r in range(1, changes.shape[1])
  ]
  return {
    'rejections': sum(p < ALPHA for p in p_values),
    'of': len(p_values),
    'samples': latent.size,
    'p_values': p_values,
  }


def _cells(x: np.ndarray, units: Sequence, seed: int):
  """Returns numbers of each cell of x [C, 1 + R, m], and the whole tests."""
  means = mean_by_unit(x, units)[0]  # [U, 1 + R, m]
  latent, random = means[:, 0], means[:, 1:]
  change = _means(latent, seed)
  moved = np.ptp(latent, axis=0) > 0
  own = latent - random.mean(axis=1) if random.shape[1] else latent
  own = np.where(moved, own, np.nan)
  tests, p_max, q, holms, t = {}, *[[None] * x.shape[2]] * 4
  if len(own) > 1 and moved.any():
    test = max_t_permutation(own, seed=seed)
    p = [_none(value) for value in _one_sample_p(own)]
    tests = {'prompts_test': test.to_dict()}
    q, holms = benjamini_hochberg(p), holm(p)
    p_max, t = test.p_adjusted, test.t
  alone = adjusted = np.full(x.shape[2], np.nan)
  if random.shape[1]:
    alone, adjusted = among_random(latent.mean(axis=0), random.mean(axis=0))
    tests['latents_test'] = {
      'controls': random.shape[1],
      'significant': int((adjusted <= ALPHA).sum()),
      'smallest_p': 1 / (1 + random.shape[1]),
    }
  spread = random.mean(axis=0)  # [R, m]
  cells = [
    {
      'change': change[i].to_dict(),
      'random': _spread(spread[:, i]),
      'p_random': _none(alone[i]),
      'p_random_max': _none(adjusted[i]),
      't': _none(t[i]),
      'p_max_t': _none(p_max[i]),
      'p_holm': holms[i],
      'q': q[i],
    }
    for i in range(x.shape[2])
  ]
  return cells, tests


def _means(x: np.ndarray, seed: int) -> list[Estimate]:
  """Returns means of the columns of x [U, m], whose rows are independent."""
  return cluster_bootstrap_means(x, range(len(x)), seed)


def _spread(values: np.ndarray) -> dict | None:
  if not len(values):
    return None
  low, high = np.quantile(values, [0.025, 0.975])
  return {
    'mean': float(values.mean()),
    'low': float(low),
    'high': float(high),
    'min': float(values.min()),
    'max': float(values.max()),
    'n': len(values),
  }


def _head(i: int, heads: int, first: int) -> dict:
  layer, head = divmod(i, heads)
  layer += first
  return {'name': f'L{layer}H{head}', 'layer': layer, 'head': head}


def _welch_p(a, b) -> list[float | None]:
  with np.errstate(all='ignore'):
    p = stats.ttest_ind(a, b, equal_var=False).pvalue
  return [_none(value) for value in p]


def _one_sample_p(x) -> np.ndarray:
  with np.errstate(all='ignore'):
    return stats.ttest_1samp(x, 0.0).pvalue


def _none(value) -> float | None:
  """Returns a number, or None for what is not finite."""
  if value is None or not math.isfinite(value):
    return None
  return float(value)
