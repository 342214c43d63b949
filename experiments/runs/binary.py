"""A study's binary: from flags to settings, from errors to exit codes."""

from collections.abc import Callable, Sequence
import functools
import sys
import time
from typing import Any

from absl import flags

from experiments.runs import outputs
from experiments.runs.settings import define_flags, read_flags

# Called when the input was checked, before the work: writes flags.txt. With
# replace=False it leaves one that is there, which goes with its results.
KeepFlags = Callable[..., None]


def start(settings: type, work: Callable[[Any, KeepFlags], str]):
  """Runs a study.

  Args:
    settings: Its frozen dataclass, whose `out`, if it has one, is the run's
      folder.
    work: Does what settings say, calls what it is given once its input is
      checked, and returns what a terminal shows.
  """
  outputs.start(
    lambda: define_flags(settings), functools.partial(run, settings, work)
  )


def run(
  settings: type,
  work: Callable[[Any, KeepFlags], str],
  values: flags.FlagValues,
  names: Sequence[str],
) -> int:
  """Does what parsed flags say; returns the exit code."""
  begun = time.monotonic()
  try:
    given = read_flags(settings, values)
    folder = getattr(given, 'out', None)
    keep_flags = functools.partial(outputs.write_flags, folder, values, names)
    shown = work(given, keep_flags)
  except (ValueError, OSError, ImportError) as error:
    return outputs.failed(error)
  if shown:
    print(shown)
  if folder is not None:
    spent = time.monotonic() - begun
    print(f'Written: {folder} ({spent:.0f} s)', file=sys.stderr)
  return 0
