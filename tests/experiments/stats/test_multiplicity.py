"""Max-T permutation and Holm against loops, scipy and simulated nulls."""

import itertools

import numpy as np
import pytest
from scipy import stats

from experiments.stats.multiplicity import (
  holm,
  max_t_permutation,
  max_t_two_samples,
)
from experiments.stats.paired import benjamini_hochberg


def one_sample_t(x):
  return stats.ttest_1samp(x, 0).statistic


def welch(x, positive):
  return stats.ttest_ind(x[positive], x[~positive], equal_var=False).statistic


@pytest.fixture(scope='module')
def effects():
  """Seven units and five cells, correlated; the first has an effect."""
  rng = np.random.default_rng(0)
  shared = rng.normal(size=(7, 1))
  return rng.normal(size=(7, 5)) + shared + np.array([2.0, 0, 0, 0.5, 0])


def test_sign_flips_match_a_loop_over_all_flips(effects):
  found = max_t_permutation(effects)
  largest = np.array(
    [
      np.abs(one_sample_t(effects * np.array(signs)[:, None])).max()
      for signs in itertools.product((1, -1), repeat=7)
    ]
  )
  t = one_sample_t(effects)
  expected = [(largest >= abs(x) * (1 - 1e-9)).mean() for x in t]
  np.testing.assert_allclose(found.t, t)
  np.testing.assert_allclose(found.p_adjusted, expected)
  assert found.num_permutations == 2**7 and found.n == 7
  np.testing.assert_array_equal(
    found.significant, np.abs(found.t) > found.threshold
  )


def test_sign_flips_match_scipy(effects):
  """scipy flips signs of one sample: each value names its unit."""

  def largest(flipped):
    units = np.abs(flipped).astype(int) - 1
    return np.abs(
      one_sample_t(np.sign(flipped)[:, None] * effects[units])
    ).max()

  scipys = stats.permutation_test(
    (np.arange(1.0, 8.0),), largest, permutation_type='samples',
    alternative='greater', n_resamples=np.inf, vectorized=False,
  )  # fmt: skip
  found = max_t_permutation(effects)
  assert found.p_adjusted.min() == pytest.approx(scipys.pvalue)
  assert np.abs(found.t).max() == pytest.approx(scipys.statistic)


def test_two_samples_match_scipy_over_all_groups(effects):
  positive = np.array([1, 0, 1, 0, 0, 1, 1], bool)

  def largest(units, others):
    order = np.concatenate([units, others])
    return np.abs(welch(effects[order], np.arange(7) < 4)).max()

  scipys = stats.permutation_test(
    (np.flatnonzero(positive), np.flatnonzero(~positive)), largest,
    permutation_type='independent', alternative='greater', vectorized=False,
    n_resamples=np.inf,
  )  # fmt: skip
  found = max_t_two_samples(effects, positive)
  np.testing.assert_allclose(found.t, welch(effects, positive))
  assert found.num_permutations == 35
  assert found.p_adjusted.min() == pytest.approx(scipys.pvalue)


def test_drawn_permutations_approach_all_of_them(effects):
  every = max_t_permutation(effects)
  drawn = max_t_permutation(effects, num_permutations=100, seed=3)
  assert drawn.num_permutations == 101
  np.testing.assert_allclose(drawn.t, every.t)
  np.testing.assert_allclose(drawn.p_adjusted, every.p_adjusted, atol=0.15)
  again = max_t_permutation(effects, num_permutations=100, seed=3)
  np.testing.assert_array_equal(again.p_adjusted, drawn.p_adjusted)
  other = max_t_permutation(effects, num_permutations=100, seed=4)
  assert not np.array_equal(other.p_adjusted, drawn.p_adjusted)


@pytest.mark.parametrize('two_samples', [False, True])
def test_a_null_is_claimed_in_one_study_of_twenty(two_samples):
  """Skewed within pairs or unequal in spread, correlated, no effect."""
  rng = np.random.default_rng(1)
  claimed = 0
  studies = 400
  for study in range(studies):
    x = rng.standard_t(4, size=(16, 12)) + rng.normal(size=(16, 1))
    if two_samples:
      found = max_t_two_samples(
        x, np.arange(16) < 8, seed=study, num_permutations=99
      )
    else:
      found = max_t_permutation(x, seed=study, num_permutations=99)
    assert found.significant.any() == (np.abs(found.t).max() > found.threshold)
    claimed += found.significant.any()
  assert stats.binomtest(int(claimed), studies, 0.05).pvalue > 0.01


def test_a_planted_effect_is_found_among_many_cells():
  rng = np.random.default_rng(2)
  x = rng.normal(size=(40, 20, 10))
  x[:, 3, 4] += 1.2
  found = max_t_permutation(x, num_permutations=400)
  assert found.t.shape == found.p_adjusted.shape == (20, 10)
  assert np.argwhere(found.significant).tolist() == [[3, 4]]


def test_constant_cells():
  x = np.random.default_rng(3).normal(size=(20, 4))
  x[:, 0], x[:, 1] = 0.0, 0.1
  one = max_t_permutation(x, num_permutations=200)
  assert one.t[0] == 0 and one.p_adjusted[0] == 1
  assert one.t[1] == np.inf and one.p_adjusted[1] == 1 / 201
  positive = np.arange(20) < 10
  two = max_t_two_samples(x, positive, num_permutations=200)
  assert two.t[1] == 0 and two.p_adjusted[1] == 1
  x[:, 1] = np.where(positive, 0.1, 0.3)
  split = max_t_two_samples(x, positive, num_permutations=200, seed=1)
  assert split.t[1] == -np.inf and split.p_adjusted[1] == 1 / 201


def test_a_cell_of_nan_is_not_tested_and_gaps_are_refused(effects):
  wide = np.insert(effects, 2, np.nan, axis=1)
  found = max_t_permutation(wide)
  assert np.isnan(found.t[2]) and np.isnan(found.p_adjusted[2])
  assert not found.significant[2] and found.to_dict()['cells'] == 5
  rest = np.delete(found.p_adjusted, 2)
  np.testing.assert_array_equal(rest, max_t_permutation(effects).p_adjusted)
  wide[1, 0] = np.nan
  with pytest.raises(ValueError, match='unit 1 in cell 0 is nan'):
    max_t_permutation(wide)
  with pytest.raises(ValueError, match='Every cell is NaN'):
    max_t_permutation(np.full((3, 2), np.nan))


def test_too_few_units_are_refused(effects):
  with pytest.raises(ValueError, match='needs 2 of them, got 1'):
    max_t_permutation(effects[:1])
  with pytest.raises(ValueError, match='got 1 and 6'):
    max_t_two_samples(effects, np.arange(7) < 1)
  with pytest.raises(ValueError, match='bool'):
    max_t_two_samples(effects, np.arange(7))
  with pytest.raises(ValueError, match='units, cells'):
    max_t_permutation(effects[:, 0])


def test_holm_is_the_loop_and_above_the_false_discovery_rate():
  rng = np.random.default_rng(4)
  p = rng.uniform(size=12) ** 3
  p[3] = p[5]
  expected, running = np.empty(12), 0.0
  for step, i in enumerate(np.argsort(p)):
    running = max(running, min(1.0, p[i] * (12 - step)))
    expected[i] = running
  np.testing.assert_allclose(holm(p), expected)
  assert (expected >= stats.false_discovery_control(p)).all()
  with_gap = holm([None, *p])
  assert with_gap[0] is None and with_gap[1:] == holm(p)
  assert holm([]) == [] and holm([0.6, 0.7]) == [1.0, 1.0]
  assert benjamini_hochberg([0.01, 0.04]) <= holm([0.01, 0.04])
  with pytest.raises(ValueError, match=r'\[0, 1\]'):
    holm([0.1, 1.2])
