"""How well a score tells two classes apart, whatever the threshold.

The AUROC is the chance that a random positive has a higher score than a random
negative; ties count one half. Letters: m positives, n negatives.
"""

from collections.abc import Sequence
import dataclasses
import math

import numpy as np
from scipy import optimize, special, stats
from sklearn import metrics

CONFIDENCE = 0.95


@dataclasses.dataclass(frozen=True, kw_only=True)
class AUROC:
  """An area under the ROC curve, and its 95 % interval.

  Attributes:
    value: The area.
    low, high: Bounds.
    num_positive: m; of a mean, over all its parts.
    num_negative: n; likewise.
  """

  value: float
  low: float
  high: float
  num_positive: int
  num_negative: int

  def to_dict(self) -> dict:
    """Returns a dict for JSON."""
    return {
      'value': self.value,
      'low': self.low,
      'high': self.high,
      'n': self.num_positive + self.num_negative,
      'n_positive': self.num_positive,
      'n_negative': self.num_negative,
    }


def auroc(positive: np.ndarray, scores: np.ndarray) -> AUROC:
  """Returns the area with an interval.

  The variance is that of DeLong, DeLong and Clarke-Pearson (1988), computed
  from midranks; the interval is symmetric on the logit scale, so that it stays
  inside (0, 1). Where that variance is 0 (classes that do not overlap, a score
  that never varies) or a class has one member, the interval is Newcombe's
  method 5 (Statistics in Medicine 25:559, 2006), which has a width even there.

  Args:
    positive: bool [m + n], what is to be found.
    scores: float [m + n], higher for positives.

  Raises:
    ValueError: a class is empty, a score is not finite, or shapes differ.
  """
  positive, scores = _checked(positive, scores)
  x, y = scores[positive], scores[~positive]
  m, n = len(x), len(y)
  ranks = stats.rankdata(scores)
  # The share of negatives below each positive, and of positives above each
  # negative.
  below = (ranks[positive] - stats.rankdata(x)) / n
  above = 1 - (ranks[~positive] - stats.rankdata(y)) / m
  value = float(below.mean())
  variance = 0.0
  if min(m, n) > 1:
    variance = below.var(ddof=1) / m + above.var(ddof=1) / n
  if variance > 0 and 0 < value < 1:
    centre = special.logit(value)
    margin = _z() * math.sqrt(variance) / (value * (1 - value))
    low, high = special.expit(centre - margin), special.expit(centre + margin)
  else:
    low, high = _score_interval(value, m, n)
  return AUROC(
    value=value,
    low=float(low),
    high=float(high),
    num_positive=m,
    num_negative=n,
  )


def mean_auroc(parts: Sequence[AUROC]) -> AUROC:
  """Returns the mean of areas over disjoint sets, such as types of entities.

  Its interval comes from theirs by the method of variance estimates recovery
  (Zou and Donner, Statistics in Medicine 27:1693, 2008), which keeps them
  asymmetric.
  """
  if not parts:
    raise ValueError('There is no AUROC to take the mean of.')
  value = sum(part.value for part in parts) / len(parts)
  down = math.hypot(*(part.value - part.low for part in parts)) / len(parts)
  up = math.hypot(*(part.high - part.value for part in parts)) / len(parts)
  return AUROC(
    value=value,
    low=max(0.0, value - down),
    high=min(1.0, value + up),
    num_positive=sum(part.num_positive for part in parts),
    num_negative=sum(part.num_negative for part in parts),
  )


def roc_points(
  positive: np.ndarray, scores: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns the corners of the ROC curve.

  Args:
    positive: bool [m + n].
    scores: float [m + n].

  Returns:
    False positive rates, true positive rates, and the thresholds that give
    them (a score at the threshold counts as positive), from (0, 0) to (1, 1).

  Raises:
    ValueError: see `auroc`.
  """
  positive, scores = _checked(positive, scores)
  return metrics.roc_curve(positive, scores)


def _checked(positive, scores) -> tuple[np.ndarray, np.ndarray]:
  positive, scores = np.asarray(positive), np.asarray(scores, np.float64)
  if (
    positive.dtype != bool
    or positive.shape != scores.shape
    or (positive.ndim != 1)
  ):
    raise ValueError(
      f'Expected bool [n] and as many scores, got {positive.dtype} '
      f'{positive.shape} and scores {scores.shape}.'
    )
  m = int(positive.sum())
  if m in (0, len(positive)):
    raise ValueError(
      f'There are {m} positives and {len(positive) - m} negatives; an AUROC '
      'needs both. Give more data, or leave this set out.'
    )
  bad = ~np.isfinite(scores)
  if bad.any():
    raise ValueError(
      f'Score {int(bad.argmax())} of {len(scores)} is {scores[bad][0]}; '
      'scores must be finite.'
    )
  return positive, scores


def _z() -> float:
  return float(special.ndtri((1 + CONFIDENCE) / 2))


def _score_interval(value: float, m: int, n: int) -> tuple[float, float]:
  """Areas that are not rejected, each tested with its own variance."""
  others = (m + n) / 2 - 1

  def excess(area):
    spread = (1 - area) / (2 - area) + area / (1 + area)
    variance = area * (1 - area) / (m * n) * (1 + others * spread)
    return abs(area - value) - _z() * math.sqrt(variance)

  edge = 1e-12  # at 0 and 1 the variance is 0

  def bound(end):
    inner = abs(end - edge)
    if excess(inner) <= 0:
      return float(end)
    return optimize.brentq(excess, np.clip(value, edge, 1 - edge), inner)

  return bound(0), bound(1)
