"""Proportions and means with 95 % intervals, in the form results.json has them.

The sampling unit matters more than the formula. Questions about one entity
stand or fall together, so where several share an entity, resample entities
(`cluster_bootstrap_mean`) and read Wilson's interval as that of exactly these
questions.
"""

from collections import Counter
from collections.abc import Hashable, Sequence
import dataclasses
import functools
import math
from typing import Self

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
RESAMPLES = 2000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
  """A number, its 95 % interval and what it was computed from.

  Attributes:
    value: The estimate; NaN where there is nothing to estimate it from.
    low, high: Bounds of the interval; NaN where there are too few observations.
    n: How many observations.
  """

  value: float
  low: float
  high: float
  n: int

  @classmethod
  def without_interval(cls, value: float, n: int) -> Self:
    """Returns an estimate from n observations, too few for an interval."""
    return cls(value=float(value), low=math.nan, high=math.nan, n=n)

  def to_dict(self) -> dict[str, float | int | None]:
    """Returns a dict for JSON: what is not finite is None."""
    return {
      name: number if math.isfinite(number) else None
      for name, number in dataclasses.asdict(self).items()
    }


def number_units(
  units: Sequence[Hashable],
) -> tuple[np.ndarray, list[Hashable]]:
  """Returns each observation's number of unit, int [n], and the units."""
  names = {name: i for i, name in enumerate(dict.fromkeys(units))}
  return np.array([names[unit] for unit in units], int), list(names)


@functools.cache  # the same few counts come again and again
def wilson(successes: int, n: int) -> Estimate:
  """Returns a proportion with Wilson's score interval (1927).

  Raises:
    ValueError: there are not 0 to n successes.
  """
  if not 0 <= successes <= n:
    raise ValueError(f'{successes} successes of {n} are not a proportion.')
  if n == 0:
    return Estimate.without_interval(math.nan, 0)
  test = stats.binomtest(int(successes), int(n))
  interval = test.proportion_ci(CONFIDENCE, method='wilson')
  return Estimate(
    value=float(successes / n),
    low=float(interval.low),
    high=float(interval.high),
    n=int(n),
  )


def wilson_by_cluster(
  values: Sequence[bool], clusters: Sequence[Hashable]
) -> Estimate:
  """Returns the share of all values, with Wilson's interval for fewer of them.

  As if there were n^2 / (sum of squared cluster sizes) independent values
  (Kish 1965): right where the members of a cluster are alike, else too wide.

  Args:
    values: n of them.
    clusters: Names the cluster of each.
  """
  n, sizes = len(values), np.array(list(Counter(clusters).values()))
  found = wilson(int(np.sum(values)), n)
  if not n or sizes.max() == 1:
    return found
  effective, p = n**2 / (sizes**2).sum(), found.value
  z2 = stats.norm.ppf((1 + CONFIDENCE) / 2) ** 2
  middle = (p + z2 / (2 * effective)) / (1 + z2 / effective)
  reach = math.sqrt(z2 * (p * (1 - p) + z2 / (4 * effective)) / effective)
  reach /= 1 + z2 / effective
  return dataclasses.replace(
    found, low=float(middle - reach), high=float(middle + reach)
  )


def bootstrap_mean(values: Sequence[float], seed: int = 0) -> Estimate:
  """Returns the mean of independent values, percentile bootstrap."""
  return cluster_bootstrap_mean(values, range(len(values)), seed)


def cluster_bootstrap_mean(
  values: Sequence[float], clusters: Sequence[Hashable], seed: int = 0
) -> Estimate:
  """Returns the mean of all values, resampling clusters of values as wholes.

  Args:
    values: One number per observation.
    clusters: Names the cluster of each; clusters are independent of each other.
    seed: Random seed of the resamples.

  Returns:
    The mean over observations, so that large clusters weigh more; percentile
    bounds, NaN with fewer than two clusters; n counts observations.
  """
  return cluster_bootstrap_ratio(values, np.ones(len(values)), clusters, seed)


def cluster_bootstrap_ratio(
  part: Sequence[float],
  whole: Sequence[float],
  clusters: Sequence[Hashable],
  seed: int = 0,
) -> Estimate:
  """sum(part) / sum(whole), likewise; clusters have both."""
  part, whole = np.asarray(part, float), np.asarray(whole, float)
  n = len(part)
  if n != len(clusters):
    raise ValueError(f'{n} values are in {len(clusters)} clusters.')
  if not n:
    return Estimate.without_interval(math.nan, 0)
  which, names = number_units(clusters)
  low = high = math.nan
  if len(names) > 1:
    low, high = stats.bootstrap(
      [np.bincount(which, weights=values) for values in (part, whole)],
      lambda a, b, axis: a.sum(axis) / b.sum(axis),
      paired=True,
      vectorized=True,
      confidence_level=CONFIDENCE,
      n_resamples=RESAMPLES,
      method='percentile',
      random_state=np.random.default_rng(seed),
    ).confidence_interval
  return Estimate(
    value=float(part.sum() / whole.sum()),
    low=float(low),
    high=float(high),
    n=n,
  )
