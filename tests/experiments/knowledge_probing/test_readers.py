"""Fits find what was planted, on questions that they did not see."""

import numpy as np
import pytest
from scipy import special, stats
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from experiments.knowledge_probing import readers
from tests.experiments.knowledge_probing import made

N, D, PER_ENTITY = 240, 8, 3


def splits(n=N):
  """Bool [n] of train, validation and test: whole entities."""
  unit = np.arange(n) // PER_ENTITY % 4
  return unit < 2, unit == 2, unit == 3


def planted(seed=0, layer=1, n=N):
  """Streams of three layers, one of which has how likely right answers are."""
  rng = np.random.default_rng(seed)
  streams = {
    i: rng.standard_normal((n, D)).astype(np.float32) for i in (0, 1, 5)
  }
  logits = 2.5 * streams[layer][:, 3]
  p = rng.binomial(10, special.expit(logits)) / 10
  return streams, p


def cross_entropy(p, logits):
  q = special.expit(logits)
  return -(p * np.log(q) + (1 - p) * np.log1p(-q)).mean()


def test_p_ik_chooses_the_planted_layer_and_is_calibrated():
  streams, p = planted(layer=5)
  train, validation, test = splits()
  found = readers.p_ik(streams, p, train, validation)
  assert found.about['layer'] == 5 and found.about['converged']
  assert abs(found.probabilities[test].mean() - p[test].mean()) < 0.08
  assert np.corrcoef(found.probabilities[test], p[test])[0, 1] > 0.8
  assert found.about['validation_cross_entropy'] == pytest.approx(
    cross_entropy(p[validation], found.scores[validation])
  )


def test_soft_targets_are_repeated_samples():
  """Ten rows per question, as right or wrong as its samples: the same fit."""
  streams, p = planted()
  train, validation, _ = splits()
  found = readers.p_ik({1: streams[1]}, p, train, validation)
  x = (
    StandardScaler().fit(streams[1][train].astype(float)).transform(streams[1])
  )
  repeated = np.repeat(x[train], 10, axis=0)
  labels = np.concatenate([np.arange(10) < round(10 * q) for q in p[train]])
  model = LogisticRegression(C=found.about['C'], max_iter=1000, tol=1e-8).fit(
    repeated, labels, sample_weight=np.full(len(labels), 0.1)
  )
  np.testing.assert_allclose(
    found.scores, model.decision_function(x), atol=2e-3
  )


def test_test_questions_change_nothing():
  streams, p = planted()
  train, validation, test = splits()
  first = readers.p_ik(streams, p, train, validation)
  other = {
    layer: np.where(test[:, None], 9.0, x) for layer, x in streams.items()
  }
  second = readers.p_ik(other, np.where(test, 0, p), train, validation)
  assert first.about == second.about
  np.testing.assert_array_equal(first.scores[~test], second.scores[~test])


def test_the_question_alone_gives_away_what_it_does():
  rng = np.random.default_rng(0)
  train, validation, test = splits()
  village = rng.random(N) < 0.5
  names = [''.join(rng.choice(list('bcdfgklm'), 6)) for _ in range(N)]
  questions = [
    f'Where is {name}{"escu" if v else "ton"}?'
    for name, v in zip(names, village, strict=True)
  ]
  p = np.where(village, 0.1, 0.9)
  found = readers.text_only(questions, p, train, validation)
  apart = (
    found.scores[test & ~village].min() - found.scores[test & village].max()
  )
  assert apart > 0
  # Names that say nothing tell nothing.
  shuffled = rng.permutation(p)
  found = readers.text_only(questions, shuffled, train, validation)
  rho = stats.spearmanr(found.scores[test], shuffled[test]).statistic
  assert abs(rho) < 0.4


def graded(seed=0, noise=0.05):
  """Entities whose share of right answers lies along a direction."""
  rng = np.random.default_rng(seed)
  unit = np.arange(N) // PER_ENTITY
  known = rng.random(N // PER_ENTITY)
  x = rng.standard_normal((N, D)) * 0.3
  x[:, 2] += 3 * known[unit]
  p = np.clip(known[unit] + rng.normal(0, noise, N), 0, 1)
  questions = [
    made.question(f'q{i}', entity=f'e{u}') for i, u in enumerate(unit)
  ]
  return {4: x, 7: rng.standard_normal((N, D))}, p, questions


def test_the_entity_probe_grades_entities():
  streams, p, questions = graded()
  parts = splits()
  signal, rho = readers.entity_probe(streams, p, questions, *parts)
  assert signal.about['layer'] == 4
  assert rho.value > 0.9 and rho.n == N // PER_ENTITY // 4
  assert rho.low < rho.value < rho.high
  # All questions about an entity have its one number; rho is over entities.
  by_entity = signal.scores.reshape(-1, PER_ENTITY)
  assert (np.ptp(by_entity, axis=1) < 1e-9).all()
  test = parts[2][::PER_ENTITY]
  truth = p.reshape(-1, PER_ENTITY).mean(1)
  expected = stats.spearmanr(by_entity[test, 0], truth[test]).statistic
  assert rho.value == pytest.approx(expected)


def test_an_entity_in_two_splits_is_refused():
  streams, p, questions = graded()
  train, validation, test = splits()
  test = test.copy()
  test[0] = True
  with pytest.raises(ValueError, match="'e0' is in train and in test"):
    readers.entity_probe(streams, p, questions, train, validation, test)
  with pytest.raises(ValueError, match='1 entities in validation'):
    some = np.arange(N) == np.flatnonzero(validation)[0]
    readers.entity_probe(streams, p, questions, train, some, splits()[2])


def test_what_cannot_be_fitted_is_named():
  streams, p = planted()
  train, validation, _ = splits()
  with pytest.raises(ValueError, match='120 train questions, 120 are right'):
    readers.p_ik(streams, np.ones(N), train, validation)
  with pytest.raises(ValueError, match='0 are right'):
    readers.text_only(['x'] * N, np.zeros(N), train, validation)
  with pytest.raises(ValueError, match='no validation question'):
    readers.p_ik(streams, p, train, np.zeros(N, bool))
  streams[1][7, 0] = np.nan
  with pytest.raises(ValueError, match='layer 1 is not finite at question 7'):
    readers.p_ik(streams, p, train, validation)
  with pytest.raises(ValueError, match='no layer'):
    readers.p_ik({}, p, train, validation)
