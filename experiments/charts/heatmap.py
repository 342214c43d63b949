"""Draws effects in colour, centred at 0, with one colour bar for all panels.

Blue is positive and red negative, which colour-blind eyes tell apart, as in
TransformerLens. Rows go up: the last layer is at the top.
"""

from collections.abc import Mapping, Sequence
import math

import numpy as np
from plotly.colors import diverging
import plotly.graph_objects as go

from experiments.charts import panels as panels_lib
from experiments.charts import style
from experiments.charts.details import hover_text, on_click

_LONGEST_LABEL = 24  # along an axis; the rest is in the hover text


def heatmap(
  values: np.ndarray | Mapping[str, np.ndarray],
  *,
  x: Sequence[str],
  y: Sequence[str],
  x_title: str,
  y_title: str,
  colour_title: str,
  hover: Sequence | Mapping[str, Sequence] | None = None,
  significant: np.ndarray | Mapping[str, np.ndarray] | None = None,
  details: Sequence | Mapping[str, Sequence] | None = None,
  text: Sequence | Mapping[str, Sequence] | None = None,
  columns: int = panels_lib.COLUMNS,
  range: float | None = None,
) -> go.Figure:
  """Draws values in colour; hover for numbers, click for details.

  With several panels, `values`, and what else is given [y][x] or [y, x],
  are by the panels' titles.

  Args:
    values: [y, x]; a gap where not finite.
    x: Labels of columns.
    y: Labels of rows.
    x_title: Title of the x axis.
    y_title: Title of the y axis.
    colour_title: What the values are, with unit.
    hover: [y][x] more to say about a cell than where and what it is, such as
      its interval and n.
    significant: bool [y, x], cells that get a dot.
    details: [y][x] what a click shows below the figure, such as prompts.
    text: [y][x] what is written in a cell, such as a token.
    columns: Most panels side by side.
    range: The colours reach from -range to range. Default: as far as values.

  Raises:
    ValueError: shapes do not fit, there is no panel or cell, panels differ, or
      the range is not positive.
  """
  panels = _panels('values', values, values)
  given = {
    name: None if part is None else _panels(name, part, values)
    for name, part in (
      ('hover', hover),
      ('significant', significant),
      ('details', details),
      ('text', text),
    )
  }
  panels = {
    title: np.asarray(part, np.float64) for title, part in panels.items()
  }
  shape = (len(y), len(x))
  for title, part in panels.items():
    _check('values', part.shape, shape, title)
    for name, parts in given.items():
      if parts is not None:
        found = np.shape(parts[title])
        _check(name, found, shape, title)
  reach = _reach(panels) if range is None else float(range)
  if not reach > 0:
    raise ValueError(f'range must be positive, not {range}.')
  row = 19 if text is None else 26
  figure, places = panels_lib.grid(
    list(panels), height=max(220, row * len(y)), columns=columns
  )
  for i, (title, part) in enumerate(panels.items()):
    mine = {k: None if v is None else v[title] for k, v in given.items()}
    place = places[i]
    names = _names(x, y, part, colour_title)
    figure.add_trace(_cells(part, names, mine), **place)
    if mine['significant'] is not None:
      figure.add_trace(_dots(mine['significant'], first=not i), **place)
  figure = style.styled(figure, x=x_title, y='', height=figure.layout.height)
  figure.update_yaxes(title_text=style.text(y_title), col=1)
  return _laid_out(figure, x, y, colour_title, reach)


def _panels(name, part, values) -> Mapping:
  """Returns what is given by panel; one panel has no title."""
  several = isinstance(values, Mapping)
  if isinstance(part, Mapping) != several:
    raise ValueError(
      f'{name} must be {"by panel" if several else "of one panel"}, as values '
      'are.'
    )
  if not several:
    return {'': part}
  if not values or part.keys() != values.keys():
    raise ValueError(
      f'{name} has panels {list(part)}; values has {list(values)}.'
    )
  return part


def _check(name, found, expected, title):
  if tuple(found[:2]) != expected or len(found) != 2 or 0 in expected:
    where = f' of panel {title!r}' if title else ''
    raise ValueError(
      f'{name}{where} has shape {list(found)}; the labels of y and x make '
      f'{list(expected)}.'
    )


def _reach(panels) -> float:
  """Returns the largest absolute value of all panels."""
  finite = np.concatenate([part[np.isfinite(part)] for part in panels.values()])
  return float(np.abs(finite).max(initial=0)) or 1.0


def _names(x, y, values, colour_title) -> list[list[str]]:
  """Returns where each cell is and what its value is."""
  return [
    [
      f'{row}, {column}\n{colour_title}: {style.number(value)}'
      for column, value in zip(x, line, strict=True)
    ]
    for row, line in zip(y, values, strict=True)
  ]


def _cells(values, names, mine) -> go.Heatmap:
  hover, details = mine['hover'], mine['details']
  clicked = {}
  if details is not None:
    clicked = on_click(
      [
        [
          f'{name}\n\n{more}' if more else ''
          for name, more in zip(*row, strict=True)
        ]
        for row in zip(names, details, strict=True)
      ]
    )
  written = {}
  if mine['text'] is not None:
    written = {
      'text': [[style.text(each) for each in row] for row in mine['text']],
      'texttemplate': '%{text}',
    }
  return go.Heatmap(
    z=[[v if math.isfinite(v) else None for v in row] for row in values],
    coloraxis='coloraxis',
    xgap=1,
    ygap=1,
    hovertext=[
      [
        hover_text(
          name,
          '' if hover is None else hover[i][j],
          clickable=details is not None and bool(details[i][j]),
        )
        for j, name in enumerate(row)
      ]
      for i, row in enumerate(names)
    ],
    hoverinfo='text',
    hoverongaps=False,
    **clicked,
    **written,
  )


def _dots(significant, first) -> go.Scatter:
  rows, columns = np.nonzero(np.asarray(significant, bool))
  return go.Scatter(
    name='significant',
    legendgroup='significant',
    showlegend=first,
    x=columns.tolist(),
    y=rows.tolist(),
    mode='markers',
    marker={
      'color': 'black',
      'size': 6,
      'line': {'color': 'white', 'width': 1},
    },
    hoverinfo='skip',  # and clicks reach the cell below
  )


def _laid_out(figure, x, y, colour_title, reach) -> go.Figure:
  for axes, labels in ((figure.update_xaxes, x), (figure.update_yaxes, y)):
    # Numbered, because labels may repeat, or look like numbers.
    axes(
      tickvals=list(np.arange(len(labels))),
      ticktext=[
        style.text(style.short(label, _LONGEST_LABEL)) for label in labels
      ],
      range=[-0.5, len(labels) - 0.5],
      showgrid=False,
      ticks='',
    )
  figure.update_layout(
    coloraxis={
      'colorscale': diverging.RdBu,
      'cmin': -reach,
      'cmid': 0,
      'cmax': reach,
      'colorbar': {
        'title': {'text': style.text(colour_title), 'side': 'right'},
        'thickness': 14,
      },
    },
    margin={'t': 70},
    legend={'y': 1, 'yref': 'container', 'yanchor': 'top'},
  )
  return figure
