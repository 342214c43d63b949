"""Tables, and how their cells read."""

from collections.abc import Collection, Iterable, Mapping, Sequence
import dataclasses

import numpy as np

from experiments.charts import style
from experiments.charts.rows import parts
from experiments.stats.intervals import Estimate

# An estimate may be the dict of it that is in results.json.
Cell = str | int | float | None | Estimate | Mapping


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
  """Holds a table of text.

  Attributes:
    columns: The titles.
    rows: As many strings each. Those that look like numbers are set right.
  """

  columns: Sequence[str]
  rows: Sequence[Sequence[str]]


def table(
  columns: Sequence[str],
  rows: Iterable[Sequence[Cell]],
  *,
  percent: Collection[str] = (),
) -> Table:
  """Returns a table of cells that are spelled in one way.

  Text stays as it is; whole numbers have commas; other numbers have four
  digits; an estimate has its interval, as in '0.53 [0.41, 0.66]', with as many
  digits as tell its ends apart; None and what is not finite is 'not defined'.

  Args:
    columns: The titles.
    rows: As many cells each.
    percent: Titles of columns whose numbers are shares, to be shown in percent.

  Raises:
    ValueError: there are no columns or no rows, a row is too short or too
      long, or `percent` names no column.
    TypeError: a cell is something else.
  """
  columns, rows = list(columns), [list(row) for row in rows]
  if not columns or not rows:
    raise ValueError(
      f'A table needs columns and rows, not {len(columns)} columns and '
      f'{len(rows)} rows.'
    )
  unknown = [name for name in percent if name not in columns]
  if unknown:
    raise ValueError(f'percent names {unknown}; columns are {columns}.')
  for number, row in enumerate(rows):
    if len(row) != len(columns):
      raise ValueError(
        f'Row {number} has {len(row)} cells for {len(columns)} columns: {row}.'
      )
  return Table(
    columns=columns,
    rows=[
      [
        spelled(cell, percent=name in percent)
        for name, cell in zip(columns, row, strict=True)
      ]
      for row in rows
    ],
  )


def spelled(cell: Cell, *, percent: bool = False) -> str:
  """Returns the text of a cell; see `table`."""
  if isinstance(cell, str):
    return cell
  if isinstance(cell, Estimate | Mapping):
    value, low, high, _ = parts(cell)
    return style.interval(value, low, high, percent=percent)
  if isinstance(cell, bool | np.bool_):
    return 'yes' if cell else 'no'
  return (
    style.interval(cell, percent=percent) if percent else style.number(cell)
  )
