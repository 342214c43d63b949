"""Panels side by side, under one legend."""

from collections.abc import Iterable, Mapping, Sequence
import math
from typing import TypeVar

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from experiments.charts import style

Item = TypeVar('Item')

COLUMNS = 3  # panels side by side
_BETWEEN = 110  # pixels between rows of panels, for titles and labels
# Pixels of a legend's line, its characters, and what is around an entry.
_LEGEND_WIDTH, _LEGEND_HEIGHT = 1000, 24
_CHARACTER, _AROUND = 7.5, 50


def by_panel(
  given: Iterable[Item] | Mapping[str, Iterable[Item]], what: str
) -> dict[str, list[Item]]:
  """Returns what is in each panel; a single one has no title.

  Args:
    given: All of one panel, or title -> what is in it.
    what: What that is, for the error.

  Raises:
    ValueError: there is no panel, or one is empty.
  """
  panels = given if isinstance(given, Mapping) else {'': given}
  panels = {title: list(items) for title, items in panels.items()}
  if not panels:
    raise ValueError(f'There are no {what} to draw: no panel is given.')
  for title, items in panels.items():
    if not items:
      where = f' in panel {title!r}' if title else ''
      raise ValueError(f'There are no {what} to draw{where}.')
  return panels


def grid(
  titles: Sequence[str],
  *,
  height: int,
  share_y: bool = True,
  columns: int = COLUMNS,
) -> tuple[go.Figure, list[dict[str, int]]]:
  """Makes a figure of empty panels.

  Args:
    titles: The title of each panel.
    height: Height of a panel, in pixels.
    share_y: True if all panels have one y axis.
    columns: How many panels are side by side at most.

  Returns:
    The figure, whose height is set, and the row and col of each panel.
  """
  columns = min(columns, len(titles))
  rows = -(-len(titles) // columns)
  total = rows * (height + _BETWEEN)
  places = [
    {'row': i // columns + 1, 'col': i % columns + 1}
    for i in range(len(titles))
  ]
  figure = make_subplots(
    rows=rows,
    cols=columns,
    shared_yaxes='all' if share_y else False,
    subplot_titles=[style.text(title) for title in titles],
    specs=[
      [{} if r * columns + c < len(titles) else None for c in range(columns)]
      for r in range(rows)
    ],
    horizontal_spacing=0.04 if share_y else 0.09,
    vertical_spacing=_BETWEEN / total if rows > 1 else 0,
  )
  figure.update_layout(height=total + 50)
  return figure, places


def share_x(figure: go.Figure):
  """Gives all panels one x axis; each keeps its labels."""
  _, *others = figure.select_xaxes()
  for axis in others:
    axis.matches = 'x'


def finished(
  figure: go.Figure, *, x_title: str, y_title: str, title: str = ''
) -> go.Figure:
  """Returns the figure of `grid` in the look of all, its legend on top.

  Args:
    figure: The figure with its traces.
    x_title: Title of every x axis.
    y_title: Title of the y axes on the left.
    title: Title of the figure, from which its address on a page is made.
  """
  names = [
    each.name
    for each in (*figure.data, *figure.layout.shapes)
    if each.showlegend
  ]
  lines = math.ceil(
    sum(_AROUND + _CHARACTER * len(name) for name in names) / _LEGEND_WIDTH
  )
  head = 32 if title else 0
  titled = any(each.text for each in figure.layout.annotations)
  top = 20 + head + _LEGEND_HEIGHT * lines + 24 * titled
  height = figure.layout.height - 80 + top
  figure = style.styled(figure, x=x_title, y='', height=height)
  figure.update_yaxes(title_text=style.text(y_title), col=1)
  figure.update_layout(
    margin={'t': top},
    showlegend=bool(names),
    legend={
      'yref': 'container',
      'yanchor': 'top',
      'y': 1 - (head + 6) / height,
      'traceorder': 'normal',
    },
  )
  if title:
    figure.update_layout(
      title={
        'text': style.text(title),
        'yref': 'container',
        'yanchor': 'top',
        'y': 1 - 8 / height,
        'x': 0,
        'xref': 'paper',
        'font': {'size': 15},
      }
    )
  return figure
