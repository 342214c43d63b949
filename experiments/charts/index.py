"""Writes one page over several runs: what each asked, found and was given.

Links are relative, so that the page and the runs can be moved together. A run
that cannot be read is named with the reason.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import datetime
import os
import pathlib
from urllib.parse import quote

from experiments.charts.page import read_contents, write_page
from experiments.runs import outputs

INDEX_FILE = 'index.html'
_NAMES = ('folder', 'path', 'release', 'source', 'name', 'sae_id')


@dataclasses.dataclass(frozen=True, kw_only=True)
class FoundRun:
  """Holds a run for the page.

  Attributes:
    folder: The run's folder, as it was found.
    results: What results.json says; {} if it cannot be read.
    contents: What report.html says, see `read_contents`; {} if it cannot be
      read.
    written: When results.json was written; '' if it is not there.
    problems: Why something of it cannot be read.
  """

  folder: pathlib.Path
  results: Mapping
  contents: Mapping
  written: str
  problems: Sequence[str]


def find_runs(folders: Sequence[str | os.PathLike]) -> list[pathlib.Path]:
  """Returns all runs in and below folders, each once.

  A run has flags.txt, which it writes before its work, or a report, and may
  have runs in it. A folder that has neither, nor a run below it, is taken to be
  a run that failed.

  Raises:
    OSError: there is no such folder.
  """
  found = {}
  for folder in map(pathlib.Path, folders):
    if not folder.is_dir():
      raise NotADirectoryError(f'There is no folder {folder}.')
    for run in list(_below(folder)) or [folder]:
      found.setdefault(run.resolve(), run)
  return list(found.values())


def read_run(folder: pathlib.Path) -> FoundRun:
  """Returns what its files say, or why they cannot be read.

  Not every program writes a report: where there are results, none is missing.
  """
  problems, results, contents, written = [], {}, {}, ''
  try:
    results, written = _read_results(folder / outputs.RESULTS_FILE)
  except (OSError, ValueError) as error:
    problems.append(_reason(error, outputs.RESULTS_FILE))
  try:
    contents = read_contents(folder / outputs.REPORT_FILE)
  except FileNotFoundError as error:
    if not results:
      problems.append(_reason(error, outputs.REPORT_FILE))
  except (OSError, ValueError) as error:
    problems.append(_reason(error, outputs.REPORT_FILE))
  return FoundRun(
    folder=folder,
    results=results,
    contents=contents,
    written=written,
    problems=problems,
  )


def write_index(path: str | os.PathLike, runs: Sequence[FoundRun]):
  """Writes the page.

  Args:
    path: Where to write it; links go from its folder.
    runs: Runs in order.
  """
  start = pathlib.Path(path).parent.resolve()
  write_page(
    path,
    'index.html.j2',
    scripts={},
    runs=[
      _row(run, f'run-{number}', start) for number, run in enumerate(runs, 1)
    ],
    num_broken=sum(bool(run.problems) for run in runs),
  )


def _below(folder: pathlib.Path) -> Iterator[pathlib.Path]:
  for at, folders, files in os.walk(folder):
    # What is hidden is not whole.
    folders[:] = sorted(name for name in folders if not name.startswith('.'))
    if {outputs.FLAGS_FILE, outputs.REPORT_FILE} & set(files):
      yield pathlib.Path(at)


def _read_results(path: pathlib.Path) -> tuple[dict, str]:
  results = outputs.read_json(path)
  if not isinstance(results.get('experiment'), str):
    raise ValueError("it does not name its 'experiment'")
  written = datetime.datetime.fromtimestamp(
    path.stat().st_mtime, tz=datetime.UTC
  )
  return results, f'{written:%Y-%m-%d %H:%M} UTC'


def _reason(error: Exception, name: str) -> str:
  if isinstance(error, FileNotFoundError):
    return f'{name} is missing: the run did not finish.'
  return f'{name} cannot be read: {error}'


def _row(run: FoundRun, id: str, start: pathlib.Path) -> dict:
  """Returns a run as the template shows it."""
  results, contents = run.results, run.contents
  folder = os.path.relpath(run.folder.resolve(), start)
  # With ./, or a folder's name could be taken for a scheme.
  report = f'./{quote(folder)}/{outputs.REPORT_FILE}'
  return {
    'id': id,
    'folder': folder,
    'problems': run.problems,
    'experiment': results.get('experiment', ''),
    'question': contents.get('title', ''),
    'summary': contents.get('summary', []),
    'report': report if contents else '',
    'sections': [
      {
        'title': section['title'],
        'href': f'{report}#{quote(section["id"])}',
      }
      for section in contents.get('sections', [])
    ],
    'model': _few(results.get('models', results.get('model'))),
    'saes': _few(results.get('saes', results.get('sae'))),
    'mode': str(results.get('mode', '')),
    'seed': str(results.get('seed', '')),
    'written': run.written,
  }


def _few(value) -> str:
  """Returns names in a few words."""
  names = list(dict.fromkeys(map(_short, _named(value))))
  if len(names) > 2:
    return f'{names[0]} and {len(names) - 1} more'
  return ', '.join(names)


def _named(value, depth: int = 4) -> Iterator[str]:
  """Yields names of models or SAEs, as experiments write them."""
  if isinstance(value, str):
    yield value
  elif isinstance(value, list) and depth:
    for each in value:
      yield from _named(each, depth - 1)
  elif isinstance(value, Mapping) and depth:
    parts = [value[k] for k in _NAMES if isinstance(value.get(k), str)]
    if parts:
      yield parts[0]
    else:  # several, by name
      several = [v for v in value.values() if isinstance(v, Mapping)]
      yield from _named(several, depth - 1)


def _short(name: str) -> str:
  """Returns the end of an absolute path; other names as they are."""
  path = pathlib.PurePath(name)
  return '/'.join(path.parts[-3:]) if path.is_absolute() else name
