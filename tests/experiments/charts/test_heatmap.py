"""Colours are centred at 0, and every cell says its numbers."""

import numpy as np
import pytest

from experiments.charts import heatmap
from tests.experiments.charts.markup import HOSTILE, markup

TITLES = {'x_title': 'token', 'y_title': 'layer', 'colour_title': 'effect'}
X, Y = ['a', 'a', '7'], ['resid_post.0', 'resid_post.1']
VALUES = np.array([[0.5, -2.0, np.nan], [0.0, 1.0, 0.25]])


def by_cell(format):
  return [[format(i, j) for j in range(len(X))] for i in range(len(Y))]


def test_cells_say_where_and_what_they_are():
  figure = heatmap(
    VALUES, x=X, y=Y, hover=by_cell(lambda i, j: f'n = {i}{j}'), **TITLES
  )
  (cells,) = figure.data
  for i, line in enumerate(VALUES):
    for j, value in enumerate(line):
      said = cells.hovertext[i][j].split('<br>')
      number = 'not defined' if np.isnan(value) else f'{value:.4g}'
      assert said == [f'{Y[i]}, {X[j]}', f'effect: {number}', f'n = {i}{j}']
      assert cells.z[i][j] == (None if np.isnan(value) else value)
  assert cells.customdata is None
  # Labels that repeat, or look like numbers, are columns of their own.
  assert list(figure.layout.xaxis.ticktext) == X
  assert list(figure.layout.xaxis.tickvals) == [0, 1, 2]
  assert list(figure.layout.yaxis.ticktext) == Y
  assert figure.layout.yaxis.range[0] < figure.layout.yaxis.range[1]


@pytest.mark.parametrize(
  ('scale', 'given', 'reach'), [(1, None, 2), (0, None, 1), (1, 0.5, 0.5)]
)
def test_colours_are_centred_at_0(scale, given, reach):
  axis = heatmap(scale * VALUES, x=X, y=Y, range=given, **TITLES)
  axis = axis.layout.coloraxis
  assert (axis.cmin, axis.cmid, axis.cmax) == (-reach, 0, reach)
  middle = axis.colorscale[len(axis.colorscale) // 2]
  assert middle[0] == 0.5 and middle[1] == 'rgb(247,247,247)'


def test_colour_blind_eyes_tell_the_signs_apart():
  """Blue minus red as protanopes and deuteranopes see, who lack one of two."""
  scale = heatmap(VALUES, x=X, y=Y, **TITLES).layout.coloraxis.colorscale

  def seen(colour):
    red, green, blue = map(int, colour[4:-1].split(','))
    return blue - (red + green) / 2

  blueness = [seen(colour) for _, colour in scale]
  for low, high in zip(blueness[:4], blueness[:-5:-1], strict=True):
    assert high - low > 30
  assert all(blueness[i] < 0 < blueness[-1 - i] for i in range(4))


def test_panels_share_colours_and_dots_are_significant_cells():
  values = {'resid': VALUES, '<b>mlp': 10 * VALUES}
  significant = {name: np.abs(v) >= 2 for name, v in values.items()}
  figure = heatmap(values, x=X, y=Y, significant=significant, **TITLES)
  cells, dots = figure.data[::2], figure.data[1::2]
  assert figure.layout.coloraxis.cmax == 20
  assert {trace.coloraxis for trace in cells} == {'coloraxis'}
  assert {trace.xaxis for trace in cells} == {'x', 'x2'}
  for trace, (name, v) in zip(dots, values.items(), strict=True):
    found = set(zip(trace.y, trace.x, strict=True))
    assert found == {
      (i, j) for i in range(2) for j in range(3) if abs(v[i, j]) >= 2
    }, name
    assert trace.hoverinfo == 'skip'
  assert [trace.showlegend for trace in dots] == [True, False]
  titles = [one.text for one in figure.layout.annotations]
  assert titles == ['resid', '&lt;b&gt;mlp']


def test_many_panels_make_rows():
  values = {str(i): VALUES for i in range(5)}
  figure = heatmap(values, x=X, y=Y, **TITLES)
  domains = {axis.domain for axis in figure.select_yaxes()}
  assert len(domains) == 2
  assert (
    figure.layout.height > heatmap(VALUES, x=X, y=Y, **TITLES).layout.height
  )


def test_details_are_of_cells_that_have_some():
  details = by_cell(lambda i, j: f'pair {i}{j}' if j else '')
  (cells,) = heatmap(VALUES, x=X, y=Y, details=details, **TITLES).data
  assert cells.meta == {'details': True}
  assert cells.customdata[1][1] == 'resid_post.1, a\neffect: 1\n\npair 11'
  assert cells.customdata[1][0] == ''
  assert 'click' in cells.hovertext[1][1]
  assert 'click' not in cells.hovertext[1][0]


def test_text_is_text_and_hover_texts_are_short():
  hostile = f'{HOSTILE} {"long " * 300}{"x" * 500}'
  figure = heatmap(
    {HOSTILE: VALUES},
    x=[hostile] * 3,
    y=[HOSTILE] * 2,
    x_title=HOSTILE,
    y_title=HOSTILE,
    colour_title=HOSTILE,
    hover={HOSTILE: by_cell(lambda i, j: hostile)},
    details={HOSTILE: by_cell(lambda i, j: hostile)},
  )
  assert not markup(figure)
  (cells,) = figure.data
  lines = cells.hovertext[0][0].split('<br>')
  assert len(lines) <= 13 and all(len(line) < 200 for line in lines)
  assert hostile in cells.customdata[0][0]  # which is shown as text
  assert all(len(t) < 100 for t in figure.layout.xaxis.ticktext)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'x': ['a']}, r'values has shape \[2, 3\]; .* make \[2, 1\]'),
    ({'significant': np.zeros((3, 2), bool)}, r'significant has shape'),
    ({'hover': [['a'] * 3]}, r'hover has shape \[1, 3\]'),
    ({'details': {'a': []}}, 'details must be of one panel'),
    ({'values': {'a': VALUES}, 'hover': []}, 'hover must be by panel'),
    ({'values': {'a': VALUES}, 'hover': {'b': []}}, "has panels \\['b'\\]"),
    ({'values': {}}, 'panels'),
    ({'values': np.zeros((2, 0)), 'x': []}, 'shape'),
    ({'range': 0}, 'range must be positive'),
    ({'range': np.nan}, 'range must be positive'),
  ],
)
def test_bad_input_is_refused(change, message):
  with pytest.raises(ValueError, match=message):
    heatmap(**{'values': VALUES, 'x': X, 'y': Y, **TITLES, **change})


def test_text_in_cells():
  figure = heatmap(
    {'a': VALUES, 'b': VALUES},
    x=X,
    y=Y,
    **TITLES,
    text={title: [['<b>', 'is', ''], ['x', 'y', 'z']] for title in 'ab'},
    columns=1,
  )
  first, second = figure.data
  assert list(first.text[0]) == ['&lt;b&gt;', 'is', '']
  assert first.texttemplate == '%{text}'
  # The panels are below each other.
  assert figure.layout.yaxis.domain[0] > figure.layout.yaxis2.domain[1]
