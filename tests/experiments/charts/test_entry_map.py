"""Entries of results stand where their keys say, with gaps elsewhere."""

import numpy as np

from experiments.charts import entry_map

ENTRIES = [
  {'layer': 1, 'head': 0, 'value': 0.5, 'p': 0.01},
  {'layer': 3, 'head': 1, 'value': -2.0, 'p': 0.5},
  {'layer': 3, 'head': None, 'value': 1.0, 'p': None},
]


def test_entries_gaps_and_dots():
  figure = entry_map(
    {'some': ENTRIES, 'one': ENTRIES[:1]},
    row='layer',
    column='head',
    y={layer: f'layer {layer}' for layer in (1, 2, 3)},
    x={0: 'H0', 1: 'H1', None: 'MLP'},
    value=lambda e: e['value'],
    p='p',
    said=lambda e: f'p = {e["p"]}',
    x_title='head',
    y_title='layer',
    colour_title='effect',
  )
  first, dots, second, _ = figure.data
  nan = np.nan
  expected = [[0.5, nan, nan], [nan, nan, nan], [nan, -2, 1]]
  np.testing.assert_array_equal(np.array(first.z, float), expected)
  assert np.isfinite(np.array(second.z, float)).sum() == 1
  assert (list(dots.x), list(dots.y)) == ([0], [0])
  assert 'layer 3, H1' in first.hovertext[2][1]
  assert 'p = 0.5' in first.hovertext[2][1]
  assert list(figure.layout.xaxis.ticktext) == ['H0', 'H1', 'MLP']
