"""One look for all figures: colours, axes, and how numbers read."""

from collections.abc import Iterable, Sequence
import html
import math
import numbers

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
_LONGEST_LABEL = 48  # characters; the rest is in the hover text
_MOST_DECIMALS = 6  # from which on numbers have exponents

UNDEFINED = 'not defined'


def colours(names: Iterable[str]) -> dict[str, str]:
  """Returns a colour for each distinct name, in order, as in all figures."""
  names = dict.fromkeys(names)
  return {name: _PALETTE[i % len(_PALETTE)] for i, name in enumerate(names)}


def dashes(names: Iterable[str]) -> dict[str, str]:
  """Returns a dash for each distinct name; solid until colours are used up."""
  names = dict.fromkeys(names)
  return {
    name: _DASHES[i // len(_PALETTE) % len(_DASHES)]
    for i, name in enumerate(names)
  }


def text(value: object) -> str:
  """Returns text that a figure shows as it is: plotly would read it as HTML."""
  return html.escape(str(value), quote=False)


def faint(colour: str, opacity: float) -> str:
  """Returns a colour, '#rrggbb' or '#rgb', that others shine through."""
  digits = colour.removeprefix('#')
  if len(digits) == 3:
    digits = ''.join(2 * digit for digit in digits)
  red, green, blue = (int(digits[i : i + 2], 16) for i in (0, 2, 4))
  return f'rgba({red},{green},{blue},{opacity:g})'


def mixed(colour: str, other: str, share: float) -> str:
  """Returns '#rrggbb' between two such colours; a share of 1 is the other."""
  mine, its = (bytes.fromhex(each[1:]) for each in (colour, other))
  found = (round(a + share * (b - a)) for a, b in zip(mine, its, strict=True))
  return f'#{bytes(found).hex()}'


def short(label: str, longest: int) -> str:
  """Returns a label of so many characters at most, cut off with '…'."""
  return label if len(label) <= longest else f'{label[: longest - 1]}…'


def number(value: float | int | None) -> str:
  """Returns a number as a hover text or a table shows it.

  Whole numbers have commas, others four digits; 'not defined' stands for None
  and for what is not finite.

  Raises:
    TypeError: it is not a number.
  """
  if value is None:
    return UNDEFINED
  if isinstance(value, numbers.Integral):
    return f'{int(value):,}'
  if not isinstance(value, numbers.Real):
    raise TypeError(f'Expected a number or None, not {value!r}.')
  return f'{float(value):.4g}' if math.isfinite(value) else UNDEFINED


def interval(
  value: float | int | None,
  low: float | None = None,
  high: float | None = None,
  *,
  percent: bool = False,
) -> str:
  """Returns a number with its interval, such as '0.53 [0.41, 0.66]'.

  The width of the interval has two digits, and all three numbers as many
  decimals. Without an interval the number is as `number` has it.

  Args:
    value: The number; 'not defined' if None or not finite.
    low: Lower bound; no interval is shown if None or not finite.
    high: Upper bound, likewise.
    percent: True if these are shares, to be shown in percent.
  """
  if number(value) == UNDEFINED:
    return UNDEFINED
  unit = ' %' if percent else ''
  factor = 100 if percent else 1
  if UNDEFINED in (number(low), number(high)) or not high > low:
    alone = factor * value
    return (f'{alone:.1f}' if percent else number(alone)) + unit
  width = float(f'{factor * (high - low):.6g}')
  decimals = max(0, 1 - math.floor(math.log10(width)))
  spelled = [_rounded(factor * each, decimals) for each in (value, low, high)]
  return f'{spelled[0]}{unit} [{spelled[1]}, {spelled[2]}]'


def _rounded(value: float, decimals: int) -> str:
  if decimals > _MOST_DECIMALS:
    return f'{value:.3g}'
  return f'{round(value, decimals) + 0.0:,.{decimals}f}'  # no '-0'


def scale(
  ends: tuple[float, float] | None, *, log: bool = False, percent: bool = False
) -> dict:
  """Returns plotly's arguments of an axis of values.

  Args:
    ends: Ends of the axis, in the values' units. Default: plotly's choice.
    log: True if the axis is logarithmic.
    percent: True if its labels are in percent.
  """
  found = {}
  if log:
    found |= {'type': 'log', 'dtick': 1, 'exponentformat': 'power'}
    ends = ends and tuple(map(math.log10, ends))
  elif percent:
    found |= {'tickformat': '.0%'}
  return found | ({'range': list(ends)} if ends else {})


def places(labels: Sequence[str], *, downwards: bool = False) -> dict:
  """Returns plotly's arguments of an axis of labels, at 0, 1, ... on it.

  They are numbered, because labels may repeat or look like numbers.

  Args:
    labels: The labels; long ones are cut off.
    downwards: True if the first label of a y axis is on top.
  """
  ends = [-0.5, len(labels) - 0.5]
  return {
    'type': 'linear',
    'tickvals': list(range(len(labels))),
    'ticktext': [text(short(label, _LONGEST_LABEL)) for label in labels],
    'range': ends[::-1] if downwards else ends,
    'showgrid': False,
  }


def styled(figure: go.Figure, *, x: str, y: str, height: int = 420):
  """Returns the figure with titles of axes, in the look of all figures."""
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
