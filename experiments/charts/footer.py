"""The end of every report: what its numbers were computed with."""

from collections.abc import Iterable, Mapping, Sequence

from experiments.charts.page import Section
from experiments.charts.table import Table


def footer(results: Mapping, rows: Iterable[Sequence[str]]) -> Section:
  """Returns a table of what was given, of the mode, seed and versions.

  Args:
    results: A results.json with 'mode', 'seed' and 'versions'.
    rows: Name and value of whatever else was given.
  """
  return Section(
    title='What this was computed with',
    text=['flags.txt repeats the run; results.json has every number.'],
    tables=[
      Table(
        columns=['', ''],
        rows=[
          *map(list, rows),
          ['mode', results['mode']],
          ['seed', str(results['seed'])],
          *map(list, results['versions'].items()),
        ],
      )
    ],
  )
