"""Numbers of a detector for many resamples at once.

A resample is a weight per item: how often it was drawn. scikit-learn takes one
at a time; here a thousand cost as much as a few.

Letters: n items, G distinct scores, R resamples.
"""

from collections.abc import Hashable, Iterator, Sequence

import numpy as np
from scipy import special

from experiments.stats.intervals import number_units
from experiments.stats.resampling import draw

# Numbers in memory at once.
_CHUNK = 2**21


def resample(
  positive: np.ndarray,
  clusters: Sequence[Hashable],
  seed: int,
  resamples: int,
) -> Iterator[np.ndarray]:
  """Chunks of weights [r, n]: how often each item is in a resample."""
  if len(clusters) != len(positive):
    raise ValueError(f'{len(positive)} items are in {len(clusters)} clusters.')
  which, names = number_units(clusters)
  if len(names) < 2:
    return
  rng = np.random.default_rng(seed)
  size = max(1, _CHUNK // len(which))
  for start in range(0, resamples, size):
    weights = draw(len(names), rng, min(size, resamples - start))[:, which]
    found = weights @ positive
    yield weights[(found > 0) & (found < weights.sum(axis=1))]


class Tied:
  """Items by falling score, those of one score together."""

  def __init__(self, positive: np.ndarray, scores: np.ndarray):
    self._order = np.argsort(-scores, kind='stable')
    ordered = scores[self._order]
    self._starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    self._positive = positive[self._order]

  def auroc(self, weights: np.ndarray) -> np.ndarray:
    """float64 [R], for weights [R, n] of the items."""
    return _auroc(*self._groups(weights))

  def areas(self, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Three areas, float64 [R] each, for weights [R, n] of the items."""
    every, yes = self._groups(weights)
    P, N = yes.sum(axis=1), (every - yes).sum(axis=1)
    above_yes, above = np.cumsum(yes, axis=1), np.cumsum(every, axis=1)
    precision = _divide(above_yes, above)
    # The surest first: what is below a group is kept before it.
    before = (P + N)[:, None] - above
    wrong = P[:, None] - above_yes
    rate = _divide(yes, every)
    # sum over j = 1 .. every of (wrong + j rate) / (before + j)
    harmonic = special.digamma(before + every + 1) - special.digamma(before + 1)
    risk = rate * every + (wrong - rate * before) * harmonic
    return {
      'auroc': _auroc(every, yes),
      'average_precision': (yes * precision).sum(axis=1) / P,
      'aurc': risk.sum(axis=1) / (P + N),
    }

  def _groups(self, weights) -> tuple[np.ndarray, np.ndarray]:
    """Items, and positives among them, of each score: [R, G]."""
    weights = weights[:, self._order]
    return (
      np.add.reduceat(weights, self._starts, axis=1),
      np.add.reduceat(weights * self._positive, self._starts, axis=1),
    )


def _auroc(every: np.ndarray, yes: np.ndarray) -> np.ndarray:
  no = every - yes
  P, N = yes.sum(axis=1), no.sum(axis=1)
  lower = N[:, None] - np.cumsum(no, axis=1)
  return (yes * (lower + no / 2)).sum(axis=1) / (P * N)


def limits(
  weights: np.ndarray, positive: np.ndarray, chosen: np.ndarray
) -> dict[str, np.ndarray]:
  """Precision, recall and F1, float64 [R] each, of the items `chosen`."""
  hits = weights @ (positive & chosen)
  said, there = weights @ chosen, weights @ positive
  return {
    'precision': _divide(hits, said),
    'recall': _divide(hits, there),
    'f1': _divide(2 * hits, said + there),
  }


def _divide(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
  """0 where there is nothing to divide by."""
  part = np.asarray(part, np.float64)
  return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0)
