"""The end of every report: what its numbers were computed with."""

from collections.abc import Iterable, Mapping, Sequence

from experiments.report.page import Section, Table


def footer(results: Mapping, rows: Iterable[Sequence[str]]) -> Section:
  """A table of what was given, of the mode, the seed and the versions.

  Args:
    results: Of results.json: 'mode', 'seed' and 'versions'.
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
