"""Grouped bars with their intervals."""

from collections import Counter
from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from experiments.charts import panels as panels_lib
from experiments.charts import rows as rows_lib
from experiments.charts import style
from experiments.charts.references import Reference, add_references

_HEIGHT = 300  # pixels of upright bars
_LABEL_HEIGHT, _GROUP_HEIGHT = 28, 16  # pixels of bars that lie


class Bar(rows_lib.Row):
  """Holds one bar; see `rows.Row` for its fields, and for `Bar.of`."""


def bars(
  rows: Sequence[Bar] | Mapping[str, Sequence[Bar]],
  *,
  value_title: str,
  label_title: str = '',
  groups: rows_lib.Groups | None = None,
  reference: Reference | None = None,
  horizontal: bool = False,
  stacked: bool = False,
  percent: bool = False,
  range: tuple[float, float] | None = None,
  title: str = '',
) -> go.Figure:
  """Draws a bar per row, those of one label side by side or stacked.

  Args:
    rows: Bars, or panel's title -> bars. Panels share both axes.
    value_title: What the values are, with their unit.
    label_title: What the labels are.
    groups: The order of groups, or group -> colour, in order. Default: the
      order of the rows.
    reference: Where to draw a line across, such as at chance, or name ->
      value, or (low, high) of a band.
    horizontal: True if bars lie, the first label on top.
    stacked: True if bars of one label are stacked on each other, as shares of a
      whole are, and not side by side. Their intervals are not drawn.
    percent: True if values are shares, to be shown in percent.
    range: Ends of the values' axis. Default: as far as bars and intervals.
    title: Title of the figure.

  Raises:
    ValueError: there are no rows, a panel has two bars of one label and group,
      or a group is not one of `groups`.
  """
  panels, labels, colours = rows_lib.laid_out(rows, 'bars', groups)
  _check(panels)
  abreast = 1 if stacked else len(colours)
  height = max(_LABEL_HEIGHT, _GROUP_HEIGHT * abreast) * len(labels)
  figure, places = panels_lib.grid(
    list(panels), height=max(60, height) if horizontal else _HEIGHT
  )
  add_references(figure, reference, 'x' if horizontal else 'y', len(panels))
  for panel, group, mine, first in rows_lib.by_group(panels, colours):
    at = [labels.index(row.label) for row in mine]
    trace = _trace(mine, at, colours[group], value_title, percent, horizontal)
    if stacked:
      trace.error_x = trace.error_y = None
    figure.add_trace(trace.update(showlegend=first), **places[panel])
  figure = panels_lib.finished(
    figure,
    x_title=value_title if horizontal else label_title,
    y_title=label_title if horizontal else value_title,
    title=title,
  )
  alone = all(
    count == 1
    for part in panels.values()
    for count in Counter(row.label for row in part).values()
  )
  # Bars without neighbours stand in the middle of their label.
  side_by_side = 'overlay' if alone else 'group'
  figure.update_layout(
    barmode='stack' if stacked else side_by_side, bargap=0.25
  )
  scale = style.scale(range, percent=percent)
  names = style.places(labels, downwards=horizontal)
  if horizontal:
    panels_lib.share_x(figure)
    figure.update_xaxes(**scale)
    figure.update_yaxes(**names)
  else:
    figure.update_xaxes(**names)
    figure.update_yaxes(**scale)
  return figure


def _check(panels):
  for part in panels.values():
    counts = Counter((row.label, row.group) for row in part)
    (label, group), most = counts.most_common(1)[0]
    if most > 1:
      of = f' of group {group!r}' if group else ''
      raise ValueError(f'There are {most} bars labelled {label!r}{of}.')


def _trace(mine, at, colour, value_title, percent, horizontal) -> go.Bar:
  values = [rows_lib.finite(row.value) for row in mine]
  x, y = (values, at) if horizontal else (at, values)
  return go.Bar(
    name=style.text(mine[0].group),
    legendgroup=mine[0].group,
    x=x,
    y=y,
    orientation='h' if horizontal else 'v',
    marker={'color': colour},
    hovertext=[rows_lib.said(row, value_title, percent) for row in mine],
    hoverinfo='text',
    **{'error_x' if horizontal else 'error_y': rows_lib.error_bars(mine)},
    **rows_lib.clicks(mine, value_title, percent),
  )
