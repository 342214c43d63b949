"""The page is whole, asks for nothing, and shows hostile text as text."""

import json

import numpy as np
import pytest

from experiments import charts
from experiments.sae_training import figures
from tests.experiments.charts.markup import HOSTILE, Parser


def entry(name, l0, layer=1, defined=True):
  interval = {'value': 0.2, 'standard_error': 0.1, 'low': 0.1, 'high': 0.4}
  if not defined:
    interval = dict.fromkeys(interval)
  edges = np.linspace(-8, 0, 33).tolist()
  return {
    'name': name,
    'label': name,
    'site': 'resid_post',
    'layer': layer,
    'metrics': {
      'num_tokens': 1234,
      'num_latents': 50,
      'num_dead': 3,
      'dead_share': 0.06,
      'l0': l0,
      'fvu': 0.3,
      'frequency_histogram': {
        'log10_edges': edges,
        'counts': [0] * 20 + [4] * 12,
      },
    },
    'intervals': {'fvu': interval, 'l0': interval},
    'fidelity': {
      'num_sequences': 17,
      'delta_loss': interval,
      'loss_recovered_zero': interval,
    },
  }


def records(count):
  return [
    {'tokens': 10 * i, 'fvu': 0.1, 'l0': None, 'dead': 0.0, 'sparsity': 1e-3}
    for i in range(count)
  ]


@pytest.fixture(params=[1, 25])
def page(request, tmp_path):
  names = [f'{HOSTILE} {i}' for i in range(request.param)]
  entries = [entry(name, 10 + i, i % 3) for i, name in enumerate(names)]
  sections = [
    charts.Section(
      title=HOSTILE,
      text=[HOSTILE],
      figures=[
        figures.frontier(entries, 'delta_loss'),
        figures.frontier(entries, 'fvu'),
        *figures.training_curves({name: records(4) for name in names}),
        figures.frequency_histograms(entries),
      ],
      tables=[charts.Table(columns=[HOSTILE], rows=[[HOSTILE]])],
      code=HOSTILE,
    )
  ]
  path = tmp_path / 'report.html'
  charts.write_report(path, HOSTILE, [HOSTILE], sections)
  return path.read_text(encoding='utf-8')


def test_page(page):
  parser = Parser()
  parser.feed(page)
  # What is in it, plotly.js once, the data of each figure, and its own script.
  assert len(parser.scripts) == 1 + 1 + 5 + 1
  assert sum(len(script) > 10**6 for script in parser.scripts) == 1
  assert not any('alert(1)</' in script for script in parser.scripts)
  assert parser.text.count(HOSTILE) == 8
  for tag, attrs in parser.tags:
    assert 'src' not in attrs, (tag, attrs)
    assert attrs.get('href', '#').startswith('#'), (tag, attrs)
  ids = [a['id'] for t, a in parser.tags if t in ('section', 'figure')]
  assert len(set(ids)) == 1 + 5
  for script in parser.scripts[2:-1]:
    for trace in json.loads(script)['data']:
      trace.pop('legendgroup')  # which is not shown
      assert '<script' not in json.dumps(trace)


def test_every_point_says_its_n():
  figure = figures.frontier([entry('a', 5), entry('b', 3)], 'delta_loss')
  band, line = figure.data
  assert list(line.x) == [3, 5]  # in the order of L0
  assert list(line.text) == ['b', 'a']
  assert all('n = 1,234 tokens' in text for text in line.hovertext)
  assert set(band.y) == {0.1, 0.4}
  histogram = figures.frequency_histograms([entry('a', 5)])
  assert 'n = 1,234 tokens' in histogram.data[0].hovertext[0]
  assert sum(histogram.data[0].y) == 4 * 12


def test_what_is_not_defined_is_left_open():
  figure = figures.frontier([entry('a', 5, defined=False)], 'delta_loss')
  assert figure.data[0].y[0] is None
  assert 'not defined' in figure.data[0].hovertext[0]


def test_curves_of_one_record_are_seen():
  l0, others = figures.training_curves({'a': records(1)})
  assert all('markers' in each.mode for each in (*l0.data, *others.data))
  assert l0.layout.yaxis.type == 'log' and len(others.data) == 3
