"""Lines and bands that a chart is compared with, such as chance or controls."""

from collections.abc import Mapping

import plotly.graph_objects as go

from experiments.charts import style
from experiments.charts.rows import check_interval, finite

# A value, or by name: values, and (low, high) of bands.
Reference = float | Mapping[str, float | tuple[float, float]]

_BLACK = '#000000'
_BAND = '#9a9a9a'
_DASHES = ('dash', 'dot', 'dashdot', 'longdash')


def add_references(
  figure: go.Figure, reference: Reference | None, axis: str, num_panels: int
):
  """Draws lines and bands across all panels; names are in the legend.

  Args:
    figure: The figure with its panels.
    reference: A value, or name -> value, or (low, high) of a band. What is not
      finite is not drawn.
    axis: 'x' or 'y', on which the values are.
    num_panels: How many panels there are.

  Raises:
    ValueError: a band ends before it begins.
  """
  if reference is None:
    return
  if not isinstance(reference, Mapping):
    reference = {'': reference}
  lines = 0
  for name, value in reference.items():
    if isinstance(value, tuple | list):
      low, high = value
      check_interval(low, high, f'reference {name!r}')
      look = {'type': 'rect', 'fillcolor': _BAND, 'opacity': 0.25}
      look |= {'line': {'width': 0}, 'layer': 'below'}
    else:
      low = high = value
      dash = _DASHES[lines % len(_DASHES)]
      lines += 1
      look = line_look(_BLACK, dash=dash, width=1)
    add_shape(figure, name, low, high, axis, num_panels, look)


def line_look(colour: str, dash: str, width: float) -> dict:
  """Returns plotly's arguments of a line."""
  line = {'color': colour, 'dash': dash, 'width': width}
  return {'type': 'line', 'line': line}


def add_shape(
  figure: go.Figure,
  name: str,
  low: float | None,
  high: float | None,
  axis: str,
  num_panels: int,
  look: Mapping,
):
  """Draws a shape from low to high of an axis, across each panel."""
  low, high = finite(low), finite(high)
  if low is None or high is None:
    return
  other = {'x': 'y', 'y': 'x'}[axis]
  for panel in range(1, num_panels + 1):
    number = '' if panel == 1 else panel
    figure.add_shape(
      **look,
      **{f'{axis}ref': f'{axis}{number}', f'{axis}0': low, f'{axis}1': high},
      **{f'{other}ref': f'{other}{number} domain', f'{other}0': 0},
      **{f'{other}1': 1},
      name=style.text(name),
      legendgroup=f'reference {name}',
      showlegend=bool(name) and panel == 1,
    )
