"""A forest plot: values with their intervals, one row per label."""

from collections.abc import Mapping, Sequence
import dataclasses

import numpy as np
import plotly.graph_objects as go

from experiments.charts import panels as panels_lib
from experiments.charts import rows as rows_lib
from experiments.charts import style
from experiments.charts.references import Reference, add_references

# Shares of a row's height: from group to group, and from its middle at most.
_STEP, _REACH = 0.32, 0.28
_HEIGHT, _GROUP_HEIGHT = 30, 15  # pixels of a row, and of a group in it
_GOLDEN = 0.618  # multiples of it are spread evenly between whole numbers


@dataclasses.dataclass(frozen=True)
class Dot(rows_lib.Row):
  """Holds one dot; see `rows.Row` for its other fields, and for `Dot.of`.

  Attributes:
    faint: True if it is one of many, which are small, faint and spread over the
      height of their group.
  """

  faint: bool = False


def dots(
  rows: Sequence[Dot] | Mapping[str, Sequence[Dot]],
  *,
  x_title: str,
  y_title: str = '',
  groups: rows_lib.Groups | None = None,
  reference: Reference | None = None,
  percent: bool = False,
  range: tuple[float, float] | None = None,
  log: bool = False,
  title: str = '',
) -> go.Figure:
  """Draws values on x with their intervals, and labels on y.

  The first label is on top. Several dots may have one label and one group.

  Args:
    rows: Dots, or panel's title -> dots. Panels share both axes.
    x_title: What the values are, with their unit.
    y_title: What the labels are.
    groups: The order of groups, or group -> colour, in order. Default: the
      order of the rows.
    reference: Where to draw a line across, such as at chance, or name ->
      value, or (low, high) of a band.
    percent: True if values are shares, to be shown in percent.
    range: Ends of the x axis. Default: as far as values and intervals.
    log: True if the x axis is logarithmic.
    title: Title of the figure.

  Raises:
    ValueError: there are no rows, or a group is not one of `groups`.
  """
  panels, labels, colours = rows_lib.laid_out(rows, 'dots', groups)
  shifts, step = dict.fromkeys(colours, 0.0), _STEP
  if len(colours) > 1:
    reach = min(_REACH, _STEP * (len(colours) - 1) / 2)
    spread, step = np.linspace(-reach, reach, len(colours), retstep=True)
    shifts = dict(zip(colours, spread.tolist(), strict=True))
  height = max(_HEIGHT, _GROUP_HEIGHT * len(colours)) * len(labels)
  figure, places = panels_lib.grid(list(panels), height=max(60, height))
  add_references(figure, reference, 'x', len(panels))
  for panel, group, mine, first in rows_lib.by_group(panels, colours):
    # Faint ones lie behind, and have a legend of their own if they are alone.
    for faint in sorted({row.faint for row in mine}, reverse=True):
      part = [row for row in mine if row.faint == faint]
      at = [labels.index(row.label) + shifts[group] for row in part]
      if faint:
        at = [y + step * (i * _GOLDEN % 1 - 0.5) for i, y in enumerate(at)]
      trace = _trace(part, at, colours[group], x_title, percent)
      trace.showlegend = first and (not faint or len(part) == len(mine))
      figure.add_trace(trace, **places[panel])
  figure = panels_lib.finished(
    figure, x_title=x_title, y_title=y_title, title=title
  )
  panels_lib.share_x(figure)
  figure.update_xaxes(**style.scale(range, log=log, percent=percent))
  figure.update_yaxes(**style.places(labels, downwards=True))
  return figure


def _trace(mine, at, colour, x_title, percent) -> go.Scatter:
  return go.Scatter(
    name=style.text(mine[0].group),
    legendgroup=mine[0].group,
    x=[rows_lib.finite(row.value) for row in mine],
    y=at,
    error_x=rows_lib.error_bars(mine),
    mode='markers',
    marker={'color': colour, 'size': 4 if mine[0].faint else 8},
    opacity=0.35 if mine[0].faint else 1,
    hovertext=[rows_lib.said(row, x_title, percent) for row in mine],
    hoverinfo='text',
    **rows_lib.clicks(mine, x_title, percent),
  )
