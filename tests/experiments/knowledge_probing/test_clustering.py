"""Greedy clusters, and what is alike without a model."""

import itertools

import numpy as np
import pytest
from scipy.sparse import csgraph

from experiments.knowledge_probing.clustering import clusters, normal_alike


@pytest.mark.parametrize('texts', [[], ['a'], ['a', 'a'], list('abcabca')])
def test_of_an_equivalence_clusters_are_its_classes(texts):
  alike = lambda a, b: a == b
  matrix = np.array([[alike(a, b) for b in texts] for a in texts])
  expected = csgraph.connected_components(matrix)[1] if texts else []
  assert clusters(texts, alike) == tuple(expected)


def test_order_matters_where_likeness_is_not_transitive():
  """1 is like 2, 2 like 3, but 1 not like 3: who comes first decides."""
  alike = lambda a, b: abs(int(a) - int(b)) <= 1
  found = {
    order: clusters(order, alike) for order in itertools.permutations('123')
  }
  assert found['1', '2', '3'] == (0, 0, 1)
  assert found['2', '1', '3'] == (0, 0, 0)
  assert found['1', '3', '2'] == (0, 1, 0)
  assert found['3', '1', '2'] == (0, 1, 0)
  assert found['3', '2', '1'] == (0, 0, 1)


def test_only_the_first_of_a_cluster_is_compared():
  asked = []

  def alike(a, b):
    asked.append((a, b))
    return a == b.lower()

  assert clusters(['a', 'A', 'b', 'A', 'B'], alike) == (0, 0, 1, 0, 1)
  firsts = {a for a, _ in asked}
  assert firsts == {'a', 'b'} and len(asked) == 5


def test_alike_without_a_model():
  assert normal_alike('The U.S.', 'US') and normal_alike('1,990', '1990')
  assert normal_alike('', '  ') and not normal_alike('', 'Paris')
  assert normal_alike('Sorry, I do not know.', 'I have no idea.')
  assert not normal_alike('Sorry, I do not know.', 'Paris')
