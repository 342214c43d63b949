"""Paths into results."""

import pytest

from experiments.paper import find

RESULTS = {
  'arms': [
    {'kind': 'original', 'target': '', 'dose': None},
    {'kind': 'steered', 'target': 'known', 'dose': 0.1},
    {'kind': 'steered', 'target': 'unknown', 'dose': 0.4},
  ],
  'layers': {'known': [{'layer': 3, 'maxmin': 0.5}]},
}


@pytest.mark.parametrize(
  ('path', 'value'),
  [
    ('arms/[kind=steered,target=unknown]/dose', 0.4),
    ('arms/[kind=steered]/dose', 0.1),
    ('arms/[-1]/target', 'unknown'),
    ('arms/[0]/dose', None),
    ('layers/known/[layer=3]/maxmin', 0.5),
  ],
)
def test_follows(path, value):
  assert find(RESULTS, path) == value


@pytest.mark.parametrize(
  ('path', 'says'),
  [
    ('legs', "no 'legs' in results"),
    ('arms/[kind=sweep]/dose', 'no element with kind=sweep'),
    ('arms/[7]', '3 elements'),
    ('arms/dose', "no 'dose' in arms"),
    ('layers/[0]', 'is no list'),
    ('layers/known/[layer=3]/maxmin/value', "no 'value'"),
  ],
)
def test_leads_nowhere(path, says):
  with pytest.raises(KeyError, match=says.replace('[', r'\[')):
    find(RESULTS, path)
