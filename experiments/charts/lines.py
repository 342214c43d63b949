"""Curves with the bands of their intervals, in one panel or several."""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
from typing import Self

import plotly.graph_objects as go

from experiments.charts import panels as panels_lib
from experiments.charts import style
from experiments.charts.details import hover_text, on_click
from experiments.charts.points import Points, X, find_labels
from experiments.charts.references import Reference, add_references
from experiments.charts.rows import Groups, check_interval, group_colours, parts
from experiments.stats.intervals import Estimate

_HEIGHT = 300
_MARKED = 60  # points up to which each has a marker
_BAND_OPACITY = 0.18
_BAND = 'band'  # what traces of bands are marked with


@dataclasses.dataclass(frozen=True, eq=False)
class Line:
  """Holds one line.

  Attributes:
    name: Its name in the legend. Lines of one name are switched together.
    x: Numbers, or labels, [n].
    y: Values [n]; a gap where None or not finite.
    low: Lower bounds [n] of a band; a gap where None or not finite.
    high: Upper bounds [n].
    group: Name of its colour; lines of one group share it. Default: the name.
    hover: What hover texts [n] say besides name, x, y and interval.
    dash: True if it is dashed, as a control.
    details: Texts [n] that clicks show below the figure.
    hidden: True if it shows only after a click on its name in the legend.
    labels: Texts [n] beside the points.
  """

  name: str
  x: X
  y: Sequence[float | None]
  low: Sequence[float | None] | None = None
  high: Sequence[float | None] | None = None
  group: str = ''
  hover: Sequence[str] | None = None
  dash: bool = False
  details: Sequence[str] | None = None
  hidden: bool = False
  labels: Sequence[str] | None = None

  def __post_init__(self):
    if (self.low is None) != (self.high is None):
      raise ValueError(f'Line {self.name!r} has one bound; it needs both.')
    n = len(self.x)
    if not n:
      raise ValueError(f'Line {self.name!r} has no points.')
    for what in ('y', 'low', 'high', 'hover', 'details', 'labels'):
      found = getattr(self, what)
      if found is not None and len(found) != n:
        raise ValueError(
          f'Line {self.name!r} has {n} x and {len(found)} {what}.'
        )
    for low, high in zip(*self.bounds, strict=True):
      check_interval(low, high, f'line {self.name!r}')

  @classmethod
  def of(
    cls,
    name: str,
    x: X,
    estimates: Sequence[Estimate | Mapping],
    *,
    hover: Sequence[str] | None = None,
    **given,
  ) -> Self:
    """Returns the line of estimates; its hover texts say n.

    Args:
      name: Its name in the legend.
      x: Numbers, or labels, [n].
      estimates: Estimates [n], or their dicts from results.json.
      hover: What else hover texts [n] say.
      **given: Other fields.

    Raises:
      ValueError: lengths differ, or there are no points.
    """
    hover = [''] * len(estimates) if hover is None else hover
    if not estimates:
      raise ValueError(f'Line {name!r} has no points.')
    if len(hover) != len(estimates):
      raise ValueError(
        f'Line {name!r} has {len(estimates)} estimates and {len(hover)} hover.'
      )
    found = [parts(e, h) for e, h in zip(estimates, hover, strict=True)]
    y, low, high, said = (list(each) for each in zip(*found, strict=True))
    return cls(name, x, y, low, high, hover=said, **given)

  @property
  def colour_name(self) -> str:
    """Returns what its colour is chosen by."""
    return self.group or self.name

  @property
  def bounds(self) -> tuple[Sequence, Sequence]:
    """Returns low and high, of None where there are none."""
    nothing = [None] * len(self.x)
    return (
      nothing if self.low is None else self.low,
      nothing if self.high is None else self.high,
    )


def lines(
  series: Sequence[Line] | Mapping[str, Sequence[Line]],
  *,
  x_title: str,
  y_title: str,
  groups: Groups | None = None,
  reference: Reference | None = None,
  x_reference: Reference | None = None,
  percent: bool = False,
  x_range: tuple[float, float] | None = None,
  y_range: tuple[float, float] | None = None,
  x_log: bool = False,
  y_log: bool = False,
  share_y: bool = True,
  columns: int = panels_lib.COLUMNS,
  title: str = '',
) -> go.Figure:
  """Draws a line per entry, with a band where it has an interval.

  Labels on x are in the order in which they first appear. They may repeat if
  all lines have the same ones, as tokens of a prompt do.

  Args:
    series: Lines, or panel's title -> lines. Panels share the legend.
    x_title: What x is, with its unit.
    y_title: What y is, with its unit.
    groups: The order of groups, or group -> colour, in order. Default: the
      order of the lines.
    reference: Where on y to draw a line across, such as at chance, or name ->
      value, or (low, high) of a band.
    x_reference: Where on x, likewise.
    percent: True if y is a share, to be shown in percent.
    x_range: Ends of the x axis. Default: as far as the lines.
    y_range: Ends of the y axis. Default: as far as lines and bands.
    x_log: True if the x axis is logarithmic; a gap where x is not positive.
    y_log: True if the y axis is logarithmic; a gap where y is not positive.
    share_y: True if panels share the y axis.
    columns: Most panels side by side.
    title: Title of the figure.

  Raises:
    ValueError: there are no lines, some x are numbers and others labels, labels
      repeat in one line and differ from another's, or a group is not one of
      `groups`.
  """
  panels = panels_lib.by_panel(series, 'lines')
  every = [line for part in panels.values() for line in part]
  labels = find_labels(
    {f'{i} ({line.name!r})': line.x for i, line in enumerate(every)}
  )
  colours = group_colours((line.colour_name for line in every), groups)
  dashes = style.dashes(colours)
  figure, places = panels_lib.grid(
    list(panels), height=_HEIGHT, share_y=share_y, columns=columns
  )
  count = len(panels)
  add_references(figure, reference, 'y', count)
  add_references(figure, x_reference, 'x', count)
  said = _Said(x_title, y_title, percent)
  shown = set()
  for part, place in zip(panels.values(), places, strict=True):
    for line in part:
      points = Points(
        line.x, line.y, line.bounds, labels=labels, x_log=x_log, y_log=y_log
      )
      look = {
        'colour': colours[line.colour_name],
        'dash': 'dot' if line.dash else dashes[line.colour_name],
      }
      for trace in _traces(line, points, look, said):
        if trace.meta != _BAND:
          trace.showlegend = bool(line.name) and line.name not in shown
        figure.add_trace(trace, **place)
      shown.add(line.name)
  figure = panels_lib.finished(
    figure, x_title=x_title, y_title=y_title, title=title
  )
  x_axis = style.scale(x_range, log=x_log)
  if labels is not None:
    x_axis = style.places(labels)
  figure.update_xaxes(**x_axis)
  figure.update_yaxes(**style.scale(y_range, log=y_log, percent=percent))
  return figure


class _Said:
  """Makes the hover texts of a line, and what clicks show."""

  def __init__(self, x_title: str, y_title: str, percent: bool):
    self._x_title, self._y_title, self._percent = x_title, y_title, percent

  def point(self, line: Line, i: int) -> tuple[str, str]:
    """Returns where a point is, and its value."""
    x = line.x[i]
    where = f'{self._x_title} {x if isinstance(x, str) else style.number(x)}'
    low, high = (bounds[i] for bounds in line.bounds)
    value = style.interval(line.y[i], low, high, percent=self._percent)
    return where.strip(), f'{self._y_title}: {value}'.removeprefix(': ')

  def hover(self, line: Line, i: int) -> str:
    """Returns a hover text."""
    more = '' if line.hover is None else line.hover[i]
    details = '' if line.details is None else line.details[i]
    return hover_text(
      line.name, *self.point(line, i), more, clickable=bool(details)
    )

  def click(self, line: Line, i: int) -> str:
    """Returns what a click shows."""
    if not line.details[i]:
      return ''
    where, value = self.point(line, i)
    return f'{line.name}, {where}\n{value}\n\n{line.details[i]}'


def _traces(line, points, look, said) -> Iterator[go.Scatter]:
  """Yields the band, if any, and the line; a band of one point is a bar."""
  runs = list(points.runs())
  joined = [run for run in runs if len(run) > 1]
  lonely = {run[0] for run in runs if len(run) == 1}
  visible = 'legendonly' if line.hidden else True
  if joined:
    x, y = [], []
    for run in joined:
      x += [points.x[i] for i in (*run, *run[::-1])] + [None]
      y += [points.high[i] for i in run] + [points.low[i] for i in run[::-1]]
      y.append(None)
    yield go.Scatter(
      name=style.text(line.name),
      legendgroup=line.name,
      showlegend=False,
      x=x[:-1],
      y=y[:-1],
      mode='lines',
      line={'width': 0},
      fill='toself',
      fillcolor=style.faint(look['colour'], _BAND_OPACITY),
      hoverinfo='skip',
      visible=visible,
      meta=_BAND,
    )
  bars = {}
  if lonely:
    bars['error_y'] = {
      'type': 'data',
      'symmetric': False,
      'array': [
        points.high[i] - y if i in lonely else None
        for i, y in enumerate(points.y)
      ],
      'arrayminus': [
        y - points.low[i] if i in lonely else None
        for i, y in enumerate(points.y)
      ],
      'thickness': 1,
      'width': 3,
    }
  clicks = {}
  n = len(points.x)
  if line.details is not None and any(line.details):
    clicks = on_click([said.click(line, i) for i in range(n)])
  beside = {}
  if line.labels is not None:
    beside = {
      'text': list(map(style.text, line.labels)),
      # The last text would run out of the figure.
      'textposition': ['top right'] * (n - 1) + ['top left'],
      'textfont': {'size': 10},
    }
  marked = n <= _MARKED or points.isolated()
  mode = 'lines+markers' if marked else 'lines'
  yield go.Scatter(
    name=style.text(line.name),
    legendgroup=line.name,
    x=points.x,
    y=points.y,
    mode=f'{mode}+text' if beside else mode,
    line={'color': look['colour'], 'dash': look['dash'], 'width': 1.8},
    marker={'color': look['colour'], 'size': 6},
    hovertext=[said.hover(line, i) for i in range(n)],
    hoverinfo='text',
    visible=visible,
    **beside,
    **bars,
    **clicks,
  )
