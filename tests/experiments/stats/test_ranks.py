"""Spearman's rho is scipy's, in each resample too."""

import numpy as np
import pytest
from scipy import stats

from experiments.stats.ranks import spearman, spearman_of_means
from experiments.stats.resampling import draw


@pytest.mark.parametrize('ties', [False, True])
def test_each_resample_is_ranked_by_itself(ties):
  rng = np.random.default_rng(0)
  a, b = rng.standard_normal((2, 30))
  b += a
  if ties:
    a, b = np.round(a), np.round(b)
  units = np.arange(30) // 3
  found = spearman(a, b, units, seed=3, resamples=200)
  assert found.value == pytest.approx(stats.spearmanr(a, b).statistic)
  rho = []
  for each in draw(10, np.random.default_rng(3), 200).astype(int):
    at = np.repeat(np.arange(30), each[units])
    rho.append(stats.spearmanr(a[at], b[at]).statistic)
  low, high = np.quantile(rho, [0.025, 0.975])
  assert (found.low, found.high) == pytest.approx((low, high))
  assert found.n == 30


def test_means_over_units():
  rng = np.random.default_rng(1)
  a, b = rng.standard_normal((2, 12, 7))
  b += a
  found = spearman_of_means(a, b, seed=2, resamples=100)
  want = stats.spearmanr(a.mean(0), b.mean(0)).statistic
  assert found.value == pytest.approx(want)
  rho = []
  for each in draw(12, np.random.default_rng(2), 100).astype(int):
    at = np.repeat(np.arange(12), each)
    rho.append(stats.spearmanr(a[at].mean(0), b[at].mean(0)).statistic)
  assert (found.low, found.high) == pytest.approx(
    tuple(np.quantile(rho, [0.025, 0.975]))
  )
  assert found.n == 12


def test_what_cannot_be_told_is_nan():
  assert np.isnan(spearman(np.ones(5), np.arange(5.0)).value)
  alone = spearman(np.arange(5.0), np.arange(5.0), units=['x'] * 5)
  assert alone.value == pytest.approx(1) and np.isnan(alone.low)
  assert np.isnan(spearman_of_means(np.ones((4, 2)), np.ones((4, 2))).value)
  one = np.arange(4.0)[None]
  found = spearman_of_means(one, one)
  assert found.value == pytest.approx(1) and np.isnan(found.low)
