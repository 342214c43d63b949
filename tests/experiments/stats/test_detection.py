"""Detectors' numbers against scikit-learn, loops and enumeration."""

import itertools
import math

import numpy as np
import pytest
from sklearn import calibration, metrics

from experiments.stats import detection, weighted
from experiments.stats.curves import auroc


def sample(n=80, seed=0, digits=1):
  """Scores with ties, and clusters of one to four items."""
  rng = np.random.default_rng(seed)
  positive = rng.random(n) < 0.4
  scores = np.round(rng.standard_normal(n) + positive, digits)
  return positive, scores, np.sort(rng.integers(0, n // 2, n))


def test_threshold_is_that_of_the_published_code():
  positive, scores, _ = sample()
  best, chosen = -1, None
  for at in np.linspace(scores.min(), scores.max(), 100):
    f1 = metrics.f1_score(positive, scores >= at)
    if f1 > best:
      best, chosen = f1, at
  found = detection.choose_threshold(positive, scores)
  assert found == chosen
  assert detection.at_threshold(positive, scores, found)['f1'] == best


def test_youden():
  positive, scores, _ = sample()
  at = detection.choose_threshold(positive, scores, 'youden')
  j = lambda t: np.mean(scores[positive] >= t) - np.mean(scores[~positive] >= t)
  assert j(at) == max(map(j, scores))


def test_reliability_has_sklearns_bins():
  rng = np.random.default_rng(1)
  p = rng.random(500)
  positive = rng.random(500) < p**2
  found = detection.reliability(positive, p)
  shares, means = calibration.calibration_curve(
    positive, p, n_bins=15, strategy='quantile'
  )
  assert [b['value'] for b in found.bins] == pytest.approx(shares)
  assert [b['probability'] for b in found.bins] == pytest.approx(means)
  n = np.array([b['n'] for b in found.bins])
  assert n.sum() == 500 and n.max() - n.min() <= 1
  assert found.ece == pytest.approx((n * abs(shares - means)).sum() / 500)
  assert found.brier == pytest.approx(((p - positive) ** 2).mean())
  constant = detection.reliability(positive, np.full(500, 0.25))
  assert len(constant.bins) == 1
  assert constant.ece == pytest.approx(abs(positive.mean() - 0.25))


def test_ece_of_calibrated_probabilities():
  """Is what chance gives, and has no interval that denies it."""
  rng = np.random.default_rng(2)
  p = np.round(rng.random(1000), 2)
  found = [detection.reliability(rng.random(1000) < p, p) for _ in range(200)]
  assert len({one.ece_calibrated for one in found}) == 1
  eces = [one.ece for one in found]
  assert np.mean(eces) == pytest.approx(found[0].ece_calibrated, rel=0.03)
  positive = rng.random(1000) < p
  all_of_it = detection.bootstrap(
    positive, p, range(1000), probabilities=p, resamples=50
  )
  assert all_of_it['ece'].value == detection.reliability(positive, p).ece
  assert math.isnan(all_of_it['ece'].low) and math.isnan(all_of_it['ece'].high)


def test_risk_is_the_mean_over_orders_of_ties():
  positive = np.array([True, False, True, False, False])
  scores = np.array([1.0, 1.0, 2.0, 0.0, 2.0])
  found = detection.risk_coverage(positive, scores)
  risks = []
  for order in itertools.permutations(range(5)):
    if (np.diff(scores[list(order)]) >= 0).all():
      errors = np.cumsum(positive[list(order)])
      risks.append(errors / np.arange(1, 6))
  assert found.risk == pytest.approx(np.mean(risks, axis=0))
  assert found.aurc == pytest.approx(found.risk.mean())
  assert found.coverage.tolist() == [0.2, 0.4, 0.6, 0.8, 1.0]
  orders = [
    (np.cumsum(order) / np.arange(1, 6)).mean()
    for order in itertools.permutations(positive)
  ]
  assert found.optimal == pytest.approx(min(orders))
  assert found.random == pytest.approx(np.mean(orders))


def test_weights_count_as_copies():
  """The areas of resamples are those of the items, written out."""
  positive, scores, clusters = sample(30, digits=0)
  tied = weighted.Tied(positive, scores)
  chosen = scores >= 0.5
  for weights in weighted.resample(positive, clusters, 3, 40):
    areas = tied.areas(weights)
    limits = weighted.limits(weights, positive, chosen)
    assert len(weights) == 40
    for row in range(40):
      copies = np.repeat(np.arange(30), weights[row].astype(int))
      p, s = positive[copies], scores[copies]
      assert areas['auroc'][row] == pytest.approx(metrics.roc_auc_score(p, s))
      assert areas['average_precision'][row] == pytest.approx(
        metrics.average_precision_score(p, s)
      )
      assert areas['aurc'][row] == pytest.approx(
        detection.risk_coverage(p, s).aurc
      )
      for name, value in detection.at_threshold(p, s, 0.5).items():
        assert limits[name][row] == pytest.approx(value)
      # Clusters come as wholes.
      for name in set(clusters):
        assert len(set(weights[row][clusters == name])) == 1


def test_bootstrap():
  positive, scores, _ = sample(200, digits=3)
  p = 1 / (1 + np.exp(-scores))
  alone = detection.bootstrap(
    positive,
    scores,
    range(200),
    thresholds={'f1': 0.5},
    probabilities=p,
    resamples=2000,
  )
  # Of independent items, the interval is about DeLong's.
  delong = auroc(positive, scores)
  assert alone['auroc'].value == pytest.approx(delong.value)
  assert alone['auroc'].low == pytest.approx(delong.low, abs=0.015)
  assert alone['auroc'].high == pytest.approx(delong.high, abs=0.015)
  assert set(alone) == {
    *('auroc', 'average_precision', 'aurc', 'brier', 'ece'),
    *('f1_f1', 'precision_f1', 'recall_f1'),
  }
  calibrated = detection.reliability(positive, p)
  assert alone['brier'].value == calibrated.brier
  assert alone['ece'].value == calibrated.ece
  for name, one in alone.items():
    assert one.n == 200 and (one.low <= one.high or name == 'ece')
  for name in ('brier', 'f1_f1', 'aurc', 'average_precision'):
    assert alone[name].low < alone[name].value < alone[name].high
  # Ten copies of everything, as clusters, say no more than one.
  copies = detection.bootstrap(
    np.tile(positive, 10),
    np.tile(scores, 10),
    list(range(200)) * 10,
    resamples=2000,
  )
  for end in ('low', 'high'):
    assert getattr(copies['auroc'], end) == pytest.approx(
      getattr(alone['auroc'], end)
    )
  area = detection.auroc_by_cluster(
    positive, scores, range(200), resamples=2000
  )
  assert area == alone['auroc']
  one = detection.bootstrap(positive, scores, ['all'] * 200)
  assert one['auroc'].value == alone['auroc'].value
  assert math.isnan(one['auroc'].low)


def test_difference():
  positive, scores, clusters = sample(120)
  same = detection.auroc_difference(positive, scores, scores * 2, clusters)
  assert (same.value, same.low, same.high) == (0, 0, 0)
  noise = np.random.default_rng(5).standard_normal(120)
  found = detection.auroc_difference(positive, scores, noise, clusters)
  assert 0 < found.low < found.value < found.high
  assert found.value == pytest.approx(
    auroc(positive, scores).value - auroc(positive, noise).value
  )


@pytest.mark.parametrize(
  'call, said',
  [
    (lambda: detection.choose_threshold(*sample()[:2], 'best'), "'best'"),
    (lambda: detection.reliability(np.ones(2, bool), np.array([0, 2])), '0, 1'),
    (lambda: detection.reliability(np.ones(2), np.zeros(2)), 'bool'),
    (lambda: detection.risk_coverage([], []), 'nothing'),
    (lambda: detection.bootstrap(*sample()[:2], [1]), '1 clusters'),
    (
      lambda: detection.average_precision(np.ones(3, bool), np.zeros(3)),
      '0 negatives',
    ),
  ],
)
def test_errors(call, said):
  with pytest.raises(ValueError, match=said):
    call()
