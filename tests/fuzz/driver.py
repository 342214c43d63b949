"""Fuzzing of loaders: valid files, seeded damage, and what may come of it.

A loader may give the same as before, or raise a ValueError or OSError that
names a file of its input, or their folder. It may give something else only
where nothing could know better: for damage to the bytes of a file without a
checksum, and for fields of JSON that say something else with their new value.

To see one case again: `run_case(target, workspace, seed)`.
"""

from collections.abc import Callable, Collection
import contextlib
import dataclasses
import io
import logging
import pathlib
import resource
import signal
import time
import traceback
import warnings
import zlib

import numpy as np

from tests.fuzz.mutations import Damage, damage

# A case may take this long, and need this much more memory.
_SECONDS, _BYTES = 10, 3 * 2**30


@dataclasses.dataclass(frozen=True, kw_only=True)
class Target:
  """A loader and its valid input.

  Attributes:
    name: Name of the target, part of every seed.
    make: Writes the files into an empty folder.
    load: Loads the folder; returns a tree of what came of it.
    cases: Cases of a quick run, of about a second.
    checked: Parts of paths of the files whose content is under a checksum.
    free: JSON fields that may have other values, or defaults; '#' is all items
      of lists.
    leave: Parts of paths of files that are not damaged.
  """

  name: str
  make: Callable[[pathlib.Path], None]
  load: Callable[[pathlib.Path], object]
  cases: int = 100
  checked: Collection[str] = ()
  free: Collection[str] = ()
  leave: Collection[str] = ()


class Workspace:
  """The valid files of a target, and what loading them gives.

  Attributes:
    folder: Folder of the files.
    files: Relative path -> content, of those that are damaged.
    expected: What `load` gives for them, as `_plain` has it.
  """

  def __init__(self, target: Target, folder: pathlib.Path):
    self.folder = folder
    folder.mkdir(parents=True)
    target.make(folder)
    self._all = {
      str(path.relative_to(folder)): path.read_bytes()
      for path in sorted(folder.rglob('*'))
      if path.is_file()
    }
    self.files = {
      name: content
      for name, content in self._all.items()
      if not any(part in name for part in target.leave)
    }
    self.expected = _plain(target.load(folder))
    # The loader itself may write there.
    self.restore()

  def restore(self):
    """Puts all files back as they were."""
    for name, content in self._all.items():
      path = self.folder / name
      if not path.is_file() or path.read_bytes() != content:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


class _TooSlow(BaseException):
  pass


def run_case(target: Target, workspace: Workspace, seed: int) -> str | None:
  """Loads one damaged input; returns what is wrong with what came of it."""
  rng = np.random.default_rng([zlib.crc32(target.name.encode()), seed])
  names = list(workspace.files)
  name = names[int(rng.integers(len(names)))]
  before = workspace.files[name]
  done = damage(name, before, rng)
  if done.content == before:
    return None
  (workspace.folder / name).write_bytes(done.content)
  try:
    with _limits():
      found = target.load(workspace.folder)
    problem = _problem(target, workspace, name, done, found)
  except (ValueError, OSError) as error:
    known = [pathlib.PurePath(each).name for each in workspace.files]
    known.append(str(workspace.folder))
    named = any(each in str(error) for each in known)
    problem = None if named else f'no file is named: {_last_line(error)}'
  except (Exception, _TooSlow) as error:
    problem = _last_line(error)
  finally:
    workspace.restore()
  return problem and f'seed {seed}: {name}, {done.what}: {problem}'


def fuzz(
  target: Target,
  folder: pathlib.Path,
  *,
  seconds: float | None = None,
  first_seed: int = 0,
) -> list[str]:
  """Runs many cases; returns what was wrong, one line per failure.

  Args:
    target: Target.
    folder: A folder to make.
    seconds: How long; None runs `target.cases` cases, always the same ones.
    first_seed: Seed of the first case; the next ones count up.
  """
  workspace = Workspace(target, folder)
  failures, seed = [], first_seed
  until = None if seconds is None else time.monotonic() + seconds
  while (
    seed < first_seed + target.cases
    if until is None
    else time.monotonic() < until
  ):
    if problem := run_case(target, workspace, seed):
      failures.append(problem)
    seed += 1
  return failures


def _problem(target, workspace, name, done: Damage, found) -> str | None:
  """What is wrong with a result; None if it is as before, or may differ."""
  if _plain(found) == workspace.expected:
    return None
  checked = any(part in name for part in target.checked)
  field = done.field
  if field and field.isdecimal() and '#' in target.free:
    field = '#'
  if not checked and (field is None or field in target.free):
    return None
  return 'another result, without a word'


@contextlib.contextmanager
def _limits():
  """Limits time and memory; keeps warnings and prints to itself."""

  def stop(signum, frame):
    raise _TooSlow(f'more than {_SECONDS} s')

  status = pathlib.Path('/proc/self/statm').read_text().split()
  used = int(status[0]) * resource.getpagesize()
  memory = resource.getrlimit(resource.RLIMIT_AS)
  handler = signal.signal(signal.SIGALRM, stop)
  signal.setitimer(signal.ITIMER_REAL, _SECONDS)
  resource.setrlimit(resource.RLIMIT_AS, (used + _BYTES, memory[1]))
  logging.disable(logging.CRITICAL)
  try:
    with (
      warnings.catch_warnings(action='ignore'),
      contextlib.redirect_stderr(io.StringIO()),
    ):
      yield
  finally:
    logging.disable(logging.NOTSET)
    resource.setrlimit(resource.RLIMIT_AS, memory)
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, handler)


def _last_line(error: BaseException) -> str:
  """The error, and the line of this project that raised it."""
  frames = traceback.extract_tb(error.__traceback__)
  ours = [f for f in frames if '.venv' not in f.filename and f.lineno]
  at = ours[-1]
  text = ' '.join(str(error).split())[:200]
  place = f'{pathlib.Path(at.filename).name}:{at.lineno}'
  return f'{type(error).__name__} at {place}: {text}'


def _plain(value):
  """A value that compares equal bit for bit, whatever arrays are in it."""
  if isinstance(value, dict):
    return {key: _plain(item) for key, item in value.items()}
  if isinstance(value, list | tuple):
    return [_plain(item) for item in value]
  if hasattr(value, 'dtype'):
    array = np.asarray(value)
    return str(array.dtype), array.shape, array.tobytes()
  return value
