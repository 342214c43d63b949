"""Detectors at work: with a threshold, as probabilities, and for abstaining.

A detector gives every item a score; the positives, here the errors, are to have
the higher ones. `curves.py` has the area under the ROC and DeLong's interval,
for independent items; here intervals come from resampling clusters of items as
wholes, such as all questions about one entity.

Letters: n items, G distinct scores, R resamples.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
import dataclasses
import math

import numpy as np
from sklearn import metrics

from experiments.stats.curves import roc_points
from experiments.stats.intervals import Estimate, wilson
from experiments.stats.resampling import estimate
from experiments.stats.weighted import Tied, limits, resample

RESAMPLES = 1000
RULES = ('f1', 'youden')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reliability:
  """Says how well probabilities of being positive are meant.

  Attributes:
    ece: Expected calibration error: the mean over items of the distance, in
      their bin, between the mean probability and the share of positives. It is
      never negative, so that chance alone makes it large on few items.
    ece_calibrated: What it would be, by chance alone, were the probabilities
      those of independent items: of a bin's sum, normal with variance
      sum(p (1 - p)), the mean absolute value.
    brier: Mean squared distance of probabilities from 0 and 1.
    bins: Bins of about equally many items, the lowest probabilities first:
      'probability', their mean, and 'value', 'low', 'high', 'n', the share of
      positives with Wilson's interval.
  """

  ece: float
  ece_calibrated: float
  brier: float
  bins: list[dict]

  def to_dict(self) -> dict:
    """Returns a dict for JSON."""
    return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class RiskCoverage:
  """Holds what is wrong among the answers that are kept, the surest ones first.

  Attributes:
    coverage: float64 [n], the share kept: 1 / n to 1.
    risk: float64 [n], the share of positives among those; items with one score
      are taken in random order, and this is the expectation.
    aurc: The mean risk over all coverages.
    optimal: The least that an order could give: all positives last.
    random: What a random order gives: the share of positives.
  """

  coverage: np.ndarray
  risk: np.ndarray
  aurc: float
  optimal: float
  random: float


def average_precision(positive: np.ndarray, scores: np.ndarray) -> float:
  """Returns the area under precision and recall, by steps; see sklearn's."""
  positive, scores = _checked(positive, scores)
  return float(metrics.average_precision_score(positive, scores))


def choose_threshold(
  positive: np.ndarray, scores: np.ndarray, rule: str = 'f1', points: int = 100
) -> float:
  """Returns the threshold that is best on some data, to be used on other data.

  Args:
    positive: bool [n].
    scores: float [n]; at the threshold and above, an item counts as positive.
    rule: 'f1', the best F1 of `points` from the lowest to the highest score, as
      the code of arXiv 2411.14257 has it; or 'youden', the score with the
      largest difference between true and false positive rates.
    points: How many are tried for F1; the lowest of the best is taken.

  Raises:
    ValueError: an unknown rule, or see `curves.auroc`.
  """
  if rule not in RULES:
    raise ValueError(f'The rule is {rule!r}, expected one of {RULES}.')
  positive, scores = _checked(positive, scores)
  if rule == 'youden':
    false, true, thresholds = roc_points(positive, scores)
    # The first point is above all scores.
    return float(thresholds[1:][np.argmax((true - false)[1:])])
  tried = np.linspace(scores.min(), scores.max(), points)
  quality = [at_threshold(positive, scores, each)['f1'] for each in tried]
  return float(tried[np.argmax(quality)])


def at_threshold(
  positive: np.ndarray, scores: np.ndarray, threshold: float
) -> dict[str, float]:
  """'precision', 'recall' and 'f1'; 0 where there is nothing to divide by."""
  found = metrics.precision_recall_fscore_support(
    positive, scores >= threshold, average='binary', zero_division=0.0
  )
  return dict(
    zip(('precision', 'recall', 'f1'), map(float, found), strict=False)
  )


def reliability(
  positive: np.ndarray, probabilities: np.ndarray, bins: int = 15
) -> Reliability:
  """Calibration, over bins between quantiles of the probabilities.

  Args:
    positive: bool [n].
    probabilities: float [n] in [0, 1], of being positive.
    bins: How many; ties can leave some of them empty, which are left out.

  Raises:
    ValueError: a number is no probability, or shapes differ.
  """
  positive = np.asarray(positive)
  probabilities = np.asarray(probabilities, np.float64)
  if positive.dtype != bool or positive.shape != probabilities.shape:
    raise ValueError(
      f'Expected bool [n] and as many probabilities, got {positive.dtype} '
      f'{positive.shape} and {probabilities.shape}.'
    )
  if not ((probabilities >= 0) & (probabilities <= 1)).all():
    raise ValueError('Probabilities must be in [0, 1].')
  found, n, chance = [], len(positive), 0.0
  for mine in _bins(probabilities, bins):
    share, p = wilson(int(positive[mine].sum()), int(mine.sum())), probabilities
    found.append({'probability': float(p[mine].mean()), **share.to_dict()})
    chance += math.sqrt(2 / math.pi * (p[mine] * (1 - p[mine])).sum()) / n
  ece = sum(b['n'] * abs(b['probability'] - b['value']) for b in found) / n
  return Reliability(
    ece=ece,
    ece_calibrated=chance,
    brier=float(metrics.brier_score_loss(positive, probabilities)),
    bins=found,
  )


def risk_coverage(positive: np.ndarray, scores: np.ndarray) -> RiskCoverage:
  """Risk at every coverage, if the items of the highest scores go first.

  Args:
    positive: bool [n], what is a risk to keep.
    scores: float [n].
  """
  positive, scores = np.asarray(positive, bool), np.asarray(scores, np.float64)
  n, count = len(positive), int(positive.sum())
  if not n:
    raise ValueError('There is nothing to keep.')
  _, group = np.unique(scores, return_inverse=True)
  rates = np.bincount(group, weights=positive) / np.bincount(group)
  kept = np.arange(1, n + 1)
  risk = np.cumsum(rates[np.sort(group)]) / kept
  last = np.arange(1, count + 1)
  return RiskCoverage(
    coverage=kept / n,
    risk=risk,
    aurc=float(risk.mean()),
    optimal=float((last / (n - count + last)).sum() / n),
    random=count / n,
  )


def bootstrap(
  positive: np.ndarray,
  scores: np.ndarray,
  clusters: Sequence[Hashable],
  *,
  thresholds: Mapping[str, float] | None = None,
  probabilities: np.ndarray | None = None,
  seed: int = 0,
  resamples: int = RESAMPLES,
) -> dict[str, Estimate]:
  """Returns all numbers of a detector, with intervals over clusters.

  Args:
    positive: bool [n].
    scores: float [n].
    clusters: Names the cluster of each item.
    thresholds: Name -> a threshold that was chosen on other data.
    probabilities: float [n], of being positive, from other data.
    seed: The same resamples for the same seed and clusters.
    resamples: R.

  Returns:
    'auroc', 'average_precision', 'aurc'; for each threshold 'f1_NAME',
    'precision_NAME' and 'recall_NAME'; with probabilities 'brier' and 'ece'.
    Bounds are percentiles over the resamples that have both classes; NaN with
    fewer than two clusters. The ECE has none: in resamples the noise of the
    items comes once more, so that all of them can lie above the truth.

  Raises:
    ValueError: a class is empty, a score is not finite, or shapes differ.
  """
  positive, scores = _checked(positive, scores)
  values = {
    'auroc': float(metrics.roc_auc_score(positive, scores)),
    'average_precision': average_precision(positive, scores),
    'aurc': risk_coverage(positive, scores).aurc,
  }
  tied = Tied(positive, scores)
  parts: list[Callable[[np.ndarray], Mapping[str, np.ndarray]]] = [tied.areas]
  for name, threshold in (thresholds or {}).items():
    found = at_threshold(positive, scores, threshold)
    values |= {f'{key}_{name}': value for key, value in found.items()}
    chosen = scores >= threshold
    parts.append(
      lambda weights, chosen=chosen, name=name: {
        f'{key}_{name}': value
        for key, value in limits(weights, positive, chosen).items()
      }
    )
  if probabilities is not None:
    calibration = reliability(positive, probabilities)
    values |= {'brier': calibration.brier, 'ece': calibration.ece}
    squares = (np.asarray(probabilities, np.float64) - positive) ** 2
    parts.append(
      lambda weights: {'brier': weights @ squares / weights.sum(axis=1)}
    )
  drawn = {name: [] for name in values}
  for weights in resample(positive, clusters, seed, resamples):
    for part in parts:
      for name, found in part(weights).items():
        drawn[name].append(found)
  return {
    name: estimate(value, _joined(drawn[name]), len(positive))
    for name, value in values.items()
  }


def auroc_by_cluster(
  positive: np.ndarray,
  scores: np.ndarray,
  clusters: Sequence[Hashable],
  *,
  seed: int = 0,
  resamples: int = RESAMPLES,
) -> Estimate:
  """Returns the AUROC alone, with the interval that `bootstrap` has."""
  positive, scores = _checked(positive, scores)
  tied = Tied(positive, scores)
  drawn = [
    tied.auroc(weights)
    for weights in resample(positive, clusters, seed, resamples)
  ]
  value = float(metrics.roc_auc_score(positive, scores))
  return estimate(value, _joined(drawn), len(positive))


def auroc_difference(
  positive: np.ndarray,
  scores: np.ndarray,
  others: np.ndarray,
  clusters: Sequence[Hashable],
  *,
  seed: int = 0,
  resamples: int = RESAMPLES,
) -> Estimate:
  """Returns the AUROC of `scores` less that of `others`, on the same items."""
  positive, scores = _checked(positive, scores)
  _, others = _checked(positive, others)
  value = metrics.roc_auc_score(positive, scores) - metrics.roc_auc_score(
    positive, others
  )
  a, b = Tied(positive, scores), Tied(positive, others)
  drawn = [
    a.auroc(weights) - b.auroc(weights)
    for weights in resample(positive, clusters, seed, resamples)
  ]
  return estimate(value, _joined(drawn), len(positive))


def _checked(positive, scores) -> tuple[np.ndarray, np.ndarray]:
  """Returns both as bool and float64 [n]; raises as `curves.auroc` does."""
  roc_points(positive, scores)
  return np.asarray(positive), np.asarray(scores, np.float64)


def _bins(probabilities: np.ndarray, bins: int) -> list[np.ndarray]:
  """bool [n] for each bin that has an item, edges as sklearn's quantiles."""
  edges = np.percentile(probabilities, np.linspace(0, 100, bins + 1))
  which = np.searchsorted(edges[1:-1], probabilities)
  return [which == i for i in range(bins) if (which == i).any()]


def _joined(drawn: Sequence[np.ndarray]) -> np.ndarray:
  """Chunks of resamples as one; with one cluster there are none."""
  return np.concatenate(drawn) if drawn else np.empty(0)
