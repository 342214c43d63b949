"""Points of two values each, in panels."""

from collections.abc import Mapping, Sequence
import dataclasses

import plotly.graph_objects as go

from experiments.charts import panels as panels_lib
from experiments.charts import style
from experiments.charts.details import hover_text
from experiments.charts.rows import Groups, by_group, group_colours

_HEIGHT = 380  # pixels of a panel


@dataclasses.dataclass(frozen=True)
class Point:
  """Holds one point.

  Attributes:
    x: Place on the x axis.
    y: Place on the y axis.
    group: Name of its colour in the legend.
    hover: What the hover text says besides the group, x and y.
    size: Diameter in pixels.
  """

  x: float
  y: float
  group: str = ''
  hover: str = ''
  size: float = 7


def scatter(
  points: Sequence[Point] | Mapping[str, Sequence[Point]],
  *,
  x_title: str,
  y_title: str,
  groups: Groups | None = None,
  percent: bool = False,
  range: tuple[float, float] | None = None,
  diagonal: bool = False,
  columns: int = panels_lib.COLUMNS,
) -> go.Figure:
  """Draws points; later groups lie on earlier ones.

  Args:
    points: Points, or panel's title -> points.
    x_title: What x is, with its unit.
    y_title: What y is, with its unit.
    groups: The order of groups, or group -> colour, in order. Default: the
      order of the points.
    percent: True if both are shares, to be shown in percent.
    range: Ends of both axes. Default: as far as the points.
    diagonal: True to draw the line from (0, 0) to (1, 1).
    columns: Most panels side by side.

  Raises:
    ValueError: there are no points, or a group is not one of `groups`.
  """
  panels = panels_lib.by_panel(points, 'points')
  colours = group_colours(
    (point.group for part in panels.values() for point in part), groups
  )
  figure, places = panels_lib.grid(
    list(panels), height=_HEIGHT, columns=columns
  )
  for panel, group, mine, first in by_group(panels, colours):
    figure.add_trace(
      go.Scatter(
        name=style.text(group),
        legendgroup=group,
        showlegend=first,
        x=[point.x for point in mine],
        y=[point.y for point in mine],
        mode='markers',
        marker={
          'color': colours[group],
          'size': [point.size for point in mine],
          'line': {'color': 'white', 'width': 0.5},
        },
        hovertext=[
          hover_text(
            group,
            f'{x_title}: {style.interval(point.x, percent=percent)}',
            f'{y_title}: {style.interval(point.y, percent=percent)}',
            point.hover,
          )
          for point in mine
        ],
        hoverinfo='text',
      ),
      **places[panel],
    )
  figure = panels_lib.finished(figure, x_title=x_title, y_title=y_title)
  panels_lib.share_x(figure)
  figure.update_xaxes(**style.scale(range, percent=percent))
  figure.update_yaxes(**style.scale(range, percent=percent))
  if diagonal:
    for place in places:
      line = {'type': 'line', 'line': {'color': '#9a9a9a', 'dash': 'dash'}}
      ends = {'x0': 0, 'y0': 0, 'x1': 1, 'y1': 1}
      figure.add_shape(**line, **ends, layer='below', **place)
  return figure
