"""Splits against sklearn's words in NumPy, and the paper's golden vector."""

import math

import numpy as np
import pytest

from experiments.entities import split


def _halves(items, share, seed):
  """What train_test_split does, without it: (train, test)."""
  order = np.random.RandomState(seed).permutation(len(items))
  count = math.ceil(share * len(items))
  return [items[i] for i in order[count:]], [items[i] for i in order[:count]]


def test_golden():
  parts = split(range(11))
  assert parts.train == [8, 4, 7, 3, 6]
  assert parts.validation == [10]
  assert parts.test == [5, 0, 1, 9, 2]


@pytest.mark.parametrize('count', [9, 10, 57, 1000])
@pytest.mark.parametrize('seed', [42, 7])
def test_against_numpy(count, seed):
  items = [f'entity {i}' for i in range(count)]
  train, rest = _halves(items, 0.5, seed)
  validation, test = _halves(rest, 0.8, seed)
  parts = split(items, seed)
  assert (parts.train, parts.validation, parts.test) == (
    train,
    validation,
    test,
  )
  assert sorted(train + validation + test) == sorted(items)


@pytest.mark.parametrize('count', [0, 1, 8])
def test_too_few(count):
  with pytest.raises(ValueError, match=f'{count} known players cannot be'):
    split(range(count), what='known players')
