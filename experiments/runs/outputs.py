"""What every experiment leaves in its folder, written so that it is whole.

flags.txt      a flagfile that repeats the run
results.json   every number, with n, intervals, seeds and versions
report.html    see `experiments/charts`
"""

from collections.abc import Iterable, Mapping
import importlib.metadata
import json
import math
import os
import pathlib
import platform
import sys

from absl import flags
import jax
import numpy as np

from gemma_jax import json_files, whole_files
from gemma_jax.whole_files import replaced_folder as replaced_folder
from gemma_jax.whole_files import write_text as write_text

FLAGS_FILE = 'flags.txt'
RESULTS_FILE = 'results.json'
REPORT_FILE = 'report.html'


def write_json(path: str | os.PathLike, value: Mapping):
  """Writes a value as JSON; numbers that are not finite become null."""
  text = json.dumps(_plain(value), indent=2, allow_nan=False)
  write_text(path, text + '\n')


def read_json(path: str | os.PathLike, kind: type = dict):
  """Reads a JSON file of a run, see `json_files.read_json`.

  Args:
    path: The file.
    kind: What it holds: dict, list or object (any).
  """
  return json_files.read_json(path, kind, 'The same run again writes it anew.')


def write_results(folder: str | os.PathLike, results: Mapping):
  """Writes results.json, see `write_json`."""
  write_json(pathlib.Path(folder) / RESULTS_FILE, results)


def write_lines(path: str | os.PathLike, records: Iterable[Mapping]):
  """Writes records as JSON, one per line."""
  lines = (
    json.dumps(_plain(record), ensure_ascii=False, allow_nan=False)
    for record in records
  )
  write_text(path, ''.join(f'{line}\n' for line in lines))


def read_objects(path: str | os.PathLike) -> list[tuple[int, dict]]:
  """Returns the objects of a file of JSON lines with their numbers from 1.

  Lines of white space are passed over.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is not UTF-8, or a line is no JSON object; the error names
      file and line.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise FileNotFoundError(f'There is no file {path}.')
  found = []
  # Bytes, since a text may hold other line breaks, such as U+2028.
  lines = path.read_bytes().removeprefix(b'\xef\xbb\xbf').split(b'\n')
  for number, line in enumerate(lines, 1):
    if not line.strip():
      continue
    where = f'{path}, line {number}'
    row = json_files.parse_json(
      line, where, remedy='Correct the line, or remove it.'
    )
    found.append((number, row))
  return found


def write_flags(
  folder: str | os.PathLike,
  values: flags.FlagValues,
  names: Iterable[str],
  *,
  replace: bool = True,
):
  """Writes flags.txt: all of `names` that have a value, defaults too.

  Args:
    folder: Where.
    values: Parsed flags.
    names: Names of those to write.
    replace: Or leave one that is there, which goes with its results.

  Raises:
    ValueError: a value has a line break, or ends in white space, which a
      flagfile cannot hold.
  """
  lines = []
  for name in sorted(names):
    if values[name].value is None:
      continue
    line = values[name].serialize()
    if len(line.splitlines()) > 1:
      raise ValueError(
        f'--{name} has a line break in it, which a flagfile cannot hold.'
      )
    if line != line.rstrip():
      raise ValueError(
        f'{line!r} ends in white space, which a flagfile cannot hold: '
        f'{FLAGS_FILE} would not repeat the run. Leave it out.'
      )
    lines.append(line)
  path = pathlib.Path(folder) / FLAGS_FILE
  if replace or not path.exists():
    write_text(path, '\n'.join(lines) + '\n')


def versions() -> dict[str, str]:
  """Returns versions of what computed the numbers, and the kind of device."""
  packages = ('knowledge-awareness-jax', 'jax', 'jaxlib', 'flax', 'numpy')
  found = {'python': platform.python_version()}
  for package in packages:
    found[package] = importlib.metadata.version(package)
  device = jax.devices()[0]
  return found | {
    'device': device.device_kind,
    'num_devices': str(jax.device_count()),
  }


def check_same_run(path: pathlib.Path, identity: Mapping, resumes: bool):
  """Keeps a run's identity, and refuses to go on with another run's work.

  Args:
    path: A JSON file.
    identity: What the work in the folder depends on.
    resumes: True if there is work to go on with.

  Raises:
    ValueError: there is, and it is of another identity; the error says how.
  """
  now = _plain(identity)
  if path.is_file() and resumes:
    before = json_files.read_json(
      path, remedy=f'Delete {path.parent} to do its work again.'
    )
    other = [k for k in sorted(now | before) if now.get(k) != before.get(k)]
    if other:
      raise ValueError(
        f'{path.parent} has the work of another run, with '
        + ', '.join(f'{k}={before.get(k)} (now {now.get(k)})' for k in other)
        + '. Use its flags to resume it, or another --out.'
      )
  write_text(path, json.dumps(now, indent=2) + '\n')


def failed(error: BaseException) -> int:
  """Prints what an error says; returns the exit code for it."""
  said = str(error) or type(error).__name__
  if whole_files.is_full(error):  # where no function of ours was writing
    said = f'{said}: {whole_files.full_disk(getattr(error, "filename", None))}'
  print(f'Error: {said}', file=sys.stderr)
  return 1


def _plain(value):
  """Returns the value in JSON's terms."""
  if isinstance(value, Mapping):
    return {str(key): _plain(item) for key, item in value.items()}
  if isinstance(value, (list, tuple)):
    return [_plain(item) for item in value]
  if isinstance(value, np.ndarray):
    return _plain(value.tolist())
  if isinstance(value, np.generic):
    return _plain(value.item())
  if isinstance(value, os.PathLike):
    return os.fspath(value)
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value
