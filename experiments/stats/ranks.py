"""Spearman's rank correlation, with intervals that resample units.

Letters: n observations, U units, R resamples, C cells.
"""

from collections.abc import Hashable, Sequence

import numpy as np
from scipy import stats

from experiments.stats.intervals import RESAMPLES, Estimate, number_units
from experiments.stats.resampling import draw, estimate


def spearman(
  a: np.ndarray,
  b: np.ndarray,
  units: Sequence[Hashable] | None = None,
  seed: int = 0,
  resamples: int = RESAMPLES,
) -> Estimate:
  """Returns Spearman's rho of two float [n].

  It is NaN where one of them never varies. A resample is ranked by itself.

  Args:
    a, b: The values; ties share their mean rank.
    units: The unit of each observation; None takes each as a unit.
    seed: Random seed of the resamples.
    resamples: How many there are.
  """
  which, names = number_units(range(len(a)) if units is None else units)
  whole = _correlation(np.ones((1, len(a))), a, b)[0]
  found = np.array([])
  if len(names) > 1:
    counts = draw(len(names), np.random.default_rng(seed), resamples)
    found = _correlation(counts[:, which], a, b)
  return estimate(whole, found, len(a))


def spearman_of_means(
  a: np.ndarray, b: np.ndarray, seed: int = 0, resamples: int = RESAMPLES
) -> Estimate:
  """Returns Spearman's rho, over cells, of means over units.

  Args:
    a, b: float [U, C]. With fewer than three cells it is NaN.
    seed: Random seed of the resamples of units, which both share.
    resamples: How many there are.
  """
  U, C = a.shape
  if C < 3:
    return estimate(np.nan, np.array([]), U)

  def rho(counts):
    ranks = [stats.rankdata(counts @ x, axis=1) for x in (a, b)]
    return _pearson(np.ones((len(counts), C)), *ranks)

  found = np.array([])
  if U > 1:
    found = rho(draw(U, np.random.default_rng(seed), resamples))
  return estimate(rho(np.ones((1, U)))[0], found, U)


def _correlation(counts, a, b) -> np.ndarray:
  """Spearman's rho [R] of a and b [n] that are repeated counts [R, n] times."""
  return _pearson(counts, _ranks(counts, a), _ranks(counts, b))


def _ranks(counts, values) -> np.ndarray:
  """Mean ranks [R, n] of values [n] that are repeated counts [R, n] times."""
  found, group = np.unique(values, return_inverse=True)
  sizes = counts @ (group[:, None] == np.arange(len(found)))
  return (np.cumsum(sizes, axis=1) - (sizes - 1) / 2)[:, group]


def _pearson(counts, x, y) -> np.ndarray:
  """Pearson's r [R] of x and y [R, n] that are repeated counts [R, n] times."""
  total = counts.sum(1, keepdims=True)
  x, y = (v - (counts * v).sum(1, keepdims=True) / total for v in (x, y))
  size = np.sqrt((counts * x * x).sum(1) * (counts * y * y).sum(1))
  able = size > 0
  return np.divide(
    (counts * x * y).sum(1), size, out=np.full(len(size), np.nan), where=able
  )
