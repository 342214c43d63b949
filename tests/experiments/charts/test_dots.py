"""Dots are where their values are, with intervals, labels and groups."""

import json
import math

import pytest

from experiments.charts import Dot, dots
from experiments.stats.intervals import Estimate
from tests.experiments.charts.markup import HOSTILE, markup

ROWS = [
  Dot('latent', 0.9, 0.8, 0.95, group='known', hover='n = 1,200'),
  Dot('probe', 0.7, 0.6, 0.9, group='known'),
  Dot('latent', 0.4, 0.3, 0.5, group='unknown'),
  Dot('7', 0.5, group='unknown', details='line 1\nline 2'),
]


def test_values_intervals_and_order():
  figure = dots(ROWS, x_title='AUROC')
  known, unknown = figure.data
  assert list(known.x) == [0.9, 0.7] and list(unknown.x) == [0.4, 0.5]
  assert known.error_x.array == pytest.approx((0.05, 0.2))
  assert known.error_x.arrayminus == pytest.approx((0.1, 0.1))
  # No bar without an interval.
  assert unknown.error_x.array == (pytest.approx(0.1), None)
  # The first label is on top, and dots are nearest to their own.
  axis = figure.layout.yaxis
  assert list(axis.ticktext) == ['latent', 'probe', '7']
  assert list(axis.tickvals) == [0, 1, 2]
  assert axis.range[0] > axis.range[1]
  assert [round(y) for y in (*known.y, *unknown.y)] == [0, 1, 0, 2]
  # Nearer to those of their own label than to others.
  assert 0 < unknown.y[0] - known.y[0] < known.y[1] - unknown.y[0]
  assert figure.layout.xaxis.title.text == 'AUROC'
  assert [trace.name for trace in figure.data] == ['known', 'unknown']


def test_hover_texts_have_numbers_and_clicks_details():
  known, unknown = dots(ROWS, x_title='AUROC').data
  assert known.hovertext[0].split('<br>') == [
    'latent',
    'known',
    'AUROC: 0.90 [0.80, 0.95]',
    'n = 1,200',
  ]
  assert known.customdata is None
  assert unknown.meta == {'details': True}
  assert list(unknown.customdata) == [
    '',
    '7, unknown\nAUROC: 0.5\n\nline 1\nline 2',
  ]
  assert 'click' in unknown.hovertext[1]
  assert 'click' not in unknown.hovertext[0]


def test_groups_keep_their_colours():
  colours = {'unknown': '#D55E00', 'other': '#000000', 'known': '#0072B2'}
  first, second = dots(ROWS, x_title='x', groups=colours).data
  assert (first.name, first.marker.color) == ('unknown', '#D55E00')
  assert (second.name, second.marker.color) == ('known', '#0072B2')
  # Also where other groups are missing.
  names = ['other', 'unknown', 'known']
  both = {
    t.name: t.marker.color for t in dots(ROWS, x_title='x', groups=names).data
  }
  (alone,) = dots(ROWS[:2], x_title='x', groups=names).data
  assert alone.marker.color == both['known'] != both['unknown']


def test_rows_without_groups_need_no_legend():
  figure = dots([Dot('a', 1.0), Dot('b', 2.0)], x_title='x')
  assert not figure.layout.showlegend
  assert list(figure.data[0].y) == [0, 1]


def test_gaps():
  rows = [Dot('a', math.nan), Dot('b', None), Dot('c', 1.0, math.nan, math.inf)]
  figure = dots(rows, x_title='x')
  (trace,) = figure.data
  assert list(trace.x) == [None, None, 1.0]
  assert list(trace.error_x.array) == [None] * 3
  assert len(figure.layout.yaxis.ticktext) == 3
  assert 'x: not defined' in trace.hovertext[0]
  assert trace.hovertext[2].split('<br>') == ['c', 'x: 1']
  written = figure.to_json(engine='json')
  assert 'NaN' not in written and 'Infinity' not in written
  json.loads(written)


def test_rows_of_estimates_say_n():
  found = Estimate(value=0.25, low=0.2, high=0.3, n=4321)
  for given in (found, found.to_dict()):
    dot = Dot.of('a', given, group='g', hover='p = 0.01')
    assert dot == Dot('a', 0.25, 0.2, 0.3, 'g', 'n = 4,321\np = 0.01')
  nothing = Estimate(value=math.nan, low=math.nan, high=math.nan, n=0)
  assert Dot.of('a', nothing) == Dot('a', None, hover='n = 0')


def test_references_are_lines_and_bands():
  reference = {'chance': 0.5, 'random': (0.4, 0.6), 'none': math.nan}
  figure = dots(ROWS, x_title='x', reference=reference)
  line, band = figure.layout.shapes
  assert (line.name, line.type, line.x0, line.x1) == (
    'chance',
    'line',
    0.5,
    0.5,
  )
  assert (band.name, band.type, band.x0, band.x1) == (
    'random',
    'rect',
    0.4,
    0.6,
  )
  for shape in (line, band):
    assert shape.xref == 'x' and shape.yref == 'y domain'
    assert (shape.y0, shape.y1) == (0, 1) and shape.showlegend
  (plain,) = dots(ROWS, x_title='x', reference=0).layout.shapes
  assert plain.x0 == 0 and not plain.showlegend


def test_panels_share_labels_and_legend():
  panels = {'<b>one': ROWS[:2], 'two': ROWS[2:], 'three': [Dot('new', 1.0)]}
  figure = dots(panels, x_title='x', reference=0.5)
  assert [t.xaxis for t in figure.data] == ['x', 'x2', 'x3']
  assert [axis.matches for axis in figure.select_xaxes()] == [None, 'x', 'x']
  labels = ('latent', 'probe', '7', 'new')
  assert {axis.ticktext for axis in figure.select_yaxes()} == {labels}
  assert [t.text for t in figure.layout.annotations][:2] == [
    '&lt;b&gt;one',
    'two',
  ]
  assert [shape.xref for shape in figure.layout.shapes] == ['x', 'x2', 'x3']
  again = dots({'a': ROWS, 'b': ROWS}, x_title='x')
  shown = [(t.name, t.showlegend) for t in again.data]
  assert shown == [
    ('known', True),
    ('unknown', True),
    ('known', False),
    ('unknown', False),
  ]


def test_shares_are_in_percent_and_axes_in_units_of_values():
  figure = dots(
    [Dot('a', 0.125, 0.1, 0.2)], x_title='share', percent=True, range=(0, 1)
  )
  assert figure.data[0].hovertext[0] == 'a<br>share: 12 % [10, 20]'
  assert list(figure.layout.xaxis.range) == [0, 1]
  log = dots([Dot('a', 10.0)], x_title='x', log=True, range=(1, 1000))
  assert log.layout.xaxis.type == 'log'
  assert list(log.layout.xaxis.range) == [0, 3]


def test_text_is_text():
  rows = [Dot(HOSTILE, 1.0, group=HOSTILE, hover=HOSTILE, details='x')]
  figure = dots(
    {HOSTILE: rows},
    x_title=HOSTILE,
    y_title=HOSTILE,
    reference={HOSTILE: 1},
    title=HOSTILE,
  )
  assert not markup(figure)
  assert markup(figure.update_layout(title_text=HOSTILE)) == [HOSTILE]


@pytest.mark.parametrize(
  ('make', 'message'),
  [
    (lambda: dots([], x_title='x'), 'There are no dots'),
    (lambda: dots({}, x_title='x'), 'no panel is given'),
    (lambda: dots({'a': ROWS, 'b': []}, x_title='x'), "in panel 'b'"),
    (lambda: Dot('a', 1, 2, 0.5), r"'a' is \[2.0, 0.5\]"),
    (lambda: dots(ROWS, x_title='x', groups=['known']), r"\['unknown'\]"),
    (
      lambda: dots(ROWS[:1], x_title='x', groups={'known': 'blue'}),
      "'known' is 'blue'",
    ),
    (lambda: dots(ROWS, x_title='x', reference={'r': (2, 1)}), "'r'"),
  ],
)
def test_bad_input_is_refused(make, message):
  with pytest.raises(ValueError, match=message):
    make()


def test_faint_dots_lie_behind_the_others_of_their_group():
  mean = Dot('latent', 0.5, 0.4, 0.6, group='a')
  many = [Dot('latent', i / 9, group='a', faint=True) for i in range(10)]
  other = Dot('latent', 0.5, group='b')
  faint, a, b = dots([mean, *many, other], x_title='AUROC').data
  assert list(faint.x) == [row.value for row in many] and list(a.x) == [0.5]
  assert faint.marker.size < a.marker.size and faint.opacity < a.opacity
  assert [each.showlegend for each in (faint, a, b)] == [False, True, True]
  # They are spread around the group's place, and none is at another's.
  assert min(faint.y) < a.y[0] < max(faint.y) < b.y[0]
  assert len(set(faint.y)) == 10
  (alone,) = dots(many, x_title='AUROC').data
  assert alone.showlegend
