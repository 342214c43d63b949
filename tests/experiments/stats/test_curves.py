"""AUROC and ROC against sklearn, a double loop, and the bootstrap."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from experiments.stats.curves import auroc, mean_auroc, roc_points


def sample(m, n, shift, ties=False, seed=0):
  rng = np.random.default_rng(seed)
  scores = np.r_[rng.normal(shift, 1, m), rng.normal(0, 1, n)]
  if ties:
    scores = np.maximum(np.round(scores), 0)  # as latents: mostly 0
  order = rng.permutation(m + n)
  return (np.arange(m + n) < m)[order], scores[order]


@pytest.mark.parametrize('ties', [False, True])
@pytest.mark.parametrize(('m', 'n', 'shift'), [(40, 25, 1.0), (7, 90, -0.5)])
def test_value_is_that_of_sklearn(m, n, shift, ties):
  positive, scores = sample(m, n, shift, ties)
  found = auroc(positive, scores)
  assert found.value == pytest.approx(metrics.roc_auc_score(positive, scores))
  assert (found.num_positive, found.num_negative) == (m, n)
  assert 0 < found.low < found.value < found.high < 1


@pytest.mark.parametrize('ties', [False, True])
def test_interval_has_the_variance_of_delong(ties):
  """DeLong's variance by its definition: a loop over all pairs."""
  positive, scores = sample(30, 50, 1.0, ties)
  x, y = scores[positive], scores[~positive]
  wins = np.array([[(a > b) + 0.5 * (a == b) for b in y] for a in x], float)
  variance = wins.mean(1).var(ddof=1) / 30 + wins.mean(0).var(ddof=1) / 50
  found = auroc(positive, scores)

  def logit(p):
    return np.log(p / (1 - p))

  error = np.sqrt(variance) / (found.value * (1 - found.value))
  for bound, sign in ((found.low, -1), (found.high, 1)):
    want = logit(found.value) + sign * stats.norm.ppf(0.975) * error
    assert logit(bound) == pytest.approx(want)


def test_interval_agrees_with_the_bootstrap():
  positive, scores = sample(150, 120, 0.8, ties=True)
  boot = stats.bootstrap(
    (scores[positive], scores[~positive]),
    lambda x, y, axis: (
      stats.mannwhitneyu(x, y, axis=axis).statistic
      / (x.shape[axis] * y.shape[axis])
    ),
    n_resamples=999,
    method='percentile',
    vectorized=True,
    random_state=np.random.default_rng(0),
  ).confidence_interval
  found = auroc(positive, scores)
  assert found.low == pytest.approx(boot.low, abs=0.012)
  assert found.high == pytest.approx(boot.high, abs=0.012)


def test_intervals_cover():
  true = stats.norm.cdf(1.5 / np.sqrt(2))
  hits = 0
  for seed in range(300):
    found = auroc(*sample(25, 40, 1.5, seed=seed))
    hits += found.low <= true <= found.high
  assert 0.91 <= hits / 300 <= 0.98


@pytest.mark.parametrize('value', [0.0, 0.5, 1.0])
def test_no_variance_is_not_certainty(value):
  """Classes apart, or a score that never varies: the interval has a width."""
  positive = np.arange(40) < 15
  scores = {0.0: ~positive, 0.5: np.zeros(40), 1.0: positive}[value]
  found = auroc(positive, scores * 1.0)
  assert found.value == value
  assert found.high - found.low > 0.08
  assert found.low <= value <= found.high
  if value == 1.0:
    # Hanley and McNeil's variance, with Newcombe's sizes, at the bound.
    a, star = found.low, 40 / 2 - 1
    spread = (1 - a) / (2 - a) + a / (1 + a)
    variance = a * (1 - a) / (15 * 25) * (1 + star * spread)
    assert 1 - a == pytest.approx(stats.norm.ppf(0.975) * np.sqrt(variance))


def test_one_of_a_class():
  found = auroc(np.array([True, False, False]), np.array([2.0, 1.0, 3.0]))
  assert found.value == 0.5 and 0 < found.low < 0.2 and 0.8 < found.high < 1


def test_mean():
  parts = [auroc(*sample(30, 40, shift)) for shift in (0.5, 1.0, 2.0)]
  mean = mean_auroc(parts)
  assert mean.value == pytest.approx(np.mean([part.value for part in parts]))
  assert mean.low < mean.value < mean.high
  width = mean.high - mean.low
  assert width < min(part.high - part.low for part in parts[:2])
  (alone,) = parts[:1]
  assert mean_auroc([alone]).low == pytest.approx(alone.low)
  assert mean.to_dict()['n'] == 210


def test_roc_points():
  positive, scores = sample(20, 30, 1.0, ties=True)
  false, true, thresholds = roc_points(positive, scores)
  for f, t, at in zip(false, true, thresholds, strict=True):
    assert f == np.mean(scores[~positive] >= at)
    assert t == np.mean(scores[positive] >= at)
  assert (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, 1)
  area = np.trapezoid(true, false)
  assert area == pytest.approx(auroc(positive, scores).value)


@pytest.mark.parametrize(
  ('positive', 'scores', 'said'),
  [
    ([True, True], [1.0, 2.0], '2 positives and 0 negatives'),
    ([False], [1.0], '0 positives and 1 negatives'),
    ([True, False], [1.0, np.nan], 'Score 1 of 2 is nan'),
    ([True, False], [1.0, 2.0, 3.0], r'scores \(3,\)'),
    ([1, 0], [1.0, 2.0], 'got int64'),
  ],
)
def test_errors(positive, scores, said):
  for function in (auroc, roc_points):
    with pytest.raises(ValueError, match=said):
      function(np.array(positive), np.array(scores))


def test_mean_of_nothing():
  with pytest.raises(ValueError, match='no AUROC'):
    mean_auroc([])
