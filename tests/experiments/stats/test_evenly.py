from collections import Counter

import numpy as np

from experiments.stats.evenly import take_evenly


def test_kinds_come_in_turns():
  kinds = list('aaaaaaabbbc')
  for seed in range(5):
    found = take_evenly(kinds, 6, np.random.default_rng(seed))
    assert len(set(found.tolist())) == 6
    counts = Counter(kinds[i] for i in found)
    # One of each, then a and b in turns while there are any.
    assert counts['c'] == 1 and sorted((counts['a'], counts['b'])) == [2, 3]
    assert {kinds[i] for i in found[:3]} == set('abc')


def test_all_items_if_there_is_room_and_none_of_none():
  rng = np.random.default_rng(0)
  assert sorted(take_evenly([1, 1, 2], 9, rng)) == [0, 1, 2]
  assert take_evenly([], 3, rng).tolist() == []


def test_the_seed_decides():
  kinds = [0] * 50
  draw = lambda seed: take_evenly(kinds, 5, np.random.default_rng(seed))
  assert draw(1).tolist() == draw(1).tolist() != draw(2).tolist()
