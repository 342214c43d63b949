"""Labelled values with intervals, which `dots` and `bars` draw.

A value is drawn if it is finite, and its interval if both bounds are. Rows of
one label share a place on the axis; rows of one group share a colour.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
import dataclasses
import math
import re
from typing import Self

from experiments.charts import panels as panels_lib
from experiments.charts import style
from experiments.charts.details import hover_text, on_click
from experiments.stats.intervals import Estimate

# The order of groups, or group -> colour, '#rrggbb', in order.
Groups = Sequence[str] | Mapping[str, str]

_COLOUR = re.compile('#([0-9a-fA-F]{3}){1,2}')


@dataclasses.dataclass(frozen=True)
class Row:
  """Holds one labelled value.

  Attributes:
    label: Name of its place on the axis.
    value: The value; a gap if None or not finite.
    low: Lower bound of its interval.
    high: Upper bound of its interval.
    group: Name of its colour in the legend.
    hover: What the hover text says besides label, group, value and interval.
    details: Text that a click shows below the figure.
  """

  label: str
  value: float | None
  low: float | None = None
  high: float | None = None
  group: str = ''
  hover: str = ''
  details: str = ''

  def __post_init__(self):
    check_interval(self.low, self.high, repr(self.label))

  @classmethod
  def of(
    cls,
    label: str,
    estimate: Estimate | Mapping,
    *,
    group: str = '',
    hover: str = '',
    details: str = '',
  ) -> Self:
    """Returns the row of an estimate; its hover text says n.

    Args:
      label: Name of its place on the axis.
      estimate: An estimate, or its dict from results.json.
      group: Name of its colour in the legend.
      hover: What else the hover text says.
      details: Text that a click shows below the figure.
    """
    value, low, high, said = parts(estimate, hover)
    return cls(label, value, low, high, group, said, details)


def parts(
  estimate: Estimate | Mapping, hover: str = ''
) -> tuple[float | None, float | None, float | None, str]:
  """Returns value, low, high, and a hover text that begins with n."""
  if isinstance(estimate, Estimate):
    estimate = estimate.to_dict()
  n = estimate.get('n')
  said = [] if n is None else [f'n = {n:,}']
  return (
    estimate['value'],
    estimate.get('low'),
    estimate.get('high'),
    '\n'.join([*said, *filter(None, [hover])]),
  )


def finite(value: float | None) -> float | None:
  """Returns the value, or None if it is not finite."""
  if value is None or not math.isfinite(value):
    return None
  return float(value)


def check_interval(low: float | None, high: float | None, where: str):
  """Raises ValueError if an interval ends before it begins."""
  low, high = finite(low), finite(high)
  if low is not None and high is not None and low > high:
    raise ValueError(f'The interval of {where} is [{low}, {high}]: low > high.')


def error_bars(rows: Sequence[Row]) -> dict:
  """Returns plotly's error bars: distances from values to their bounds."""
  above, below = [], []
  for row in rows:
    value, low, high = map(finite, (row.value, row.low, row.high))
    known = None not in (value, low, high)
    above.append(high - value if known else None)
    below.append(value - low if known else None)
  return {
    'type': 'data',
    'symmetric': False,
    'array': above,
    'arrayminus': below,
    'thickness': 1,
    'width': 3,
    'visible': any(each is not None for each in above),
  }


def said(row: Row, value_title: str, percent: bool) -> str:
  """Returns the hover text of a row."""
  return hover_text(
    row.label,
    row.group,
    _value(row, value_title, percent),
    row.hover,
    clickable=bool(row.details),
  )


def clicks(rows: Sequence[Row], value_title: str, percent: bool) -> dict:
  """Returns plotly's arguments for clicks that show rows' details, if any."""
  if not any(row.details for row in rows):
    return {}
  return on_click([_clicked(row, value_title, percent) for row in rows])


def _clicked(row: Row, value_title: str, percent: bool) -> str:
  if not row.details:
    return ''
  names = ', '.join(filter(None, [row.label, row.group]))
  return f'{names}\n{_value(row, value_title, percent)}\n\n{row.details}'


def _value(row: Row, value_title: str, percent: bool) -> str:
  value = style.interval(row.value, row.low, row.high, percent=percent)
  return f'{value_title}: {value}' if value_title else value


def laid_out(
  rows: Sequence[Row] | Mapping[str, Sequence[Row]],
  what: str,
  groups: Groups | None,
) -> tuple[dict[str, list[Row]], list[str], dict[str, str]]:
  """Returns the rows of each panel, all labels, and each group's colour.

  Args:
    rows: Rows of one panel, or panel's title -> rows.
    what: What rows are, for errors.
    groups: As in `group_colours`.

  Raises:
    ValueError: there are no rows, or see `group_colours`.
  """
  panels = panels_lib.by_panel(rows, what)
  names = (row.group for part in panels.values() for row in part)
  return panels, labels(panels), group_colours(names, groups)


def labels(panels: Mapping[str, Sequence[Row]]) -> list[str]:
  """Returns each label once, in the order of the rows."""
  return list(
    dict.fromkeys(row.label for rows in panels.values() for row in rows)
  )


def group_colours(
  names: Iterable[str], groups: Groups | None
) -> dict[str, str]:
  """Returns the colour of each group that is drawn, in the legend's order.

  Args:
    names: Groups of all rows.
    groups: The order of groups, or their colours in order. A group keeps its
      colour where others are missing. Default: the order of the rows.

  Raises:
    ValueError: a row's group is not one of `groups`, or a colour is not
      '#rrggbb'.
  """
  names = dict.fromkeys(names)
  if groups is None:
    return style.colours(names)
  missing = [name for name in names if name not in groups]
  if missing:
    raise ValueError(f'There are rows of {missing}; groups are {list(groups)}.')
  known = groups if isinstance(groups, Mapping) else style.colours(groups)
  for name, colour in known.items():
    if not _COLOUR.fullmatch(colour):
      raise ValueError(f"The colour of {name!r} is {colour!r}, not '#rrggbb'.")
  return {name: colour for name, colour in known.items() if name in names}


def by_group(
  panels: Mapping[str, Sequence[Row]], colours: Mapping[str, str]
) -> Iterator[tuple[int, str, list[Row], bool]]:
  """Yields what each trace draws.

  Args:
    panels: Title -> rows.
    colours: What `group_colours` returned.

  Yields:
    The number of the panel, the group, its rows in this panel, and whether
    this is the trace that names the group in the legend.
  """
  shown = {''}
  for panel, rows in enumerate(panels.values()):
    for group in colours:
      mine = [row for row in rows if row.group == group]
      if mine:
        yield panel, group, mine, group not in shown
        shown.add(group)
