"""One look for all figures."""

from collections.abc import Iterable
import html

import plotly.graph_objects as go

# Distinct to colour-blind eyes (Okabe and Ito, 2008), black left for axes;
# then darker ones of the same hues.
_PALETTE = (
  '#0072B2',
  '#D55E00',
  '#009E73',
  '#CC79A7',
  '#E69F00',
  '#56B4E9',
  '#7A5195',
  '#8C564B',
  '#4D4D4D',
  '#B8B400',
)
# Beyond the palette, dashes tell lines of one colour apart.
_DASHES = ('solid', 'dash', 'dot', 'dashdot')
_GRID = '#e5e5e5'


def colours(names: Iterable[str]) -> dict[str, str]:
  """A colour for each distinct name, in order: the same in all figures."""
  names = dict.fromkeys(names)
  return {name: _PALETTE[i % len(_PALETTE)] for i, name in enumerate(names)}


def dashes(names: Iterable[str]) -> dict[str, str]:
  """A dash for each distinct name; solid until colours are used up."""
  names = dict.fromkeys(names)
  return {
    name: _DASHES[i // len(_PALETTE) % len(_DASHES)]
    for i, name in enumerate(names)
  }


def text(value: object) -> str:
  """Text that a figure shows as it is: plotly would read it as HTML."""
  return html.escape(str(value), quote=False)


def number(value: float | int | None) -> str:
  """For a hover label or a table."""
  if value is None:
    return 'not defined'
  if isinstance(value, int):
    return f'{value:,}'
  return f'{value:.4g}'


def styled(figure: go.Figure, *, x: str, y: str, height: int = 420):
  """The figure with axes titled, and the look of all of them."""
  axis = {
    'gridcolor': _GRID,
    'linecolor': 'black',
    'ticks': 'outside',
    'zeroline': False,
    'automargin': True,
  }
  figure.update_xaxes(title_text=text(x), **axis)
  figure.update_yaxes(title_text=text(y), **axis)
  figure.update_layout(
    template='none',
    height=height,
    font={'family': 'system-ui, sans-serif', 'size': 13},
    margin={'l': 70, 'r': 20, 't': 30, 'b': 60},
    hovermode='closest',
    hoverlabel={'align': 'left'},
    legend={'orientation': 'h', 'yanchor': 'bottom', 'y': 1.02, 'x': 0},
    showlegend=True,
  )
  return figure
