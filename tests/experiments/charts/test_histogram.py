"""Samples share bins, shares add up, observed values are where they are."""

import json

import numpy as np
import pytest

from experiments.charts import histogram
from tests.experiments.charts.markup import HOSTILE, markup

SAMPLES = {
  'known': np.random.default_rng(0).normal(size=200),
  'unknown': np.random.default_rng(1).normal(3.0, size=50),
}


def edges_of(trace):
  x, width = np.array(trace.x), np.array(trace.width)
  assert np.ptp(width) == pytest.approx(0, abs=1e-12)
  return np.append(x - width / 2, x[-1] + width[-1] / 2)


def test_all_samples_have_the_same_bins():
  figure = histogram(SAMPLES, x_title='score', bins=17)
  pooled = np.concatenate(list(SAMPLES.values()))
  for trace, values in zip(figure.data, SAMPLES.values(), strict=True):
    edges = edges_of(trace)
    assert len(edges) == 18
    assert edges[[0, -1]] == pytest.approx((pooled.min(), pooled.max()))
    assert sum(trace.y) == pytest.approx(1)
    counts, _ = np.histogram(values, np.linspace(*edges[[0, -1]], 18))
    assert np.array(trace.y) * len(values) == pytest.approx(counts)
  assert figure.layout.barmode == 'overlay'
  assert figure.layout.yaxis.title.text == 'share'


def test_counts():
  figure = histogram({'a': [0, 0, 1]}, x_title='x', bins=2, normalised=False)
  (trace,) = figure.data
  assert list(trace.y) == [2, 1] and list(trace.x) == [0.25, 0.75]
  assert trace.hovertext[0] == 'a<br>0 to 0.5<br>2 of n = 3 (66.7%)'
  assert figure.layout.yaxis.title.text == 'count'


def test_markers_are_observed_values():
  markers = {'known': 4.0, 'chance': 0.0, 'nothing': float('nan')}
  figure = histogram(SAMPLES, x_title='x', markers=markers)
  known, chance = figure.layout.shapes
  assert (known.x0, known.x1, known.name) == (4, 4, 'known, observed')
  assert known.line.color == figure.data[0].marker.color
  assert (chance.x0, chance.name) == (0, 'chance')
  assert chance.line.color not in {t.marker.color for t in figure.data}
  assert known.showlegend and chance.showlegend


def test_what_is_not_finite_is_counted():
  samples = {'a': [1.0, 2.0, np.nan, np.inf], 'b': [np.nan]}
  figure = histogram(samples, x_title='x', bins=2)
  a, b = figure.data
  assert list(a.y) == [0.5, 0.5] and list(b.y) == [0, 0]
  assert a.hovertext[0].endswith('1 of n = 2 (50.0%); 2 not finite')
  written = figure.to_json(engine='json')
  assert 'NaN' not in written and json.loads(written)


@pytest.mark.parametrize('value', [0.0, -3.0, 1e9])
def test_samples_of_one_value(value):
  (trace,) = histogram({'a': [value] * 4}, x_title='x', bins=3).data
  assert list(trace.y) == [0, 1, 0] and trace.x[1] == pytest.approx(value)


def test_text_is_text():
  figure = histogram(
    {HOSTILE: [1, 2]}, x_title=HOSTILE, markers={HOSTILE: 1, HOSTILE * 2: 2}
  )
  assert not markup(figure)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'samples': {}}, 'no samples'),
    ({'samples': {'a': []}}, 'no value is finite'),
    ({'samples': {'a': [np.nan]}}, 'no value is finite'),
    ({'samples': {'a': [[1, 2]]}}, r"'a' has shape \[1, 2\]"),
    ({'bins': 0}, 'at least 1, not 0'),
    ({'groups': ['known']}, r"\['unknown'\]"),
  ],
)
def test_bad_input_is_refused(change, message):
  with pytest.raises(ValueError, match=message):
    histogram(**{'samples': SAMPLES, 'x_title': 'x', **change})
