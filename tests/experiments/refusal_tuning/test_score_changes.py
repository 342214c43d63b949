import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from experiments.refusal_tuning.score_changes import (
  compare_scores,
  values_alone,
)
from experiments.stats.ranks import spearman
from tests.experiments.refusal_tuning import asking


def test_scores_of_two_models_are_compared():
  rng = np.random.default_rng(0)
  asked = asking.prompts(60)
  before = rng.standard_normal(60) + 1.5 * asked.known
  after = before + 0.3 * rng.standard_normal(60) - 1.0 * asked.known
  fires = [before > 1, after > 1]
  found = compare_scores(before, after, asked, 'known', fires=fires)
  for side, scores in (('before', before), ('after', after)):
    assert found['auroc'][side]['value'] == pytest.approx(
      metrics.roc_auc_score(asked.known, scores)
    )
  change = found['auroc']['change']
  assert change['high'] < 0 and change['n'] == 60
  assert found['spearman']['value'] == pytest.approx(
    stats.spearmanr(before, after).statistic
  )
  assert found['spearman']['low'] < found['spearman']['value']
  both, either = (fires[0] & fires[1]).sum(), (fires[0] | fires[1]).sum()
  assert found['jaccard']['value'] == both / either
  assert found['jaccard']['n'] == either
  p, q = (each.mean() for each in fires)
  assert found['jaccard_by_chance'] == pytest.approx(p * q / (p + q - p * q))
  rate = found['rates']['after']['unknown']
  assert rate['value'] == fires[1][~asked.known].mean() and rate['n'] == 30
  # The other label is the mirror image.
  other = compare_scores(before, after, asked, 'unknown', fires=fires)
  assert other['auroc']['before']['value'] == pytest.approx(
    1 - found['auroc']['before']['value']
  )


def test_the_same_scores_are_the_same():
  asked = asking.prompts(20)
  x = np.arange(20.0)
  found = compare_scores(x, x * 3, asked, 'known', fires=[x > 9, x > 9])
  assert found['spearman']['value'] == pytest.approx(1)
  assert found['auroc']['change'] == {'value': 0, 'low': 0, 'high': 0, 'n': 20}
  assert found['jaccard']['value'] == 1 and found['jaccard']['low'] < 1


def test_a_latent_that_never_fires_says_nothing():
  asked, nothing = asking.prompts(20), np.zeros(20)
  found = compare_scores(
    nothing, np.arange(20.0), asked, 'known', fires=[nothing > 0] * 2
  )
  assert found['spearman']['value'] is None
  assert found['jaccard'] == {'value': None, 'low': None, 'high': None, 'n': 0}
  assert found['jaccard_by_chance'] is None
  assert found['auroc']['before']['value'] == 0.5
  with pytest.raises(ValueError, match='compared entities are all known'):
    compare_scores(
      nothing,
      nothing,
      asking.prompts(20, known=[True] * 20),
      'known',
      fires=[nothing > 0] * 2,
    )


def test_spearman_resamples_entities():
  rng = np.random.default_rng(0)
  a = rng.standard_normal(200)
  b = a + rng.standard_normal(200)
  wide = spearman(np.repeat(a, 4), np.repeat(b, 4), np.arange(800) // 4)
  narrow = spearman(np.repeat(a, 4), np.repeat(b, 4), range(800))
  assert (wide.high - wide.low) > 1.6 * (narrow.high - narrow.low)
  exact = stats.spearmanr(a, b)
  assert wide.value == pytest.approx(exact.statistic)
  # Fisher's interval of 200 pairs.
  half = 1.06 * 1.96 / np.sqrt(197)
  assert wide.high - wide.low == pytest.approx(
    np.tanh(np.arctanh(wide.value) + half)
    - np.tanh(np.arctanh(wide.value) - half),
    rel=0.2,
  )


def test_numbers_alone_are_those_with_intervals():
  rng = np.random.default_rng(0)
  asked = asking.prompts(20)
  pair = rng.standard_normal((2, 20))
  fires = [x > 0 for x in pair]
  whole = compare_scores(*pair, asked, 'unknown', fires=fires)
  alone = values_alone(*pair, asked, 'unknown', fires=fires)
  for side in ('before', 'after'):
    assert alone['auroc'][side] == whole['auroc'][side]['value']
  assert alone['spearman'] == pytest.approx(whole['spearman']['value'])
  assert alone['jaccard'] == whole['jaccard']['value']
  nothing = values_alone(
    np.zeros(20), np.zeros(20), asked, 'known', fires=[np.zeros(20, bool)] * 2
  )
  assert nothing['spearman'] is None and nothing['jaccard'] is None
