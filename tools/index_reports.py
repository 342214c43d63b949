r"""Which runs are there, and what did they find? One page that links them all.

  python -m tools.index_reports --runs=out
  python -m tools.index_reports --runs=out/demo,out/steering --out=out/all

Each of --runs is the folder of a run, or one with runs below it. --out gets
index.html, which needs no network: of every run its experiment, question, main
results, model, SAEs, mode and seed, and links to its report and the sections
of it. A run that is broken or did not finish is named with the reason. Links
are relative: move the folder as a whole.
"""

import dataclasses
import pathlib

from experiments.charts.index import (
  INDEX_FILE,
  find_runs,
  read_run,
  write_index,
)
from experiments.runs import KeepFlags, start


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
  """Says which runs are listed, and where.

  Attributes:
    runs: Folders of runs, or with runs below them.
    out: Folder for index.html. Default: that of --runs, if it is one.
  """

  runs: tuple[str, ...]
  out: str | None = None

  def __post_init__(self):
    if not self.runs:
      raise ValueError('--runs is empty; give folders, with commas between.')
    if self.out is None and len(self.runs) > 1:
      raise ValueError('Say where the page of several folders goes: --out=DIR.')


def work(settings: Settings, keep_flags: KeepFlags) -> str:
  """Writes the page; returns what it lists."""
  del keep_flags  # a page over runs is no run, and has no flags.txt
  runs = [read_run(folder) for folder in find_runs(settings.runs)]
  page = pathlib.Path(settings.out or settings.runs[0]) / INDEX_FILE
  write_index(page, runs)
  lines = []
  for each in runs:
    title = each.contents.get('title', each.results.get('experiment'))
    lines.append(f'{each.folder}: {" ".join(each.problems) or title}')
  return '\n'.join([*lines, f'Written: {page}'])


if __name__ == '__main__':
  start(Settings, work, run_folder=False)  # it changes no run
