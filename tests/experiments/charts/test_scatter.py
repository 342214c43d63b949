"""Points are where their values are, in the colour of their group."""

import pytest

from experiments.charts import Point, scatter

POINTS = {
  'city': [Point(0.1, 0.9, 'all', '3 latents', 4), Point(0.5, 0, 'chosen')],
  'song': [Point(1, 1, 'chosen', '<b>')],
}


def test_places_groups_and_sizes():
  figure = scatter(
    POINTS,
    x_title='x',
    y_title='y',
    groups={'all': '#999999', 'chosen': '#ff0000'},
    percent=True,
    range=(0, 1),
    diagonal=True,
  )
  first, second, third = figure.data
  assert (first.x, first.y, first.marker.size) == ((0.1,), (0.9,), (4,))
  assert first.hovertext == ('all<br>x: 10.0 %<br>y: 90.0 %<br>3 latents',)
  assert (second.name, second.marker.color) == ('chosen', '#ff0000')
  # The legend names a group once, though it is in two panels.
  assert [t.showlegend for t in figure.data] == [True, True, False]
  assert third.xaxis == 'x2' and '&lt;b&gt;' in third.hovertext[0]
  assert [shape.xref for shape in figure.layout.shapes] == ['x', 'x2']


def test_what_cannot_be_drawn():
  with pytest.raises(ValueError, match='no points'):
    scatter([], x_title='x', y_title='y')
  with pytest.raises(ValueError, match='chosen'):
    scatter(POINTS, x_title='x', y_title='y', groups=['all'])
