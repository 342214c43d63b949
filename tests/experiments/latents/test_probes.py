"""Probes against sklearn, and on names whose answer is known."""

import dataclasses

import numpy as np
import pytest
from sklearn import linear_model, metrics, pipeline, preprocessing

from experiments.latents import (
  LabelledEntities,
  detection,
  linear_probe,
  token_probe,
)
from experiments.latents.probes import graded_probe, text_probe
from tests.experiments.latents import planted


@pytest.fixture(scope='module')
def world():
  return planted.world()


def fit(world, layer=4, **options):
  return linear_probe(
    world.entities['train'],
    world.vectors['train'][layer],
    world.entities['validation'],
    world.vectors['validation'][layer],
    **options,
  )


def test_linear_probe_is_that_of_sklearn(world):
  train, test = world.entities['train'], world.entities['test']
  probe = fit(world, strengths=[0.1])
  counts = train.counts()
  weights = [
    1 / counts[e, 0 if known else 1]
    for e, known in zip(train.type_of, train.known, strict=True)
  ]
  weights = np.array(weights) * len(train) / np.sum(weights)
  want = pipeline.make_pipeline(
    preprocessing.StandardScaler(),
    linear_model.LogisticRegression(C=0.1, tol=1e-6),
  ).fit(
    world.vectors['train'][4],
    train.known,
    logisticregression__sample_weight=weights,
  )
  x = world.vectors['test'][4]
  scores = probe.scores(x)
  np.testing.assert_allclose(scores, want.decision_function(x), atol=1e-2)
  assert metrics.roc_auc_score(test.known, scores) > 0.95
  assert probe.converged
  # Vectors were planted along the second axis.
  assert np.abs(probe.weights).argmax() == 1


def test_strength_is_chosen_on_validation(world):
  probe = fit(world)
  best = max(probe.validation.values())
  assert probe.validation[probe.C] == best
  assert probe.C == min(c for c, v in probe.validation.items() if v == best)
  again = fit(world, strengths=[probe.C])
  found = detection(
    world.entities['validation'], again.scores(world.vectors['validation'][4])
  )
  assert found['mean']['value'] == best


def named(count, rule, seed):
  """Entities with names of two tokens, known by a rule of these."""
  rng = np.random.default_rng(seed)
  names = rng.integers(0, 12, (count, 2)) + [0, 100]
  entities = planted.make_entities(('player', 'city'), 1, rng)
  known = np.array([rule(*name) for name in names])
  return (
    type(entities)(
      types=entities.types,
      names=tuple(map(str, range(count))),
      type_of=np.arange(count) % 2,
      known=known,
    ),
    names.tolist(),
  )


@pytest.mark.parametrize(
  ('rule', 'low', 'high'),
  [
    (lambda first, last: first % 2 == 0, 0.99, 1.0),  # one token tells
    (lambda first, last: (first + last) % 2 == 0, 0.35, 0.65),  # only both do
  ],
)
def test_tokens_of_names(rule, low, high):
  train, validation, test = (
    named(count, rule, seed) for seed, count in enumerate((600, 200, 600))
  )
  test[1][0] = [55, 66, 77]  # tokens that train does not have
  probe = token_probe(*train, *validation)
  found = detection(test[0], probe.scores(test[1]))
  assert low <= found['mean']['value'] <= high
  assert len(probe.weights) == 4 * 12  # first, last, and each anywhere


def test_errors(world):
  train, validation = world.entities['train'], world.entities['validation']
  x, y = world.vectors['train'][4], world.vectors['validation'][4]
  with pytest.raises(ValueError, match="'player' has no known.*validation"):
    rest = (validation.type_of == 1) | ~validation.known
    linear_probe(train, x, validation.take(rest), y[rest])
  with pytest.raises(ValueError, match='3 rows for 256 entities'):
    linear_probe(train, x[:3], validation, y)
  with pytest.raises(ValueError, match='no C'):
    linear_probe(train, x, validation, y, strengths=[])
  names = [[1, 2]] * len(train)
  with pytest.raises(ValueError, match='no token'):
    token_probe(train, [*names[1:], []], validation, names[: len(validation)])


def test_graded_probe_follows_grades_within_classes():
  """It reads how much is known; a detector of the class alone cannot."""
  rng = np.random.default_rng(0)
  direction = rng.standard_normal(12)

  def drawn(n):
    x = rng.standard_normal((n, 12)) * 3 + 1
    return x, x @ direction / 10 + 0.01 * rng.standard_normal(n)

  (x, y), (xv, yv), (xt, yt) = drawn(200), drawn(60), drawn(100)
  probe = graded_probe(y, x, yv, xv)
  assert np.corrcoef(probe.scores(xt), yt)[0, 1] > 0.99
  # Weights are of activations as they are, and scores differ by these alone.
  np.testing.assert_allclose(
    probe.scores(xt[:1]) - probe.scores(xt[1:2]),
    (xt[0] - xt[1]) @ probe.weights,
    rtol=1e-9,
  )
  np.testing.assert_allclose(probe.weights, direction / 10, atol=0.02)
  with pytest.raises(ValueError, match='60 rows for 200 grades'):
    graded_probe(y, xv, yv, xv)


def test_text_probe_sees_letters_alone():
  rng = np.random.default_rng(1)

  def named(n, ending):
    known = np.arange(n) % 2 == 0
    names = [
      ''.join(rng.choice(list('abcdefgh'), 6)) + (ending if k else 'er')
      for k in known
    ]
    return LabelledEntities(
      types=('player',),
      names=tuple(names),
      type_of=np.zeros(n, int),
      known=known,
    )

  train, validation, test = (named(n, 'ova') for n in (80, 30, 40))
  probe = text_probe(train, validation)
  assert detection(test, probe.scores(test))['mean']['value'] == 1.0
  # Letters that no name of train has say nothing.
  other = dataclasses.replace(test, names=('ÿÿÿ',) * len(test))
  assert len(set(probe.scores(other))) == 1
