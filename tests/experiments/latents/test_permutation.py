"""The null against a loop, on noise, and on planted latents."""

import numpy as np
import pytest
from scipy import sparse

from experiments.latents import (
  Firing,
  class_sums,
  permutation_null,
  select,
  text_filter,
)
from experiments.latents import permutation as permutation_lib
from tests.experiments.latents import planted


def firings(world, *splits):
  return [
    Firing(
      site='resid_post',
      layer=layer,
      matrix=sparse.csr_array(
        np.concatenate([world.latents[s][layer] > 1e-6 for s in splits])
      ),
    )
    for layer in planted.LAYERS
  ]


def loop(world, known):
  """The best score of each layer and label, latent by latent."""
  entities = world.entities['train']
  best = {'known': [], 'unknown': []}
  for layer in planted.LAYERS:
    fires = world.latents['train'][layer] > 1e-6
    lowest = {'known': [], 'unknown': []}
    for j in range(planted.F):
      scores = []
      for e in range(len(entities.types)):
        mine = entities.type_of == e
        a, b = fires[mine & known, j], fires[mine & ~known, j]
        # As `separation` does it: one division of whole numbers.
        scores.append(
          (int(a.sum()) * len(b) - int(b.sum()) * len(a)) / (len(a) * len(b))
        )
      lowest['known'].append(min(scores))
      lowest['unknown'].append(min(-s for s in scores))
    for label, values in lowest.items():
      best[label].append(max(values))
  return best


def test_null_is_that_of_a_loop(monkeypatch):
  monkeypatch.setattr(permutation_lib, '_CHUNK', 3)  # chunks do not show
  world = planted.world()
  entities = world.entities['train']
  P = 7
  null = permutation_null(
    firings(world, 'train'), entities, num_permutations=P, seed=5
  )
  real = loop(world, entities.known)
  rngs = [np.random.default_rng([5, e]) for e in range(2)]
  for label in real:
    np.testing.assert_array_equal(null.observed[label], real[label])
  for p in range(P):
    known = entities.known.copy()
    for e, rng in enumerate(rngs):
      mine = entities.type_of == e
      known[mine] = rng.permutation(entities.known[mine])
    shuffled = loop(world, known)
    for label in shuffled:
      np.testing.assert_array_equal(null.null[label][p], shuffled[label])
      assert null.null_best[label][p] == max(shuffled[label])
  assert null.where == tuple(('resid_post', layer) for layer in (2, 3, 4))


def test_planted_latents_are_beyond_chance():
  world = planted.world()
  train = [class_sums(one, world.groups, ('train',)) for one in world.sums()]
  keep = text_filter(train)[1]
  null = permutation_null(
    firings(world, 'train'), world.entities['train'], keep=keep
  )
  selection = select(train)
  found = null.to_dict()
  for label in ('known', 'unknown'):
    best = selection.of(label)[0].score
    assert found[label]['observed'] == best
    assert found[label]['p_value']['value'] == 1 / 201
    assert found[label]['p_value']['low'] == 0
    assert found[label]['null_median'] < found[label]['null_95'] < 0.4 < best
    band = null.band(label, 1)
    assert 0 < band['median'] < band['high'] < 0.4
  assert found['num_permutations'] == 200
  # Without the filter the general latent is the best.
  every = permutation_null(
    firings(world, 'train'), world.entities['train'], num_permutations=5
  )
  assert every.observed_best['known'] == 1.0


def test_noise_is_not_significant():
  """p-values of pure noise are spread over 0 to 1, not small."""
  values = []
  for seed in range(24):
    world = planted.world(seed=seed, noise_only=True)
    null = permutation_null(
      firings(world, 'train'), world.entities['train'], num_permutations=40
    )
    values += [null.p_value(c)['value'] for c in ('known', 'unknown')]
  values = np.array(values)
  assert 0.35 < values.mean() < 0.65
  assert (values <= 0.1).mean() < 0.25
  assert values.max() > 0.9


def test_one_type_and_silent_latents():
  matrix = sparse.csr_array(np.array([[1, 0], [1, 0], [0, 0], [0, 0]], bool))
  world = planted.world()
  entities = world.entities['train'].take(np.arange(4))
  entities = type(entities)(
    types=('player',),
    names=entities.names,
    type_of=np.zeros(4, int),
    known=np.array([True, True, False, False]),
  )
  null = permutation_null(
    [Firing(site='mlp_out', layer=0, matrix=matrix)],
    entities,
    num_permutations=60,
  )
  assert null.observed_best == {'known': 1.0, 'unknown': 0.0}
  # Of 6 labellings one is right and one exactly wrong.
  assert set(null.null_best['known']) == {0.0, 1.0}
  assert null.p_value('known')['value'] == pytest.approx(1 / 6, abs=0.12)
  assert null.p_value('unknown')['value'] == 1.0


def test_errors():
  world = planted.world()
  train = world.entities['train']
  with pytest.raises(ValueError, match='256 rows for 216 entities'):
    permutation_null(firings(world, 'train'), world.entities['test'])
  with pytest.raises(ValueError, match="'player' has no unknown entities"):
    some = train.known | (train.type_of == 1)
    permutation_null(firings(world, 'train'), train.take(some))
  with pytest.raises(ValueError, match='no SAE'):
    permutation_null([], train)
  with pytest.raises(ValueError, match='num_permutations is 0'):
    permutation_null(firings(world, 'train'), train, num_permutations=0)
  with pytest.raises(ValueError, match='No latent is kept'):
    nothing = [np.zeros(planted.F, bool)] * 3
    permutation_null(firings(world, 'train'), train, keep=nothing)
