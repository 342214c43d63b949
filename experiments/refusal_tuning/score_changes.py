"""One reader's scores of the same entities in two models, compared.

Letters: n prompts, R resamples.
"""

from collections.abc import Hashable, Sequence

import numpy as np
from scipy import stats
from sklearn import metrics

from experiments.refusal_tuning.asked import Asked, check_classes
from experiments.stats.detection import auroc_by_cluster, auroc_difference
from experiments.stats.intervals import (
  Estimate,
  number_units,
  wilson_by_cluster,
)
from experiments.stats.resampling import draw, estimate


def compare_scores(
  before: np.ndarray,
  after: np.ndarray,
  asked: Asked,
  label: str,
  *,
  fires: Sequence[np.ndarray],
  seed: int = 0,
) -> dict:
  """Compares two models' scores of the same entities.

  Args:
    before: float [n].
    after: float [n].
    asked: n prompts.
    label: 'known' or 'unknown': the class that has the higher scores.
    fires: bool [n] of each model.
    seed: Random seed of the resamples.

  Returns:
    'auroc' 'before', 'after' and its 'change', of the label against the other
    class; 'rates': 'before' and 'after' -> 'known' and 'unknown', the shares of
    prompts it fires on; 'spearman', of both models' scores; 'jaccard', of the
    sets it fires on; and 'jaccard_by_chance', were firing after independent of
    firing before, at these rates. Intervals resample entities.

  Raises:
    ValueError: a class is empty.
  """
  check_classes(asked, 'the compared entities')
  positive = asked.known == (label == 'known')
  units = asked.entities
  both = np.minimum(*fires), np.maximum(*fires)
  p, q = (each.mean() for each in fires)
  either = p + q - p * q
  change = auroc_difference(positive, after, before, units, seed=seed)
  return {
    'auroc': {
      'before': auroc_by_cluster(positive, before, units, seed=seed).to_dict(),
      'after': auroc_by_cluster(positive, after, units, seed=seed).to_dict(),
      'change': change.to_dict(),
    },
    'rates': {
      when: {
        name: wilson_by_cluster(
          fire[mine], [units[i] for i in np.flatnonzero(mine)]
        ).to_dict()
        for name, mine in (('known', asked.known), ('unknown', ~asked.known))
      }
      for when, fire in zip(('before', 'after'), fires, strict=True)
    },
    'spearman': spearman(before, after, units, seed).to_dict(),
    'jaccard': _jaccard(*both, units).to_dict(),
    'jaccard_by_chance': float(p * q / either) if either else None,
  }


def values_alone(before, after, asked, label, *, fires) -> dict:
  """Returns what `compare_scores` does, without intervals and rates."""
  positive = asked.known == (label == 'known')
  either = np.maximum(*fires).sum()
  one = ('',) * len(asked)
  rho = spearman(before, after, one).value
  return {
    'auroc': {
      'before': float(metrics.roc_auc_score(positive, before)),
      'after': float(metrics.roc_auc_score(positive, after)),
    },
    'spearman': None if np.isnan(rho) else rho,
    'jaccard': float(np.minimum(*fires).sum() / either) if either else None,
  }


def spearman(
  a: np.ndarray, b: np.ndarray, units: Sequence[Hashable], seed: int = 0
) -> Estimate:
  """Returns Spearman's rho, resampling units; NaN where one is constant.

  Resamples weigh the ranks that all items have.
  """
  ranks = np.stack([stats.rankdata(x) for x in (a, b)])
  which, names = number_units(units)
  counts = draw(len(names), np.random.default_rng(seed))[:, which]
  if len(names) < 2:
    counts[:] = np.nan
  whole = _correlation(np.ones((1, len(which))), *ranks)[0]
  return estimate(whole, _correlation(counts, *ranks), len(which))


def _correlation(weights, x, y) -> np.ndarray:
  """[R], Pearson's r of x and y [n] under weights [R, n]; NaN if constant."""
  total = weights.sum(1)
  mean = lambda values: weights @ values / total
  variances = [mean(v * v) - mean(v) ** 2 for v in (x, y)]
  covariance = mean(x * y) - mean(x) * mean(y)
  product = variances[0] * variances[1]
  # What rounding leaves of a constant is no variance.
  able = product > 1e-12 * len(x) ** 4
  root = np.sqrt(np.where(able, product, 1))
  return np.where(able, np.clip(covariance / root, -1, 1), np.nan)


def _jaccard(both, either, units) -> Estimate:
  """The share of what fires in one model that fires in both."""
  mine = np.flatnonzero(either)
  return wilson_by_cluster(both[mine], [units[i] for i in mine])
