"""Criteria against scikit-learn and loops, on hostile activations."""

import numpy as np
import pytest
from scipy import sparse
from sklearn.metrics import roc_auc_score

from experiments.latents import Firing, class_sums, permutation_null, scores_of
from experiments.latents.criteria import (
  CRITERIA,
  class_differences,
  mean_norm,
  transformed,
)
from tests.experiments.latents import planted


def hostile(n=31, seed=0):
  """Activations with ties, silent latents, one that always fires, one alone."""
  rng = np.random.default_rng(seed)
  f = np.where(rng.random((n, 8)) < 0.5, rng.gamma(2, 1, (n, 8)), 0)
  f[:, 1] = 0
  f[:, 2] += 1
  f[:, 3] = rng.integers(0, 3, n)
  f[:, 4] = 0
  f[5, 4] = 2
  f[:, 5] = 7
  known = np.zeros(n, bool)
  known[rng.permutation(n)[: n // 3]] = True
  return f.astype(np.float32), known


def difference(f, known, criterion, norm=1.0):
  parts = transformed(sparse.csr_array(f), criterion, norm)
  return class_differences(parts, known[:, None].astype(np.float32))[:, 0]


@pytest.mark.parametrize('seed', range(3))
def test_criteria_are_what_they_say(seed):
  f, known = hostile(seed=seed)
  want = {
    'auroc': [2 * roc_auc_score(known, x) - 1 for x in f.T],
    'frequency': (f[known] > 0).mean(0) - (f[~known] > 0).mean(0),
    'mean_activation': (
      f[known].mean(0, dtype=float) - f[~known].mean(0, dtype=float)
    )
    / 2.5,
  }
  assert set(want) == set(CRITERIA)
  for criterion, expected in want.items():
    found = difference(f, known, criterion, 2.5)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    # The other class has the other sign.
    np.testing.assert_allclose(
      difference(f, ~known, criterion, 2.5), -found, atol=1e-12
    )


def test_where_latents_fire_alone_ranks_are_frequencies():
  f, known = hostile()
  fires = sparse.csr_array(f > 0)
  parts = transformed(fires, 'auroc')
  np.testing.assert_allclose(
    class_differences(parts, known[:, None].astype('f4'))[:, 0],
    difference(f, known, 'frequency'),
    atol=1e-12,
  )


def test_a_graded_latent_is_seen_by_ranks_alone():
  """The referee's: it fires on all, and more strongly on the unknown."""
  rng = np.random.default_rng(0)
  known = np.arange(100) < 50
  f = np.where(known, 7, 27)[:, None] + rng.normal(0, 3, (100, 1))
  assert difference(f, known, 'frequency')[0] == 0
  assert difference(f, known, 'auroc')[0] < -0.99


def test_scores_of_sees_types_apart():
  world = planted.world()
  entities = world.entities['train']
  sums = [class_sums(one, world.groups, ('train',)) for one in world.sums()]
  firings = [
    Firing(
      site='resid_post',
      layer=layer,
      matrix=sparse.csr_array(world.latents['train'][layer]),
    )
    for layer in planted.LAYERS
  ]
  for criterion in CRITERIA:
    found = scores_of(firings, entities, criterion, sums)
    for one, firing, score in zip(sums, firings, found, strict=True):
      f = firing.matrix.toarray()
      for e in range(2):
        mine = entities.type_of == e
        want = difference(
          f[mine], entities.known[mine], criterion, mean_norm(one)
        )
        np.testing.assert_allclose(score[e], want, atol=1e-12)


def test_null_of_ranks_is_that_of_a_loop():
  entities = planted.make_entities(
    ('player', 'city'), 6, np.random.default_rng(2)
  )
  f, _ = hostile(n=len(entities))
  firing = Firing(site='mlp_out', layer=0, matrix=sparse.csr_array(f))
  null = permutation_null(
    [firing], entities, criterion='auroc', num_permutations=4, seed=3
  )
  rngs = [np.random.default_rng([3, e]) for e in range(2)]
  for p in range(5):
    known = entities.known.copy()
    for e, rng in enumerate(rngs):
      mine = entities.type_of == e
      if p:
        known[mine] = rng.permutation(entities.known[mine])
    scores = np.stack(
      [
        [
          2 * roc_auc_score(known[entities.type_of == e], x) - 1
          for x in f[entities.type_of == e].T
        ]
        for e in range(2)
      ]
    )
    found = (
      null.null['unknown'][p - 1, 0] if p else null.observed_best['unknown']
    )
    assert found == pytest.approx((-scores).min(0).max())
  assert null.to_dict()['criterion'] == 'auroc'


def test_unknown_criterion_is_refused():
  with pytest.raises(KeyError, match='best.*auroc, frequency'):
    transformed(sparse.csr_array(np.zeros((2, 2))), 'best')
