"""The table of signals, against scikit-learn, closed forms and loops."""

import itertools

import numpy as np
import pytest
from sklearn import metrics

from experiments.knowledge_probing import knowledge_signals as lib
from experiments.knowledge_probing.knowledge_signals import Signal, signal_table
from experiments.stats import detection
from tests.experiments.knowledge_probing import made

N = 120


def data(seed=0, n=N):
  """Right answers, a score that tells them, entities of three questions."""
  rng = np.random.default_rng(seed)
  right = rng.random(n) < 0.6
  scores = (right + rng.normal(0, 1, n)).round(1)  # with ties
  return right, scores, [f'e{i // 3}' for i in range(n)], rng.random(n) < 0.7


def area_by_loop(wrong, scores):
  """Mean share of errors when the highest scores are kept first."""
  order = np.argsort(-scores, kind='stable')
  return float(
    np.mean([wrong[order[: i + 1]].mean() for i in range(len(order))])
  )


def test_the_table_is_scikit_learns():
  right, scores, clusters, test = data()
  probabilities = np.clip(0.5 + scores / 6, 0, 1)
  (row,) = signal_table(
    [Signal(name='s', kind='k', scores=scores, probabilities=probabilities)],
    right,
    clusters,
    test,
    resamples=200,
  )
  y, s, p = right[test], scores[test], probabilities[test]
  value = lambda name: row[name]['value']
  assert value('auroc') == pytest.approx(metrics.roc_auc_score(y, s))
  assert value('average_precision') == pytest.approx(
    metrics.average_precision_score(y, s)
  )
  assert value('brier') == pytest.approx(metrics.brier_score_loss(y, p))
  assert value('ece') == detection.reliability(y, p, 15).ece
  assert row['ece']['low'] is None
  assert (row['n'], row['n_right'], row['missing']) == (
    test.sum(),
    y.sum(),
    0,
  )
  for name in ('auroc', 'average_precision', 'aurc', 'aurc_normalised'):
    assert row[name]['low'] < value(name) < row[name]['high'], name


def test_risk_is_that_of_keeping_the_surest():
  right, _, clusters, test = data()
  scores = np.random.default_rng(1).permutation(N) + 3.0 * right  # no ties
  while len(set(scores)) < N:
    scores = scores + np.linspace(0, 0.1, N)
  signal = Signal(name='s', kind='k', scores=scores)
  (row,) = signal_table([signal], right, clusters, test, resamples=20)
  wrong = ~right[test]
  area = area_by_loop(wrong, scores[test])
  best = area_by_loop(wrong, right[test].astype(float))
  assert row['aurc']['value'] == pytest.approx(area)
  expected = (wrong.mean() - area) / (wrong.mean() - best)
  assert row['aurc_normalised']['value'] == pytest.approx(expected)


@pytest.mark.parametrize(
  ('scores', 'area'), [(lambda y: y * 2.0 - 1, 1), (lambda y: -1.0 * y, None)]
)
def test_the_best_order_is_one_and_no_order_is_nothing(scores, area):
  right, _, clusters, test = data()
  signals = [
    Signal(name='s', kind='k', scores=scores(right)),
    Signal(name='constant', kind='k', scores=np.zeros(N)),
  ]
  row, constant = signal_table(signals, right, clusters, test, resamples=100)
  found = row['aurc_normalised']
  if area is None:
    assert found['value'] < -0.5 and row['auroc']['value'] == 0
  else:
    # In every resample of entities, the best order stays the best.
    assert [found[k] for k in ('value', 'low', 'high')] == pytest.approx(
      [area] * 3
    )
  assert constant['aurc_normalised']['value'] == pytest.approx(0)
  assert constant['aurc_normalised']['high'] == pytest.approx(0, abs=1e-9)
  assert constant['auroc']['value'] == 0.5


def test_the_bounds_of_risk_are_those_of_all_orders():
  for wrong in itertools.product((False, True), repeat=5):
    if len(set(wrong)) < 2:
      continue
    areas = [
      area_by_loop(np.array(order), -np.arange(5.0))
      for order in set(itertools.permutations(wrong))
    ]
    found = lib._best_risk(np.array([5.0]), np.array([float(sum(wrong))]))
    assert found[0] == pytest.approx(min(areas))
    assert np.mean(wrong) == pytest.approx(np.mean(areas))


def test_thresholds_are_chosen_on_validation():
  right, scores, clusters, test = data(n=400)
  signal = Signal(name='s', kind='k', scores=scores)
  (row,) = signal_table(
    [signal], right, clusters, test, validation=~test, resamples=50
  )
  # Youden's by a loop over validation.
  y, s = right[~test], scores[~test]
  gains = {t: (s[y] >= t).mean() - (s[~y] >= t).mean() for t in np.unique(s)}
  assert gains[row['threshold']] == pytest.approx(max(gains.values()))
  said = scores[test] >= row['threshold']
  assert row['precision']['value'] == pytest.approx(right[test][said].mean())
  assert row['recall']['value'] == pytest.approx(said[right[test]].mean())
  # Other scores on test cannot move it.
  moved = Signal(name='s', kind='k', scores=np.where(test, -scores, scores))
  (other,) = signal_table(
    [moved], right, clusters, test, validation=~test, resamples=5
  )
  assert other['threshold'] == row['threshold']


def test_intervals_resample_entities():
  """Ten copies of every question make no interval narrower."""
  right, scores, clusters, test = data()
  once = signal_table(
    [Signal(name='s', kind='k', scores=scores)], right, clusters, test
  )
  ten = lambda x: np.repeat(np.asarray(x), 10)
  copied = signal_table(
    [Signal(name='s', kind='k', scores=ten(scores))],
    ten(right),
    list(ten(clusters)),
    ten(test),
  )
  for name in ('auroc', 'average_precision'):
    for end in ('value', 'low', 'high'):
      assert copied[0][name][end] == pytest.approx(once[0][name][end]), name


def test_missing_scores_are_counted():
  right, scores, clusters, test = data()
  scores[:10] = np.nan
  (row,) = signal_table(
    [Signal(name='s', kind='k', scores=scores)],
    right,
    clusters,
    test,
    resamples=5,
  )
  assert row['missing'] == test[:10].sum() > 0
  assert row['n'] == test[10:].sum()


def test_signals_of_answers_point_to_right_ones():
  sampled = [made.sampled('a'), made.sampled('b', 'w', 'wWrn')]
  sampled[1] = made.Sampled(
    id='b',
    greedy=(made.said('w', ntok=1),),
    samples=sampled[1].samples,
  )
  scores = [made.score('a'), made.score('b', 'w', 'wWrn')]
  found = {each.name: each for each in lib.answer_signals(sampled, scores)}
  np.testing.assert_allclose(
    found['discrete semantic entropy, negative'].scores, [0, -np.log(4)]
  )
  tokens = found['log-probability per token']
  np.testing.assert_allclose(tokens.scores, [-0.5, -2])
  np.testing.assert_allclose(tokens.probabilities, np.exp([-0.5, -2]))
  truth = found['share of right samples']
  assert truth.scores.tolist() == [1, 0] and truth.about['knows_the_answer']
  with pytest.raises(ValueError, match='same n questions'):
    lib.answer_signals(sampled[::-1], scores)


def test_an_unknown_latent_speaks_against():
  x = np.array([0, 1, 2], np.float32)
  assert lib.latent_signal('l', x, 'known').scores.tolist() == [0, 1, 2]
  assert lib.latent_signal('l', x, 'unknown').scores.tolist() == [0, -1, -2]
  with pytest.raises(ValueError, match="'yes', expected one of"):
    lib.latent_signal('l', x, 'yes')
  p = lib.p_true_signal([0.25, 1])
  assert p.probabilities.tolist() == p.scores.tolist() == [0.25, 1]


def test_bad_input_is_named():
  right, scores, clusters, test = data()
  signal = Signal(name='mine', kind='k', scores=scores)
  message = f"'mine' cannot be judged: of {test.sum()} test questions"
  with pytest.raises(ValueError, match=message):
    signal_table([signal], np.ones(N, bool), clusters, test)
  with pytest.raises(ValueError, match='validation questions with a score, 0'):
    signal_table(
      [signal], right, clusters, test, validation=~right & ~test, resamples=5
    )
  with pytest.raises(ValueError, match=r"'mine' has scores \(120,\)"):
    signal_table([signal], right[:9], clusters[:9], test[:9])
  with pytest.raises(ValueError, match='test is int64'):
    signal_table([signal], right, clusters, test.astype(int))
  bad = Signal(name='p', kind='k', scores=scores, probabilities=np.full(N, 1.5))
  with pytest.raises(ValueError, match='must be in'):
    signal_table([bad], right, clusters, test)
