"""Intervals against closed forms, published values and loops."""

import math

import numpy as np
import pytest
from scipy import stats

from experiments.stats.intervals import (
  bootstrap_mean,
  cluster_bootstrap_mean,
  cluster_bootstrap_ratio,
  wilson,
  wilson_by_cluster,
)


def wilson_bounds(k, n):
  """Both roots of (p - k/n)^2 = z^2 p (1 - p) / n."""
  z = stats.norm.ppf(0.975)
  return np.sort(
    np.roots([1 + z * z / n, -2 * k / n - z * z / n, (k / n) ** 2])
  )


@pytest.mark.parametrize('k, n', [(0, 20), (20, 20), (1, 20), (81, 263)])
def test_wilson_solves_its_equation(k, n):
  found = wilson(k, n)
  np.testing.assert_allclose(
    [found.low, found.high], wilson_bounds(k, n), atol=1e-12
  )
  assert found.value == k / n and found.n == n


def test_wilson_published_value():
  # Newcombe 1998 (Statistics in Medicine 17, 857-872), table I: 81 of 263.
  found = wilson(81, 263)
  assert round(found.low, 4) == 0.2553 and round(found.high, 4) == 0.3662


def test_wilson_of_nothing_and_of_nonsense():
  assert wilson(0, 0).to_dict() == {
    'value': None,
    'low': None,
    'high': None,
    'n': 0,
  }
  with pytest.raises(ValueError, match='5 successes of 4'):
    wilson(5, 4)


def test_bootstrap_equals_normal_theory_for_many_values():
  values = np.random.default_rng(0).normal(3, 2, 400)
  found = bootstrap_mean(values)
  half = 1.96 * values.std(ddof=1) / 20
  np.testing.assert_allclose(
    [found.low, found.high],
    [values.mean() - half, values.mean() + half],
    atol=0.03,
  )
  assert found == bootstrap_mean(values), 'the same seed, the same interval'


def test_clusters_equal_a_loop_and_widen_the_interval():
  rng = np.random.default_rng(1)
  sizes = rng.integers(1, 6, 60)
  clusters = np.repeat(np.arange(60), sizes)
  values = rng.normal(size=60)[clusters]  # all of a cluster agree
  found = cluster_bootstrap_mean(values, [f'entity {c}' for c in clusters])

  groups = [values[clusters == c] for c in range(60)]
  means = [
    np.concatenate([groups[i] for i in rng.integers(0, 60, 60)]).mean()
    for _ in range(4000)
  ]
  np.testing.assert_allclose(
    [found.low, found.high], np.percentile(means, [2.5, 97.5]), atol=0.04
  )
  assert found.value == values.mean() and found.n == len(values)
  independent = bootstrap_mean(values)
  assert found.high - found.low > 1.4 * (independent.high - independent.low)


def test_too_few_clusters_have_no_interval():
  one = cluster_bootstrap_mean([1.0, 2.0], ['a', 'a'])
  assert one.value == 1.5 and math.isnan(one.low) and math.isnan(one.high)
  assert math.isnan(bootstrap_mean([]).value)
  with pytest.raises(ValueError, match='2 values are in 1 clusters'):
    cluster_bootstrap_mean([1.0, 2.0], ['a'])


def test_a_share_is_of_sums_over_clusters():
  part, total = np.array([1.0, 1, 0, 4]), np.array([2.0, 2, 2, 4])
  found = cluster_bootstrap_ratio(part, total, 'aabb', seed=0)
  assert found.value == pytest.approx(0.6)
  # Two clusters: 2 of 4, and 4 of 6.
  assert found.low == pytest.approx(0.5) and found.high == pytest.approx(2 / 3)


def test_wilson_of_clusters_that_are_alike():
  """Copies of everything say no more; of uneven ones, about as resampled."""
  values = [True] * 7 + [False] * 3
  once = wilson(7, 10)
  assert wilson_by_cluster(values, range(10)) == once
  thrice = wilson_by_cluster(values * 3, [*range(10)] * 3)
  assert thrice.n == 30 and thrice.value == once.value
  assert (thrice.low, thrice.high) == pytest.approx((once.low, once.high))
  rng = np.random.default_rng(0)
  sizes = rng.integers(1, 5, 200)
  clusters = np.repeat(np.arange(200), sizes)
  alike = np.repeat(rng.random(200) < 0.4, sizes)
  found = wilson_by_cluster(alike, clusters)
  drawn = cluster_bootstrap_mean(alike, clusters)
  assert found.value == drawn.value
  assert found.low == pytest.approx(drawn.low, abs=0.01)
  assert found.high == pytest.approx(drawn.high, abs=0.01)
  assert math.isnan(wilson_by_cluster([], []).value)
