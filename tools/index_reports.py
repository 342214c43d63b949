r"""Which runs are there, and what did they find? One page that links them all.

  python -m tools.index_reports --runs=out
  python -m tools.index_reports --runs=out/demo,out/steering --out=out/all

Each of --runs is the folder of a run, or one with runs below it. --out gets
index.html, which needs no network: of every run its experiment, question, main
results, model, SAEs, mode and seed, and links to its report and the sections
of it. A run that is broken or did not finish is named with the reason. Links
are relative: move the folder as a whole.
"""

from collections.abc import Sequence
import pathlib

from absl import flags

from experiments.charts.index import (
  INDEX_FILE,
  find_runs,
  read_run,
  write_index,
)
from experiments.runs import outputs


def define_flags(values: flags.FlagValues = flags.FLAGS) -> list[str]:
  """Defines this program's flags; returns their names."""
  before = set(values)
  flags.DEFINE_list(
    'runs',
    None,
    'Folders of runs, or with runs below them.',
    flag_values=values,
  )
  flags.DEFINE_string(
    'out',
    None,
    'Folder for index.html. Default: that of --runs, if it is one.',
    flag_values=values,
  )
  return sorted(set(values) - before)


def run(values: flags.FlagValues, names: Sequence[str]) -> int:
  """Does what parsed flags say; returns the exit code."""
  del names  # a page over runs is no run, and has no flags.txt
  try:
    if not values.runs:
      raise ValueError('Say which runs: --runs=DIR, or several with commas.')
    if values.out is None and len(values.runs) > 1:
      raise ValueError('Say where the page of several folders goes: --out=DIR.')
    runs = [read_run(folder) for folder in find_runs(values.runs)]
    page = pathlib.Path(values.out or values.runs[0]) / INDEX_FILE
    write_index(page, runs)
  except (OSError, ValueError) as error:
    return outputs.failed(error)
  for each in runs:
    title = each.contents.get('title', each.results.get('experiment'))
    said = ' '.join(each.problems) or title
    print(f'{each.folder}: {said}')
  print(f'Written: {page}')
  return 0


if __name__ == '__main__':
  outputs.start(define_flags, run, lock=False)  # it changes no run
