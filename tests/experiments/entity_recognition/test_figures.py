"""Figures of latents show what results say, and hostile text as text."""

import dataclasses
import json
import re

import numpy as np
import pytest
from scipy import sparse

from experiments import charts
from experiments.entity_recognition import figures, tables
from experiments.latents import (
  CLASSES,
  AnalysisOptions,
  Firing,
  class_sums,
  matched_random,
  permutation_null,
  select,
  separation,
  text_filter,
  to_arrays,
  to_results,
)
from experiments.latents.analysis import Findings
from experiments.latents.detectors import latent_detectors
from experiments.runs import outputs
from tests.experiments.charts.markup import HOSTILE, Parser
from tests.experiments.latents import planted

TYPES = (f'player {HOSTILE}', 'city')
TOKEN = f' %{{z}} {HOSTILE}\n'


@pytest.fixture(scope='module')
def world():
  return planted.world(types=TYPES)


def make_findings(world) -> Findings:
  of = {
    split: [class_sums(one, world.groups, (split,)) for one in world.sums()]
    for split in ('train', 'test')
  }
  test = dataclasses.replace(
    world.entities['test'], names=(HOSTILE,) * len(world.entities['test'])
  )
  selection = select(of['train'], k=4)
  by_layer = {one.layer: one for one in of['train']}
  random = {
    label: matched_random(id, by_layer[id.layer], count=3)
    for label, id in selection.best.items()
  }
  ids = [c.id for label in CLASSES for c in selection.of(label)]
  ids += [id for one in random.values() for id in one.ids]
  activations = {
    id: world.latents['test'][id.layer][:, id.latent] for id in ids
  }
  firings = [
    Firing(
      site='resid_post',
      layer=layer,
      matrix=sparse.csr_array(world.latents['train'][layer] > 0),
    )
    for layer in planted.LAYERS
  ]
  token = {'token': TOKEN, 'id': 3, 'logit': 1.5}
  about = {
    'entities': [
      {
        'name': HOSTILE,
        'type': TYPES[0],
        'label': 'known',
        'activation': 2.0,
      }
    ],
    'promoted': [token] * 2,
    'suppressed': [token],
    'final_norm_gain': False,
  }
  return Findings(
    settings=AnalysisOptions(num_chosen=4),
    entities={k: v.counts() for k, v in world.entities.items()},
    chosen_on=of['train'],
    test=of['test'],
    test_entities=test,
    selections={'auroc': selection},
    scores=[separation(one) for one in of['train']],
    activations={str(id): activations[id] for id in ids},
    random=random,
    candidates={},
    directions={},
    nulls={
      'auroc': permutation_null(
        firings,
        world.entities['train'],
        keep=text_filter(of['train'])[1],
        num_permutations=40,
      )
    },
    detectors=list(
      latent_detectors({'auroc': selection}, 'auroc', random, activations, test)
    ),
    meaning={str(id): about for id in selection.best.values()},
    examples=[
      {
        'id': HOSTILE,
        'text': HOSTILE,
        'tokens': [TOKEN] * length,
        'activations': {
          str(id): list(range(length)) for id in selection.best.values()
        },
      }
      for length in (2, 5)
    ],
    skipped=[f'Left out {HOSTILE}'],
  )


@pytest.fixture(scope='module')
def kept(world, tmp_path_factory):
  """Results as read from disk, and arrays."""
  findings = make_findings(world)
  folder = tmp_path_factory.mktemp('run')
  outputs.write_results(folder, to_results(findings))
  results = json.loads((folder / outputs.RESULTS_FILE).read_text())
  return results, to_arrays(findings)


def test_page(kept, tmp_path):
  sections = figures.sections(*kept)
  assert len(sections) == 5
  charts.write_report(tmp_path / 'page.html', 'Latents', [], sections)
  parser = Parser()
  parser.feed((tmp_path / 'page.html').read_text(encoding='utf-8'))
  # Data of six figures, and what every page has.
  assert len(parser.scripts) == 6 + 3
  assert not any('alert(1)</' in script for script in parser.scripts)
  for tag, attrs in parser.tags:
    assert 'src' not in attrs, (tag, attrs)
    assert attrs.get('href', '#').startswith('#'), (tag, attrs)
  shown = ' '.join(parser.text)
  assert HOSTILE in shown and '▁%{z}▁' in shown and '\\n' in shown
  for figure in (f for section in sections for f in section.figures):
    strings = figure.to_json()
    assert '<script' not in strings and '<b>' not in strings


def test_scatter_counts_every_latent(kept, world):
  figure = figures.firing_rates(*kept)
  grey = [t for t in figure.data if t.legendgroup == 'all latents']
  assert len(grey) == len(TYPES)
  for e, dots in enumerate(grey):
    counts = [
      int(re.search(r'(\d+) latents', said)[1]) for said in dots.hovertext
    ]
    assert sum(counts) == 3 * planted.F
    entities = world.entities['test']
    mine = entities.type_of == e
    points = {}
    for layer in planted.LAYERS:
      fires = world.latents['test'][layer] > 0
      x, y = (
        np.rint(100 * fires[mine & (entities.known == known)].mean(0)) / 100
        for known in (True, False)
      )
      for point in zip(x, y, strict=True):
        points[point] = points.get(point, 0) + 1
    drawn = zip(dots.x, dots.y, counts, strict=True)
    assert {(x, y): n for x, y, n in drawn} == points


def test_scatter_shows_chosen_latents_on_test(kept, world):
  results, _ = kept
  figure = figures.firing_rates(*kept)
  for label, id in (('known', planted.KNOWN), ('unknown', planted.UNKNOWN)):
    coloured = [t for t in figure.data if t.name == f'chosen for {label}']
    assert len(coloured) == len(TYPES)
    for e, trace in enumerate(coloured):
      entities = world.entities['test']
      fires = world.latents['test'][id.layer][:, id.latent] > 0
      mine = entities.type_of == e
      assert trace.x[0] == pytest.approx(fires[mine & entities.known].mean())
      assert trace.y[0] == pytest.approx(fires[mine & ~entities.known].mean())
      assert str(id) in trace.hovertext[0] and 'n = ' in trace.hovertext[0]
      assert len(trace.x) == len(results['chosen'][label])
  titles = [axis.title.text for axis in figure.select_xaxes()]
  assert all('resid_post, layers 2 to 4' in title for title in titles)


def test_types(kept, world):
  results, _ = kept
  (cells, dots) = figures.type_heatmap(results).data
  entities = world.entities['test']
  chosen = [
    one
    for label in ('unknown', 'known')
    for one in results['chosen'][label][::-1]
  ]
  for row, one in enumerate(chosen):
    fires = world.latents['test'][one['layer']][:, one['latent']] > 0
    for column in range(len(TYPES)):
      mine = entities.type_of == column
      known, unknown = (
        fires[mine & (entities.known == k)].mean() for k in (True, False)
      )
      assert cells.z[row][column] == pytest.approx(known - unknown)
      assert f'known: {100 * known:.1f} %' in cells.hovertext[row][column]
  # The planted latents are told apart by far, and the best of each label.
  found = set(zip(dots.y, dots.x, strict=True))
  for id in (planted.KNOWN, planted.UNKNOWN):
    (row,) = (i for i, one in enumerate(chosen) if one['id'] == str(id))
    assert {(row, 0), (row, 1)} <= found
    assert HOSTILE in cells.customdata[row][0]
  assert len(found) < 2 * len(chosen)
  assert (cells.customdata[0][0] == '') == (chosen[0]['meaning'] is None)


def test_bands_reach_from_the_lowest_to_the_highest(kept, world):
  results, _ = kept
  figure = figures.layer_curves(results, 'unknown')
  second = [t for t in figure.data if t.xaxis == 'x2']  # of TYPES[1]
  band, _ = (t for t in second if t.fill)
  lines = {t.name: t for t in second if not t.fill}
  sums = [class_sums(one, world.groups, ('train',)) for one in world.sums()]
  for s, one in enumerate(sums):
    scores = separation(one, 'unknown')
    best = np.sort(scores[1])[-5:]
    assert lines["mean of the type's best latents"].y[s] == pytest.approx(
      best.mean()
    )
    ends = {y for x, y in zip(band.x, band.y, strict=True) if x == s}
    assert sorted(ends) == pytest.approx([best.min(), best.max()])
    maxmin = lines['MaxMin: one latent, all types']
    assert maxmin.y[s] == scores.min(0).max()
    assert lines['MaxMin, shuffled labels'].y[s] < 0.4
  assert figure.layout.xaxis.title.text == 'layer of resid_post'
  assert list(figure.layout.xaxis.ticktext) == ['2', '3', '4']


def test_without_a_null_and_with_two_sites(kept):
  results = json.loads(json.dumps(kept[0]))
  for label in CLASSES:
    for place in results['layers'][label]:
      place['null'] = None
    results['layers'][label][0]['site'] = 'mlp_out'
  results['null'], results['examples'] = None, []
  figure = figures.layer_curves(results, 'known')
  assert not any('shuffled' in (t.name or '') for t in figure.data)
  assert figure.layout.xaxis.title.text == 'site and layer'
  assert figure.layout.xaxis.ticktext[0] == 'mlp_out.2'
  assert len(figures.sections(results, kept[1])) == 4


def test_detectors(kept):
  results, _ = kept
  shown = figures.compared(results)
  assert [one['kind'] for one in shown] == ['latent', 'random latents'] * 2
  figure = figures.detectors(results)
  mean = figure.data[0]
  for row, one in enumerate(shown):
    assert mean.x[row] == one['mean']['value']
    assert mean.x[row] - mean.error_x.arrayminus[row] == pytest.approx(
      one['mean']['low']
    )
    assert f'n = {one["mean"]["n_positive"]:,}' in mean.hovertext[row]
  assert len(figure.layout.yaxis.ticktext) == len(shown)


def test_examples_are_padded(kept):
  figure = figures.examples(kept[0])
  for heat in figure.data:
    # The first text is on top, which is the last row.
    assert list(heat.z[1]) == [0, 0.25, None, None, None]
    assert list(heat.z[0]) == [0, 0.25, 0.5, 0.75, 1]
    assert list(heat.text[1][2:]) == [''] * 3
    assert 'activation 4' in heat.hovertext[0][4]


def test_tables(kept):
  results, _ = kept
  chosen = tables.chosen_table(results)
  assert len(chosen.rows) == 8
  assert all(len(row) == len(chosen.columns) for row in chosen.rows)
  assert chosen.rows[0][0] == str(planted.KNOWN)
  meaning = tables.meaning_table(results)
  assert [row[0] for row in meaning.rows] == [
    f'{planted.KNOWN} (known)',
    '',
    f'{planted.UNKNOWN} (unknown)',
    '',
  ]
  assert all(len(row) == len(meaning.columns) for row in meaning.rows)
  assert tables.token(' a\tb\x00') == '▁a\\tb\\x00'
