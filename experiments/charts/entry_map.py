"""A heat map of entries of results, such as of heads by layer."""

from collections.abc import Callable, Mapping, Sequence
import math
from typing import Any

import plotly.graph_objects as go

from experiments.charts.heatmap import heatmap
from experiments.stats.multiplicity import ALPHA


def entry_map(
  panels: Mapping[str, Sequence[Mapping]],
  *,
  row: str,
  column: str,
  y: Mapping[Any, str],
  x: Mapping[Any, str],
  value: Callable[[Mapping], float],
  p: str,
  said: Callable[[Mapping], str],
  x_title: str,
  y_title: str,
  colour_title: str,
) -> go.Figure:
  """Draws entries in colour, a gap where there is none.

  Args:
    panels: Title -> entries.
    row, column: Keys of what tells an entry's row and column.
    y, x: That -> label, of all rows and columns in order.
    value: Returns the value of an entry.
    p: Key of a p-value, or None; entries get a dot where it is small.
    said: Returns what the hover text of an entry says besides its value.
    x_title: Title of the x axis.
    y_title: Title of the y axis.
    colour_title: What the values are, with unit.
  """
  found = {
    (title, e[row], e[column]): e
    for title, part in panels.items()
    for e in part
  }

  def grids(of, nothing):
    at = lambda *place: of(found[place]) if place in found else nothing
    return {
      title: [[at(title, i, j) for j in x] for i in y] for title in panels
    }

  return heatmap(
    grids(value, math.nan),
    x=list(x.values()),
    y=list(y.values()),
    x_title=x_title,
    y_title=y_title,
    colour_title=colour_title,
    hover=grids(said, ''),
    significant=grids(lambda e: e[p] is not None and e[p] <= ALPHA, False),
  )
