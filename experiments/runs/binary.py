"""A study's binary: from flags to settings, from errors to exit codes."""

from collections.abc import Callable, Sequence
import functools
import pathlib
import sys
import time
from typing import Any

from absl import flags

from experiments import outputs
from experiments.runs.settings import define_flags, read_flags

# Called when the input was checked, before the work: writes flags.txt.
KeepFlags = Callable[[], None]


def start(settings: type, work: Callable[[Any, KeepFlags], str]):
  """Runs a study.

  Args:
    settings: Its frozen dataclass, whose `out` is the run's folder.
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
    folder = pathlib.Path(given.out)
    shown = work(given, lambda: outputs.write_flags(folder, values, names))
  except (ValueError, OSError, ImportError) as error:
    return outputs.failed(error)
  if shown:
    print(shown)
  spent = time.monotonic() - begun
  print(f'Written: {folder} ({spent:.0f} s)', file=sys.stderr)
  return 0
