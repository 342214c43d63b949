"""The bootstrap for many numbers at once, from one set of resamples.

What is resampled are units that are independent of each other, such as entities
with all questions about them. A resample is how often each unit was drawn, so
that sums over resamples are products of matrices; heads, windows and measures
share them, and their differences have intervals too. One mean alone is
`intervals.cluster_bootstrap_mean`.

Letters: n observations, U units, R resamples, m columns.
"""

from collections.abc import Hashable, Sequence
import math

import numpy as np

from experiments.stats.intervals import (
  CONFIDENCE,
  RESAMPLES,
  Estimate,
  number_units,
)

# The share of resamples that a 95 % interval leaves outside.
_OUTSIDE = 1 - CONFIDENCE


def first_of_units(units: Sequence[Hashable]) -> np.ndarray:
  """int [U], the first observation of each unit."""
  return np.unique(number_units(units)[0], return_index=True)[1]


def draw(
  units: int, rng: np.random.Generator, resamples: int = RESAMPLES
) -> np.ndarray:
  """float64 [R, U], how often each of U units is in each resample."""
  share = np.full(units, 1 / units)
  return rng.multinomial(units, share, size=resamples).astype(float)


def bounds(values: np.ndarray) -> np.ndarray:
  """[2, ...], the interval's percentiles over the first axis of [R, ...]."""
  return np.quantile(values, [_OUTSIDE / 2, 1 - _OUTSIDE / 2], axis=0)


def estimate(value: float, resampled: np.ndarray, n: int) -> Estimate:
  """Returns a value with its percentile interval.

  Resamples [R] without a value (NaN) are left out; if they are more than an
  interval leaves outside, or there are none, there are no bounds.
  """
  low = high = math.nan
  found = resampled[~np.isnan(resampled)]
  missing = len(resampled) - len(found)
  if len(found) and missing <= _OUTSIDE * len(resampled):
    if not math.isnan(value):
      low, high = bounds(found)
  return Estimate(value=float(value), low=float(low), high=float(high), n=n)


def mean_by_unit(
  values: np.ndarray, units: Sequence[Hashable]
) -> tuple[np.ndarray, list[Hashable]]:
  """Means [U, ...] of the observations [n, ...] of each unit, and the units."""
  totals, sizes, names = _totals(values, units)
  return totals / sizes.reshape(-1, *[1] * (totals.ndim - 1)), names


def cluster_bootstrap_means(
  values: np.ndarray, units: Sequence[Hashable], seed: int = 0
) -> list[Estimate]:
  """Means of the columns of values [n, m], resampling units as wholes.

  Args:
    values: Finite numbers, one row per observation.
    units: Units of each row.
    seed: Random seed of the resamples.

  Returns:
    m estimates; bounds are NaN with fewer than two units.
  """
  values = np.asarray(values, float)
  totals, sizes, names = _totals(values, units)
  low = high = np.full(values.shape[1], np.nan)
  if len(names) > 1:
    counts = draw(len(names), np.random.default_rng(seed))
    low, high = bounds((counts @ totals) / (counts @ sizes)[:, None])
  return _estimates(values.mean(axis=0), low, high, len(values))


def crossed_bootstrap(
  values: np.ndarray, units: Sequence[Hashable], seed: int = 0
) -> Estimate:
  """Returns the mean of values [C, n], resampling both rows and units.

  Rows, such as random controls, are a sample as well as the units of the
  columns, such as entities: an interval that left one of them fixed would hold
  for these controls, or these entities, only.

  Args:
    values: One row per control, one column per observation.
    units: Unit of each column.
    seed: Random seed of the resamples.
  """
  values = np.asarray(values, float)
  which, names = number_units(units)
  rng = np.random.default_rng(seed)
  rows, columns = draw(len(values), rng), draw(len(names), rng)[:, which]
  resampled = (rows @ values * columns).sum(1)
  resampled /= rows.sum(1) * columns.sum(1)
  if len(names) < 2 or len(values) < 2:
    resampled[:] = np.nan
  return estimate(values.mean(), resampled, values.shape[1])


def differences_of_means(
  a: np.ndarray, b: np.ndarray, seed: int = 0
) -> list[Estimate]:
  """Column means of a [U, m] less those of b [V, m], rows being independent.

  Args:
    a, b: At least two rows each.
    seed: Random seed of the resamples.
  """
  rng = np.random.default_rng(seed)
  first, second = (draw(len(x), rng) @ x / len(x) for x in (a, b))
  low, high = bounds(first - second)
  means = a.mean(axis=0) - b.mean(axis=0)
  return _estimates(means, low, high, len(a) + len(b))


def _totals(values, units):
  values = np.asarray(values, float)
  if len(values) != len(units):
    raise ValueError(f'{len(values)} values are of {len(units)} units.')
  which, names = number_units(units)
  totals = np.zeros((len(names), *values.shape[1:]))
  np.add.at(totals, which, values)
  return totals, np.bincount(which, minlength=len(names)).astype(float), names


def _estimates(values, low, high, n) -> list[Estimate]:
  return [
    Estimate(value=float(v), low=float(a), high=float(b), n=n)
    for v, a, b in zip(values, low, high, strict=True)
  ]
