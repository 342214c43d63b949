"""Intervals of many means at once, from one set of resamples.

The same as `stats.intervals.cluster_bootstrap_mean` for each column; hundreds
of windows, heads and measures share the units that are resampled.
"""

from collections.abc import Hashable, Sequence

import numpy as np

from experiments.stats.intervals import CONFIDENCE, RESAMPLES, Estimate


def mean_by_unit(
  values: np.ndarray, units: Sequence[Hashable]
) -> tuple[np.ndarray, list[Hashable]]:
  """Means [U, ...] of the observations [n, ...] of each unit, and the units."""
  names = list(dict.fromkeys(units))
  totals, sizes = _totals(values, units, names)
  return totals / sizes.reshape(-1, *[1] * (totals.ndim - 1)), names


def cluster_bootstrap_means(
  values: np.ndarray, units: Sequence[Hashable], seed: int = 0
) -> list[Estimate]:
  """Means of the columns of values [n, m], resampling units as wholes.

  Args:
    values: Finite numbers, one row per observation.
    units: Of each row; they are independent of each other.
    seed: Of the resamples.

  Returns:
    m estimates; bounds are NaN with fewer than two units.
  """
  values = np.asarray(values, float)
  names = list(dict.fromkeys(units))
  totals, sizes = _totals(values, units, names)
  low = high = np.full(values.shape[1], np.nan)
  if len(names) > 1:
    U = len(names)
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(U, np.full(U, 1 / U), size=RESAMPLES)
    means = (counts @ totals) / (counts @ sizes)[:, None]
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(means, [tail, 1 - tail], axis=0)
  means = values.mean(axis=0)
  return [
    Estimate(value=float(m), low=float(a), high=float(b), n=len(values))
    for m, a, b in zip(means, low, high, strict=True)
  ]


def differences_of_means(
  a: np.ndarray, b: np.ndarray, seed: int = 0
) -> list[Estimate]:
  """Column means of a [U, m] less those of b [V, m], rows being independent.

  Args:
    a, b: At least two rows each.
    seed: Of the resamples.
  """
  rng = np.random.default_rng(seed)
  draws = []
  for x in (a, b):
    U = len(x)
    counts = rng.multinomial(U, np.full(U, 1 / U), size=RESAMPLES)
    draws.append(counts @ x / U)
  tail = (1 - CONFIDENCE) / 2
  low, high = np.quantile(draws[0] - draws[1], [tail, 1 - tail], axis=0)
  means = a.mean(axis=0) - b.mean(axis=0)
  n = len(a) + len(b)
  return [
    Estimate(value=float(m), low=float(x), high=float(y), n=n)
    for m, x, y in zip(means, low, high, strict=True)
  ]


def _totals(values, units, names):
  values = np.asarray(values, float)
  if len(values) != len(units):
    raise ValueError(f'{len(values)} values are of {len(units)} units.')
  numbers = {name: i for i, name in enumerate(names)}
  totals = np.zeros((len(names), *values.shape[1:]))
  which = np.array([numbers[unit] for unit in units], int)
  np.add.at(totals, which, values)
  return totals, np.bincount(which, minlength=len(names)).astype(float)
