"""Tests of the bootstrap of many numbers."""

import numpy as np
import pytest

from experiments.stats.intervals import cluster_bootstrap_mean
from experiments.stats.resampling import (
  cluster_bootstrap_means,
  differences_of_means,
  estimate,
  mean_by_unit,
)

RNG = np.random.default_rng(0)


def test_intervals_of_columns_are_those_of_each_column():
  units = [f'e{i // 2}' for i in range(30)]
  values = RNG.standard_normal((30, 3)) + np.arange(3)
  for i, found in enumerate(cluster_bootstrap_means(values, units)):
    expected = cluster_bootstrap_mean(values[:, i], units)
    assert found.value == pytest.approx(expected.value)
    assert found.low == pytest.approx(expected.low, abs=0.06)
    assert found.high == pytest.approx(expected.high, abs=0.06)
  means, names = mean_by_unit(values, units)
  assert names == [f'e{i}' for i in range(15)]
  np.testing.assert_allclose(means[3], values[6:8].mean(0))
  a, b = RNG.normal(1, 1, (50, 1)), RNG.normal(0, 2, (80, 1))
  (found,) = differences_of_means(a, b)
  half = 1.96 * np.sqrt(a.var() / 50 + b.var() / 80)
  assert found.value == pytest.approx(float(a.mean() - b.mean()))
  assert found.high - found.low == pytest.approx(2 * half, rel=0.1)
  assert found.n == 130


def test_bounds_need_resamples_that_reach():
  resampled = np.r_[np.nan, np.linspace(0, 1, 99)]
  found = estimate(0.5, resampled, 7)
  assert found.low == pytest.approx(0.025) and found.n == 7
  resampled[:10] = np.nan
  assert np.isnan(estimate(0.5, resampled, 7).low)
  assert np.isnan(estimate(np.nan, np.ones(9), 7).high)
