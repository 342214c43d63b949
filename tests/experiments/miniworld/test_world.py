"""Names are balanced: no word of a name tells known from unknown."""

import itertools

import numpy as np
import pytest

from experiments.miniworld.lexicon import ATTRIBUTES, Lexicon
from experiments.miniworld.world import (
  GROUPS,
  KNOWN,
  MIXED,
  SPLITS,
  TYPES,
  WorldConfig,
  make_world,
  matchings,
)

SMALL = WorldConfig(words=24, rare=1, tail=3, values=8)


@pytest.mark.parametrize('n', [1, 2, 5, 24])
def test_matchings_are_perfect_and_use_every_pair_once(n):
  found = list(matchings(n, np.random.default_rng(0)))
  assert len(found) == n
  for last in found:
    assert sorted(last) == list(range(n))
  pairs = {(f, each[f]) for each in found for f in range(n)}
  assert len(pairs) == n * n


def test_no_cyclic_shift():
  # In one of those, last - first would be the same for all.
  for last in itertools.islice(matchings(24, np.random.default_rng(1)), 24):
    assert len(set((last - np.arange(24)) % 24)) > 4


@pytest.mark.parametrize('config', [SMALL, WorldConfig()])
def test_every_word_is_as_often_in_every_group(config):
  world = make_world(config)
  n = config.words
  for group in GROUPS:
    for column in range(2):
      counts = np.bincount(world.pairs[group][:, column], minlength=n)
      assert set(counts) == {config.size(group)}
      if group not in MIXED:
        for kind in range(len(TYPES)):
          of_type = world.pairs[group][world.types[group] == kind]
          counts = np.bincount(of_type[:, column], minlength=n)
          assert set(counts) == {getattr(config, group)}


def test_no_pair_is_in_two_groups():
  world = make_world(SMALL)
  pairs = [tuple(p) for group in GROUPS for p in world.pairs[group]]
  assert len(set(pairs)) == len(pairs)


def test_the_tail_is_large_enough():
  config = WorldConfig()
  known = sum(config.size(g) for g in (*KNOWN, 'rare'))
  assert config.size('tail') >= 5 * known


def test_seeds():
  one, same, other = (
    make_world(WorldConfig(words=24, rare=1, tail=3, values=8, seed=seed))
    for seed in (0, 0, 1)
  )
  assert one.lexicon.words == same.lexicon.words
  np.testing.assert_array_equal(one.facts['held_out'], same.facts['held_out'])
  np.testing.assert_array_equal(one.pairs['tail'], same.pairs['tail'])
  assert one.lexicon.words != other.lexicon.words
  assert (one.pairs['tail'] != other.pairs['tail']).any()


def test_too_many_groups_are_refused():
  with pytest.raises(ValueError, match='24 x 24 pairs have only 24'):
    WorldConfig(words=24)


def test_entities_have_the_attributes_of_the_paper():
  world = make_world(SMALL)
  entities = world.entities('unseen')
  assert len(entities) == 4 * 24
  for entity in entities:
    assert list(entity.attributes) == list(ATTRIBUTES[entity.type])
    assert len(entity.name.split()) == 2


def test_no_word_tells_the_classes_of_a_split_apart():
  """Every word is in as many known as unknown names of a split."""
  world = make_world(WorldConfig())
  names = {}
  for group, split in SPLITS.items():
    known = group in KNOWN
    for entity in world.entities(group):
      assert entity.split == split
      for place, word in enumerate(entity.name.split()):
        count = names.setdefault((split, place, word), [0, 0])
        count[known] += 1
  assert all(known == unknown for known, unknown in names.values())
  assert {split for split, _, _ in names} == {'train', 'validation', 'test'}


def test_no_wrong_number_is_near_a_right_one():
  lexicon = Lexicon(24, 32, 0)
  years = np.array(list(map(int, lexicon.values['years'])))
  elevations = np.array(list(map(int, lexicon.values['elevations'])))
  people = np.array(list(map(int, lexicon.values['populations'])))
  assert np.diff(years).min() > 2 * 5
  assert np.diff(elevations).min() > 2 * 20
  assert (people[1:] / people[:-1]).min() > 1.1 / 0.9
