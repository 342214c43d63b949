"""One reader's scores of the same entities in two models, compared.

Letters: n prompts, R resamples.
"""

from collections.abc import Sequence

import numpy as np
from sklearn import metrics

from experiments.refusal_tuning.asked import Asked, check_classes
from experiments.stats.detection import auroc_by_cluster, auroc_difference
from experiments.stats.intervals import Estimate, wilson_by_cluster
from experiments.stats.ranks import spearman


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


def _jaccard(both, either, units) -> Estimate:
  """Returns the share of what fires in one model that fires in both."""
  mine = np.flatnonzero(either)
  return wilson_by_cluster(both[mine], [units[i] for i in mine])
