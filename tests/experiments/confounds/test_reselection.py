"""The search again: against `select`, on planted latents and on noise."""

import numpy as np
import pytest
from scipy import sparse

from experiments.confounds.matched_names import (
  compare_saes,
  firing_correlation,
  match_latent,
)
from experiments.confounds.reselection import (
  best_latents,
  lowest_scores,
  separation_of,
  shuffled_selection,
  stability,
)
from experiments.latents import (
  SPLITS,
  Firing,
  LabelledEntities,
  class_sums,
  select,
  separation,
)
from sae.jumprelu import JumpReLUSAE, Origin, Weights
from tests.experiments.latents import planted


def everything(**options):
  """Firing of each layer over all splits, entities, and which are of which."""
  world = planted.world(**options)
  entities = LabelledEntities.joined([world.entities[s] for s in SPLITS])
  part = np.repeat(SPLITS, [len(world.entities[s]) for s in SPLITS])
  firings = [
    Firing(
      site='resid_post',
      layer=layer,
      matrix=sparse.csr_array(
        np.concatenate([world.latents[s][layer] for s in SPLITS]) > 1e-6
      ),
    )
    for layer in planted.LAYERS
  ]
  keep = [np.ones(planted.F, bool) for _ in planted.LAYERS]
  keep[1][planted.GENERAL.latent] = False
  return world, firings, entities, part, keep


def test_scores_and_best_are_those_of_the_selection():
  world, firings, entities, part, _ = everything()
  use = part == 'train'
  sums = [class_sums(one, world.groups, ('train',)) for one in world.sums()]
  for firing, one in zip(firings, sums, strict=True):
    known, unknown = lowest_scores(firing, entities, entities.known, use)
    np.testing.assert_allclose(known, separation(one).min(axis=0))
    np.testing.assert_allclose(unknown, (-separation(one)).min(axis=0))
  every = [np.ones(planted.F, bool)] * 3
  best = best_latents(firings, entities, entities.known, use, every, 5)
  chosen = select(sums, k=5, max_text_frequency=None)
  for label in ('known', 'unknown'):
    assert best[label] == [one.id for one in chosen.of(label)]


def test_separation_of_one_latent():
  world, firings, entities, part, _ = everything()
  fires = (
    world.latents['test'][planted.KNOWN.layer][:, planted.KNOWN.latent] > 0
  )
  test = world.entities['test']
  expected = np.mean(
    [
      fires[(test.type_of == e) & test.known].mean()
      - fires[(test.type_of == e) & ~test.known].mean()
      for e in range(2)
    ]
  )
  use = part == 'test'
  one = separation_of(
    planted.KNOWN, 'known', firings, entities, entities.known, use
  )
  assert one.value == pytest.approx(expected) and one.n == len(test)
  assert one.low < expected < one.high
  other = separation_of(
    planted.KNOWN, 'unknown', firings, entities, entities.known, use
  )
  assert other.value == pytest.approx(-expected)


def test_shuffled_labels_find_nothing():
  _, firings, entities, part, keep = everything()
  found = shuffled_selection(
    firings, entities, part == 'train', part == 'test', keep, num_shuffles=40
  )
  for label, id in (('known', planted.KNOWN), ('unknown', planted.UNKNOWN)):
    one = found[label]
    assert one['latent'] == str(id)
    assert one['observed']['low'] > 0.5
    assert len(one['shuffled']) == 40 and max(one['shuffled']) < 0.35
    assert abs(one['mean']['value']) < 0.05
    assert one['p_value'] == 1 / 41


def test_noise_is_no_better_than_shuffled():
  values = []
  for seed in range(6):
    _, firings, entities, part, keep = everything(seed=seed, noise_only=True)
    found = shuffled_selection(
      firings, entities, part == 'train', part == 'test', keep, num_shuffles=19
    )
    values += [found[label]['p_value'] for label in found]
  assert np.mean(values) > 0.25 and max(values) > 0.5


def test_planted_latents_come_first_on_every_split():
  _, firings, entities, _, keep = everything()
  chosen = {'known': planted.KNOWN, 'unknown': planted.UNKNOWN}
  found = stability(firings, entities, chosen, keep, num_splits=8, k=4)
  for label in ('known', 'unknown'):
    one = found[label]
    assert one['chosen_first'] == one['chosen_in_best'] == 8
    assert one['first'] == {str(chosen[label]): 8}
    assert one['held_out']['value'] > 0.6
    sets = [set(split['best']) for split in one['splits']]
    pairs = [len(a & b) / 4 for i, a in enumerate(sets) for b in sets[:i]]
    assert one['overlap']['value'] == pytest.approx(np.mean(pairs))
    assert one['overlap']['n'] == 28
  _, firings, entities, _, keep = everything(noise_only=True)
  noise = stability(firings, entities, {}, keep, num_splits=8, k=4)
  for label in noise:
    assert noise[label]['overlap']['value'] < 0.6
    assert noise[label]['chosen_first'] == 0
    assert abs(noise[label]['held_out']['value']) < 0.15


def sae(layer, order, seed=0):
  """Decoder rows at random, in an order."""
  rng = np.random.default_rng(seed + layer)
  rows = rng.normal(size=(planted.F, planted.D)).astype('f4')[order]
  return JumpReLUSAE(
    Weights(
      W_enc=rows.T.copy(), W_dec=rows, b_enc=np.zeros(planted.F, 'f4'),
      b_dec=np.zeros(planted.D, 'f4'), threshold=np.zeros(planted.F, 'f4'),
    ),
    Origin(site='resid_post', layer=layer),
  )  # fmt: skip


def test_the_same_latents_in_another_order_are_found():
  _, firings, entities, part, _ = everything()
  order = np.random.default_rng(5).permutation(planted.F)
  mine = {f.where: (sae(f.layer, np.arange(planted.F)), f) for f in firings}
  others = [
    (
      sae(f.layer, order),
      Firing(site=f.site, layer=f.layer, matrix=f.matrix[:, order]),
    )
    for f in firings
    if f.layer != planted.UNKNOWN.layer
  ]
  chosen = {'known': planted.KNOWN, 'unknown': planted.UNKNOWN}
  found = compare_saes(
    chosen, mine, others, entities, part == 'train', part == 'test', k=3
  )
  there = str(
    planted.KNOWN._replace(
      latent=int(np.flatnonzero(order == planted.KNOWN.latent)[0])
    )
  )
  pair = found['known']['counterparts']
  for way in ('by_decoder', 'by_firing'):
    assert pair[way]['latent'] == there
    assert pair[way]['cosine'] == pytest.approx(1, abs=1e-5)
    assert pair[way]['firing'] == pytest.approx(1)
  assert found['known']['rank'] == 2  # behind GENERAL, which is not filtered
  assert found['unknown']['counterparts'] is None
  with pytest.raises(ValueError, match='layer 3'):
    match_latent(
      planted.KNOWN, 'known', mine['resid_post', 4], mine['resid_post', 3],
      entities, part == 'test',
    )  # fmt: skip


def test_correlation_of_firing_is_numpys():
  _, firings, _, _, _ = everything()
  dense = firings[0].matrix.toarray().astype(float)
  found = firing_correlation(firings[0], 3, firings[0])
  for j in (0, 3, 17):
    assert found[j] == pytest.approx(
      np.corrcoef(dense[:, 3], dense[:, j])[0, 1]
    )
  assert found[30] == 0  # never fires


def test_an_empty_class_is_refused():
  _, firings, entities, part, _ = everything()
  with pytest.raises(ValueError, match="0 unknown entities of type 'player'"):
    lowest_scores(
      firings[0], entities, entities.known | (entities.type_of == 0),
      part == 'train',
    )  # fmt: skip
