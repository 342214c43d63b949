r"""Runs all of it, and prints the paper's table beside ours.

  python -m experiments.paper --out=out/paper           # MiniWorld

  python -m experiments.paper --out=out/paper_2b \
    --family=gemma-2-2b --entities=wikidata --text=pile_10k.jsonl

Does the system of arXiv 2411.14257 give what was published? The binaries of
`experiments` run one after the other, each in a folder of its name in --out;
then every published number stands beside ours: value, interval, and whether
they agree.

For gemma-2-2b and gemma-2-9b the published numbers are those of the paper, of
its figures and of its code (experiments/paper/claims/, with sources), and the
mode is `reference`, which has the published code's defects. For MiniWorld they
are goals; each says whether it was set before or after the results of the
bundled world were seen, and by which commit. What is an identity, or true by
construction of the world, is listed apart and not counted.

A number of ours is `inside` if the published one is in its 95 % interval, or,
where the claim has bounds, if ours is within these.

--out gets results.json and report.html with the table, and index.html, a page
that links all reports. The same command again skips what is finished and goes
on where it was killed; a program runs again whose flags changed, or the results
that it goes on from. --only runs some of them; what others have left counts if
it is of the same flags, else it is `missing`.
"""

from collections.abc import Sequence
import dataclasses
import functools
import json
import pathlib
import subprocess
import sys
import time
from typing import Literal

from experiments.charts import Section, Table, write_report
from experiments.charts.index import (
  INDEX_FILE,
  find_runs,
  read_run,
  write_index,
)
from experiments.charts.style import number
from experiments.inputs.settings import Mode
from experiments.paper import (
  FAMILIES,
  INSIDE,
  KINDS,
  MISSING,
  OUTSIDE,
  RESULT,
  UNJUDGED,
  WORLD,
  Compared,
  compare,
  programs,
  read_claims,
)
from experiments.paper.programs import PROGRAMS, Program
from experiments.runs import (
  Count,
  KeepFlags,
  Seed,
  check_numbers,
  checksums,
  outputs,
  start,
)

_DONE = '.finished.json'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
  """Says which programs run, on what.

  Attributes:
    out: Folder for everything that is written.
    family: Which models run, and whose claims are compared.
    entities: Folder of entity files; not for MiniWorld.
    text: Plain text (.txt or .jsonl), for the frequency filter and the
      likelihood of tokens; the paper has pile-10k. Not for MiniWorld.
    mode: 'reference' does what the published code did, its defects included.
      Default: 'reference' for published models, 'default' for MiniWorld.
    seed: Random seed of all draws.
    questions: Number of questions per entity type and class that
      entity_recognition steers. Default: 100.
    only: Programs to run; all of them stay in the table.
    docs: Page of the documentation to renew: the table takes the place of what
      is between the lines '<!-- claims -->' and '<!-- end of claims -->'.
  """

  out: str
  family: Literal[*FAMILIES] = 'miniworld'
  entities: str | None = None
  text: str | None = None
  mode: Mode | None = None
  seed: Seed = 0
  questions: Count | None = None
  only: tuple[Literal[*PROGRAMS], ...] = PROGRAMS
  docs: str | None = None

  def __post_init__(self):
    check_numbers(self)


def work(settings: Settings, keep_flags: KeepFlags) -> int:
  """Runs programs, compares and writes the table; returns the exit code."""
  out = pathlib.Path(settings.out)
  if settings.docs is not None:
    renewed(pathlib.Path(settings.docs), '')  # refused before any work
  claims = read_claims(settings.family)
  make = functools.partial(
    programs,
    settings.family,
    settings.out,
    entities=settings.entities,
    text=settings.text,
    mode=settings.mode,
    seed=settings.seed,
    questions=settings.questions,
  )
  left, todo = _Left(make(), out), make(only=settings.only)
  keep_flags()
  failed = _run_all(todo, left)
  why = {name: left.why_not(name) for name in PROGRAMS}
  results = {name: left.results(name) for name in why if not why[name]}
  rows = [compare(claim, results, why) for claim in claims]
  outputs.write_results(
    out,
    {
      'experiment': 'paper',
      'family': settings.family,
      'mode': next(iter(left.programs.values())).flags['mode'],
      'seed': settings.seed,
      'failed': failed,
      'claims': [row.to_dict() for row in rows],
      'versions': outputs.versions(),
    },
  )
  _write_page(out, settings.family, rows, failed)
  write_index(out / INDEX_FILE, [read_run(each) for each in find_runs([out])])
  if settings.docs is not None:
    page = pathlib.Path(settings.docs)
    outputs.write_text(page, renewed(page, docs_table(rows)))
  print('\n'.join(_lines(rows)))
  for name, code in failed.items():
    print(f'{name} failed with exit code {code}: its output is above.')
  print(f'Written: {out / outputs.REPORT_FILE}, {out / INDEX_FILE}')
  return 1 if failed else 0


class _Left:
  """Holds what programs have left in their folders, now or earlier.

  A finished program leaves a mark: its flags, and what it went on from.
  """

  def __init__(self, every: Sequence[Program], out: pathlib.Path):
    """Takes all programs, as they are to be run now."""
    self.programs = {program.name: program for program in every}
    self._out = out

  def folder(self, name: str) -> pathlib.Path:
    """Returns the folder of a program."""
    return self._out / name

  def why_not(self, name: str) -> str:
    """Returns why a program's results do not count; '' if they do."""
    if name not in self.programs:
      return 'has not run'
    for need in self.programs[name].needs:
      if lost := self.why_not(need):
        return f'needs {need}, which {lost}'
    mark, results = self._mark(name), self._file(name)
    if not (mark.is_file() and results.is_file()):
      return 'has not run'
    now = self._now(name)
    try:
      then = outputs.read_json(mark)
      outputs.read_json(results)
    except ValueError as error:
      return f'cannot be read: {error}'
    if then.get('results') != now['results']:
      return 'has other results than it finished with'
    if then.get('flags') != now['flags']:
      return 'has finished with other flags'
    if then.get('needs') != now['needs']:
      return 'has finished from other results'
    return ''

  def results(self, name: str) -> dict:
    """Returns the results.json of a program."""
    return outputs.read_json(self._file(name))

  def begin(self, name: str):
    """Takes the mark away."""
    self._mark(name).unlink(missing_ok=True)

  def finish(self, name: str):
    """Sets the mark."""
    text = json.dumps(self._now(name), indent=2) + '\n'
    outputs.write_text(self._mark(name), text)

  def _now(self, name) -> dict:
    """Returns the mark of a program that finishes now."""
    program = self.programs[name]
    return {
      'flags': dict(program.flags),
      'results': checksums.sha256(self._file(name)),
      'needs': {
        need: checksums.sha256(self._file(need)) for need in program.needs
      },
    }

  def _mark(self, name) -> pathlib.Path:
    return self.folder(name) / _DONE

  def _file(self, name) -> pathlib.Path:
    return self.folder(name) / outputs.RESULTS_FILE


def _run_all(todo: Sequence[Program], left: _Left) -> dict[str, int]:
  """Runs what is not finished; returns the exit codes of those that failed."""
  failed = {}
  start = time.monotonic()
  for i, program in enumerate(todo, 1):
    said = f'[{i}/{len(todo)}] {program.name}'
    if not left.why_not(program.name):
      print(f'{said}: finished before')
      continue
    lost = [name for name in program.needs if left.why_not(name)]
    if lost:
      print(f'{said}: left out, needs {lost[0]}, which {left.why_not(lost[0])}')
      failed[program.name] = failed.get(lost[0], 1)
      continue
    spent = time.monotonic() - start
    print(f'{said} (after {spent:.0f} s)', flush=True)
    left.begin(program.name)
    command = program.command(str(left.folder(program.name)))
    code = subprocess.run([sys.executable, *command], check=False).returncode
    if code:
      failed[program.name] = code
    else:
      left.finish(program.name)
  return failed


def _cells(row: Compared) -> list[str]:
  claim = row.claim
  bounds = ''
  if (claim.low, claim.high) != (None, None):
    low = '' if claim.low is None else number(claim.low)
    high = '' if claim.high is None else number(claim.high)
    bounds = f'[{low}, {high}]'
  published = '' if claim.published is None else _shown(claim.published)
  interval = ''
  if row.low is not None and row.high is not None:
    interval = f'[{number(row.low)}, {number(row.high)}]'
  return [
    claim.what + ('' if claim.kind == RESULT else f' ({claim.kind})'),
    ' '.join(filter(None, [published, bounds])),
    '' if row.value is None else _shown(row.value),
    interval,
    '' if row.n is None else str(row.n),
    row.verdict,
  ]


_COLUMNS = ['', 'claimed', 'ours', '95 % interval', 'n', 'verdict']


_MARKS = '<!-- claims -->', '<!-- end of claims -->'


def docs_table(rows: Sequence[Compared]) -> str:
  """Returns the table of claims as Markdown, what is counted first."""
  lines = [_counts(rows), '']
  for title, kinds in (
    ('', (RESULT,)),
    ('By construction of the world, or identities:', KINDS[1:]),
  ):
    of = [row for row in rows if row.claim.kind in kinds]
    if not of:
      continue
    lines += [title, ''] if title else []
    lines += [
      '| claim | bound | ours | 95 % interval | n | verdict | bound set |',
      '| --- | --- | --- | --- | --- | --- | --- |',
    ]
    for row in of:
      cells = _cells(row)
      cells[0] = cells[0].replace('|', '\\|')
      cells.append(' '.join(filter(None, [row.claim.set, row.claim.commit])))
      lines.append(f'| {" | ".join(cells)} |')
    lines.append('')
  return '\n'.join(lines)


def renewed(page: pathlib.Path, table: str) -> str:
  """Returns a page's text with a table between its marks.

  Raises:
    OSError: the page cannot be read.
    ValueError: it lacks a mark.
  """
  text = page.read_text(encoding='utf-8')
  before, found, rest = text.partition(_MARKS[0])
  _, end, after = rest.partition(_MARKS[1])
  if not (found and end):
    raise ValueError(
      f'{page} has no place for the table: put the lines {_MARKS[0]!r} and '
      f'{_MARKS[1]!r} where it shall be.'
    )
  return f'{before}{_MARKS[0]}\n\n{table}\n{_MARKS[1]}{after}'


def _lines(rows: Sequence[Compared]) -> list[str]:
  """Returns the table as text, and how many rows are what."""
  cells = [_COLUMNS, *map(_cells, rows)]
  widths = [max(len(row[i]) for row in cells) for i in range(len(_COLUMNS))]
  lines, section = [], None
  for row, shown in zip([None, *rows], cells, strict=True):
    if row is not None and row.claim.section != section:
      section = row.claim.section
      lines.append(section)
    padded = [
      cell.ljust(width) for cell, width in zip(shown, widths, strict=True)
    ]
    lines.append('  ' + '  '.join(padded).rstrip())
  return [*lines, _counts(rows)]


def _counts(rows: Sequence[Compared]) -> str:
  verdicts = [row.verdict for row in rows if row.claim.kind == RESULT]
  said = f'{len(verdicts)} claims: ' + ', '.join(
    f'{verdicts.count(each)} {each}'
    for each in (INSIDE, OUTSIDE, UNJUDGED, MISSING)
  )
  if apart := len(rows) - len(verdicts):
    said += f'; {apart} identities and rows by construction are not counted'
  return said


def _write_page(out, family, rows, failed):
  sections = []
  for title in dict.fromkeys(row.claim.section for row in rows):
    of = [row for row in rows if row.claim.section == title]
    sections.append(
      Section(
        title=title,
        tables=[
          Table(
            columns=[*_COLUMNS, 'bound set', 'source', 'note'],
            rows=[
              [
                *_cells(row),
                f'{row.claim.set} {row.claim.commit}'.strip(),
                row.claim.source,
                row.why or row.claim.note,
              ]
              for row in of
            ],
          )
        ],
      )
    )
  summary = [
    f'{_counts(rows)}. Inside: the claimed number is in our 95 % interval, or '
    'ours is within the [bounds] of the claim.',
    *(
      [f'Bounds were set before or after the results of {WORLD} were seen.']
      if family == 'miniworld'
      else []
    ),
    *(f'{name} failed with exit code {code}.' for name, code in failed.items()),
  ]
  write_report(
    out / outputs.REPORT_FILE,
    'Does the bundled world show what it must?'
    if family == 'miniworld'
    else f'Does {family} give what was published?',
    summary,
    sections,
  )


def _shown(value: float | str) -> str:
  return value if isinstance(value, str) else number(value)


if __name__ == '__main__':
  start(Settings, work)
