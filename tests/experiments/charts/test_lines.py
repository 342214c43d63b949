"""Lines go through their points, bands lie between bounds, gaps stay open."""

import json
import math

import numpy as np
import pytest

from experiments.charts import Line, lines
from experiments.stats.intervals import Estimate
from tests.experiments.charts.markup import HOSTILE, markup

TITLES = {'x_title': 'layer', 'y_title': 'AUROC'}


def test_a_line_and_its_band():
  line = Line(
    'latent',
    x=np.arange(3),
    y=np.array([0.5, 0.75, 0.9]),
    low=[0.4, 0.7, 0.8],
    high=[0.6, 0.8, 1.0],
    hover=['n = 10', '', 'n = 12'],
  )
  band, curve = lines([line], **TITLES).data
  assert list(curve.x) == [0, 1, 2] and list(curve.y) == [0.5, 0.75, 0.9]
  assert list(band.x) == [0, 1, 2, 2, 1, 0]
  assert list(band.y) == [0.6, 0.8, 1.0, 0.8, 0.7, 0.4]
  assert band.fill == 'toself' and band.hoverinfo == 'skip'
  assert not band.showlegend and curve.showlegend
  assert band.legendgroup == curve.legendgroup
  assert curve.hovertext[0].split('<br>') == [
    'latent',
    'layer 0',
    'AUROC: 0.50 [0.40, 0.60]',
    'n = 10',
  ]


def test_gaps_break_lines_and_bands():
  nan = math.nan
  line = Line(
    'a',
    x=[0, 1, 2, 3, 4, 5],
    y=[1.0, 2.0, nan, 4.0, None, 6.0],
    low=[0.0, 1.0, 2.0, 3.0, 4.0, nan],
    high=[2.0, 3.0, 4.0, 5.0, 6.0, 7.0],
  )
  figure = lines([line], **TITLES)
  band, curve = figure.data
  assert list(curve.y) == [1, 2, None, 4, None, 6]
  assert list(band.x) == [0, 1, 1, 0] and list(band.y) == [2, 3, 1, 0]
  # A band of one point is a bar.
  assert list(curve.error_y.array) == [None, None, None, 1, None, None]
  assert list(curve.error_y.arrayminus) == [None, None, None, 1, None, None]
  assert 'not defined' in curve.hovertext[2]
  assert '[' not in curve.hovertext[5]
  written = figure.to_json(engine='json')
  assert 'NaN' not in written and json.loads(written)


def test_bands_on_both_sides_of_a_gap():
  line = Line(
    'a', [0, 1, 2, 3, 4], [1, 1, None, 1, 1], low=[0] * 5, high=[2] * 5
  )
  band, _ = lines([line], **TITLES).data
  assert list(band.x) == [0, 1, 1, 0, None, 3, 4, 4, 3]
  assert list(band.y) == [2, 2, 0, 0, None, 2, 2, 0, 0]


def test_groups_share_colours_and_controls_are_dashed():
  series = [
    Line('latent', [0, 1], [1, 2], group='known'),
    Line('random', [0, 1], [1, 1], group='known', dash=True),
    Line('latent, unknown', [0, 1], [2, 1], group='unknown'),
  ]
  latent, random, other = lines(series, **TITLES).data
  assert latent.line.color == random.line.color != other.line.color
  assert latent.line.dash == other.line.dash == 'solid' != random.line.dash
  colours = {'unknown': '#D55E00', 'known': '#0072B2'}
  drawn = lines(series, groups=colours, **TITLES).data
  assert [t.line.color for t in drawn] == ['#0072B2', '#0072B2', '#D55E00']
  many = lines([Line(str(i), [0], [i]) for i in range(25)], **TITLES).data
  assert len({(t.line.color, t.line.dash) for t in many}) == 25


def test_labels_are_places():
  """Also where they look like numbers, repeat, or are missing in a line."""
  tokens = ['the', 'cat', 'the', '7']
  figure = lines(
    [Line('a', tokens, [1, 2, 3, 4]), Line('b', tokens, [4, 3, 2, 1])], **TITLES
  )
  assert [list(t.x) for t in figure.data] == [[0, 1, 2, 3]] * 2
  assert list(figure.layout.xaxis.ticktext) == tokens
  assert figure.layout.xaxis.type == 'linear'
  figure = lines(
    {
      'p': [Line('a', ['x', 'y'], [1, 2])],
      'q': [Line('b', ['z', 'y'], [3, 4])],
    },
    **TITLES,
  )
  assert [list(t.x) for t in figure.data] == [[0, 1], [2, 1]]
  assert figure.layout.xaxis2.ticktext == ('x', 'y', 'z')


def test_panels_share_legend_and_axis():
  panels = {
    name: [Line('a', [0, 1], [1, 2]), Line('b', [0, 1], [2, 1])]
    for name in ('known', '<b>', 'x', 'y')
  }
  figure = lines(panels, reference={'chance': 0.5}, x_reference=1, **TITLES)
  assert [t.xaxis for t in figure.data[::2]] == ['x', 'x2', 'x3', 'x4']
  assert [t.showlegend for t in figure.data] == [True, True] + [False] * 6
  assert len({t.line.color for t in figure.data}) == 2
  titles = [one.text for one in figure.layout.annotations]
  assert titles == ['known', '&lt;b&gt;', 'x', 'y']
  # All match the one that matches none.
  assert len({axis.matches for axis in figure.select_yaxes()}) == 2
  assert [a.matches for a in figure.select_yaxes()].count(None) == 1
  shapes = figure.layout.shapes
  assert [s.showlegend for s in shapes] == [True] + [False] * 7
  assert [s.yref for s in shapes[:4]] == ['y', 'y2', 'y3', 'y4']
  assert [s.xref for s in shapes[4:]] == ['x', 'x2', 'x3', 'x4']
  free = lines(panels, share_y=False, **TITLES)
  assert {axis.matches for axis in free.select_yaxes()} == {None}


def test_logarithms_leave_out_what_is_not_positive():
  line = Line('a', [0, 1, 10], [1, 0, 10], low=[1, 0, 5], high=[2, 1, 20])
  figure = lines([line], x_log=True, y_log=True, y_range=(0.1, 100), **TITLES)
  curve = figure.data[-1]
  assert list(curve.x) == [None, 1, 10] and list(curve.y) == [1, None, 10]
  assert figure.layout.xaxis.type == figure.layout.yaxis.type == 'log'
  assert figure.layout.yaxis.range == pytest.approx((-1, 2))


def test_lines_of_estimates_say_n():
  found = [
    Estimate(value=0.5, low=0.4, high=0.6, n=1000),
    Estimate(value=math.nan, low=math.nan, high=math.nan, n=0),
  ]
  line = Line.of('a', [1, 2], found, hover=['p = 1', ''], dash=True)
  assert line.y == [0.5, None] and line.low == [0.4, None]
  assert line.hover == ['n = 1,000\np = 1', 'n = 0'] and line.dash


def test_details_and_hidden_lines():
  line = Line('a', ['x', 'y'], [1, 2], details=['', 'more'], hidden=True)
  (curve,) = lines([line], **TITLES).data
  assert list(curve.customdata) == ['', 'a, layer y\nAUROC: 2\n\nmore']
  assert curve.meta == {'details': True} and curve.visible == 'legendonly'


def test_long_lines_have_no_markers():
  x = list(range(500))
  (long,) = lines([Line('a', x, x)], **TITLES).data
  assert long.mode == 'lines'
  (lonely,) = lines([Line('a', x, [1, None] * 250)], **TITLES).data
  assert lonely.mode == 'lines+markers'


def test_text_is_text():
  line = Line(HOSTILE, [HOSTILE], [1], group=HOSTILE, hover=[HOSTILE])
  figure = lines(
    {HOSTILE: [line]}, x_title=HOSTILE, y_title=HOSTILE, title=HOSTILE
  )
  assert not markup(figure)


@pytest.mark.parametrize(
  ('make', 'message'),
  [
    (lambda: lines([], **TITLES), 'There are no lines'),
    (lambda: Line('a', [], []), "'a' has no points"),
    (lambda: Line('a', [1, 2], [1]), "'a' has 2 x and 1 y"),
    (lambda: Line('a', [1], [1], low=[1, 2], high=[1]), '1 x and 2 low'),
    (lambda: Line('a', [1], [1], low=[1]), 'it needs both'),
    (lambda: Line('a', [1], [1], hover=['', '']), '2 hover'),
    (lambda: Line('a', [1], [1], low=[2], high=[1]), 'low > high'),
    (lambda: Line.of('a', [1], []), "'a' has no points"),
    (
      lambda: lines([Line('a', ['x'], [1]), Line('b', [1], [1])], **TITLES),
      'others are labels',
    ),
    (
      lambda: lines(
        [Line('a', ['x', 'x'], [1, 2]), Line('b', ['x'], [1])], **TITLES
      ),
      "repeat in line 0 \\('a'\\)",
    ),
  ],
)
def test_bad_input_is_refused(make, message):
  with pytest.raises(ValueError, match=message):
    make()


def test_labels_stand_beside_points():
  line = Line('a', x=[1, 2], y=[3, 4], labels=['<b>', 'c'])
  (curve,) = lines([line], **TITLES).data
  assert curve.mode == 'lines+markers+text'
  assert list(curve.text) == ['&lt;b&gt;', 'c']
  with pytest.raises(ValueError, match='2 x and 1 labels'):
    Line('a', x=[1, 2], y=[3, 4], labels=['b'])
