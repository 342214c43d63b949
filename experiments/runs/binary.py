"""A binary: from flags to settings, from errors to exit codes."""

from collections.abc import Callable, Sequence
import contextlib
import functools
import pathlib
import sys
import time
from typing import Any

from absl import app, flags
from safetensors import SafetensorError

from experiments.runs import outputs, run_lock
from experiments.runs.out_of_memory import OutOfMemory
from experiments.runs.settings import define_flags, read_flags

# Called when the input was checked, before the work: writes flags.txt. With
# replace=False it leaves one that is there, which goes with its results.
KeepFlags = Callable[..., None]
# Does what settings say, and returns what a terminal shows, or the exit code.
Work = Callable[[Any, KeepFlags], str | int]


def start(
  settings: type, work: Work, *, run_folder: bool = True, refused: int = 1
):
  """Runs a binary.

  Args:
    settings: The frozen dataclass of its flags.
    work: What it does.
    run_folder: True if `out`, where settings have it, is the folder of a run,
      which one process writes at a time.
    refused: The exit code where flags or input are wrong.
  """
  flags.FLAGS.verbosity = -1  # libraries log warnings only, unless told to
  names = define_flags(settings)
  for name in names:  # --help lists the flags of the program that was called
    flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[name])

  def main(argv):
    del argv
    return run(
      settings,
      work,
      flags.FLAGS,
      names,
      run_folder=run_folder,
      refused=refused,
    )

  app.run(main, flags_parser=functools.partial(parse, refused=refused))


def parse(
  argv: Sequence[str],
  values: flags.FlagValues | None = None,
  *,
  refused: int = 1,
) -> Sequence[str]:
  """Parses a command line into absl's flags, or into `values`.

  Args:
    argv: The program's name and its flags.
    values: Where flags are defined.
    refused: The exit code where one is wrong.

  Raises:
    SystemExit: a flag is wrong; what was said names it.
  """
  try:
    left = (flags.FLAGS if values is None else values)(argv)
    if left[1:]:
      raise flags.Error(f'{left[1:]} are no flags.')
  except flags.Error as error:
    print(f'Error: {error}\nTry --help.', file=sys.stderr)
    sys.exit(refused)
  return left


def run(
  settings: type,
  work: Work,
  values: flags.FlagValues,
  names: Sequence[str],
  *,
  run_folder: bool = True,
  refused: int = 1,
) -> int:
  """Does what parsed flags say; returns the exit code.

  Args:
    settings: The dataclass of the flags.
    work: What the binary does.
    values: Parsed flags.
    names: Names of the flags.
    run_folder: As of `start`.
    refused: As of `start`.
  """
  begun = time.monotonic()
  try:
    given = read_flags(settings, values)
    folder = getattr(given, 'out', None) if run_folder else None
    keep_flags = functools.partial(outputs.write_flags, folder, values, names)
    with run_lock.locked(folder) if folder else contextlib.nullcontext():
      found = work(given, keep_flags)
  except (
    ValueError,
    OSError,
    ImportError,
    OutOfMemory,
    SafetensorError,
  ) as error:
    outputs.failed(error)
    return refused
  if isinstance(found, int):
    return found
  if found:
    print(found)
  if folder:
    spent = time.monotonic() - begun
    report = pathlib.Path(folder, outputs.REPORT_FILE)
    shown = report if report.exists() else folder
    print(f'Written: {shown} ({spent:.0f} s)', file=sys.stderr)
  return 0
