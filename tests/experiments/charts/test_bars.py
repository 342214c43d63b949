"""Bars have their values, intervals and places."""

import json
import math

import pytest

from experiments.charts import Bar, bars
from tests.experiments.charts.markup import HOSTILE, markup

ROWS = [
  Bar('original', 0.1, 0.05, 0.2, group='refused', hover='10 of 100'),
  Bar('original', 0.9, 0.8, 0.95, group='answered'),
  Bar('steered', 0.6, 0.5, 0.7, group='refused'),
]


def test_values_intervals_and_places():
  figure = bars(ROWS, value_title='share', percent=True)
  refused, answered = figure.data
  assert list(refused.x) == [0, 1] and list(refused.y) == [0.1, 0.6]
  assert list(answered.x) == [0] and list(answered.y) == [0.9]
  assert refused.error_y.array == pytest.approx((0.1, 0.1))
  assert refused.error_y.arrayminus == pytest.approx((0.05, 0.1))
  assert list(figure.layout.xaxis.ticktext) == ['original', 'steered']
  assert figure.layout.barmode == 'group'
  assert figure.layout.yaxis.title.text == 'share'
  assert figure.layout.yaxis.tickformat == '.0%'
  assert refused.hovertext[0].split('<br>') == [
    'original',
    'refused',
    'share: 10 % [5, 20]',
    '10 of 100',
  ]


def test_bars_that_lie_go_down():
  figure = bars(ROWS, value_title='share', horizontal=True, reference=0.5)
  refused = figure.data[0]
  assert refused.orientation == 'h'
  assert list(refused.y) == [0, 1] and list(refused.x) == [0.1, 0.6]
  assert refused.error_x.array == pytest.approx((0.1, 0.1))
  assert refused.error_y.array is None
  axis = figure.layout.yaxis
  assert list(axis.ticktext) == ['original', 'steered']
  assert axis.range[0] > axis.range[1]
  assert figure.layout.xaxis.title.text == 'share'
  (line,) = figure.layout.shapes
  assert (line.x0, line.x1, line.xref) == (0.5, 0.5, 'x')
  (upright,) = bars(ROWS, value_title='x', reference=0.5).layout.shapes
  assert (upright.y0, upright.y1, upright.yref) == (0.5, 0.5, 'y')


def test_bars_without_neighbours_are_in_the_middle():
  """Such as one bar per part of the logits, coloured by its sign."""
  rows = [Bar('embedding', 1.0, group='up'), Bar('head', -1.0, group='down')]
  assert bars(rows, value_title='x').layout.barmode == 'overlay'


def test_panels_share_the_axis():
  figure = bars({'known': ROWS[:2], 'unknown': ROWS[2:]}, value_title='x')
  assert [t.xaxis for t in figure.data] == ['x', 'x', 'x2']
  assert [t.showlegend for t in figure.data] == [True, True, False]
  assert figure.layout.yaxis2.matches == 'y'
  assert figure.layout.xaxis.ticktext == figure.layout.xaxis2.ticktext


def test_gaps_and_details():
  rows = [Bar('a', math.nan), Bar('b', 2, details='why'), Bar('c', None)]
  figure = bars(rows, value_title='x')
  (trace,) = figure.data
  assert list(trace.y) == [None, 2, None]
  assert list(trace.customdata) == ['', 'b\nx: 2\n\nwhy', '']
  written = figure.to_json(engine='json')
  assert 'NaN' not in written and json.loads(written)


def test_text_is_text():
  rows = [Bar(HOSTILE, 1.0, group=HOSTILE, hover=HOSTILE)]
  figure = bars(rows, value_title=HOSTILE, label_title=HOSTILE)
  assert not markup(figure)


@pytest.mark.parametrize(
  ('make', 'message'),
  [
    (lambda: bars([], value_title='x'), 'There are no bars'),
    (
      lambda: bars([*ROWS, ROWS[0]], value_title='x'),
      "2 bars labelled 'original' of group 'refused'",
    ),
    (lambda: Bar('a', 1, 2, 0.5), "'a'"),
  ],
)
def test_bad_input_is_refused(make, message):
  with pytest.raises(ValueError, match=message):
    make()


def test_stacked_bars_have_no_intervals():
  rows = [
    Bar(label, share, 0, 1, group=outcome)
    for label in ('a', 'b')
    for outcome, share in (('right', 0.25), ('wrong', 0.75))
  ]
  figure = bars(rows, value_title='share', stacked=True)
  assert figure.layout.barmode == 'stack'
  assert [list(trace.y) for trace in figure.data] == [[0.25] * 2, [0.75] * 2]
  for trace in figure.data:
    assert trace.error_y.array is None
