"""Folders that appear complete, and the small JSON files in them."""

from collections.abc import Mapping
import contextlib
import errno
import json
import math
import os
import pathlib
import shutil

from safetensors import SafetensorError

# A disk is full, a quota is used up, or a file may not grow.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def new_folder(path: str | os.PathLike):
  """Yields a folder to fill, which appears as `path` once the block has ended
  well.

  A killed run leaves a hidden folder beside it, which the next one removes.

  Raises:
    FileExistsError: `path` exists and is not an empty folder.
    OSError: the disk is full.
  """
  path = pathlib.Path(path).expanduser().resolve()
  if path.exists() and not (path.is_dir() and not any(path.iterdir())):
    raise FileExistsError(
      f'{path} exists and is not an empty folder. Nothing is overwritten: '
      'remove it or choose another place.'
    )
  path.parent.mkdir(parents=True, exist_ok=True)
  partial = path.with_name(f'.{path.name}.partial')
  shutil.rmtree(partial, ignore_errors=True)
  partial.mkdir()
  try:
    yield partial
    os.rename(partial, path)
  except (OSError, SafetensorError) as error:
    if isinstance(error, OSError) and error.errno not in _FULL:
      raise
    free = shutil.disk_usage(path.parent).free
    raise OSError(
      f'{path} could not be written; {free / 2**20:,.1f} MiB are free there. '
      f'Make space and repeat the command. What was said: {error}'
    ) from error
  finally:
    shutil.rmtree(partial, ignore_errors=True)


def inside(folder: pathlib.Path, name: str) -> pathlib.Path:
  """Returns the path of a file in a folder, checked not to be a link that
  leaves it.

  Links of the hub's cache may lead to its blobs: beside the snapshots of a
  repository, or to those that all repositories share.

  Raises:
    ValueError: the file, or a folder on the way to it, is a link that leads
      out of the folder.
  """
  path = folder / name
  root, real = folder.resolve(), path.resolve()
  allowed = [root]
  for snapshots in root.parents:
    repo = snapshots.parent
    if snapshots.name == 'snapshots' and repo.name.startswith('models--'):
      allowed += [repo / 'blobs', repo.parent / 'blobs']
  if not any(real.is_relative_to(place) for place in allowed):
    raise ValueError(
      f'{path} is a link to {real}, which is outside {root}. Pass the folder '
      'that holds the files, or copy them.'
    )
  return path


def read_json(
  path: pathlib.Path, remedy: str = 'Download it again.'
) -> dict[str, object]:
  """Reads the object in a JSON file.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: see `parse_json`.
  """
  if not path.is_file():
    raise FileNotFoundError(f'{path} does not exist.')
  return parse_json(path.read_bytes(), path, remedy)


def parse_json(text: bytes | str, source: object, remedy: str) -> dict:
  """Parses the object in a JSON text, strictly.

  Raises:
    ValueError: it is empty, no JSON, nested too deep, no object, or has a key
      twice or a number that is not finite. The error names the source.
  """
  if not text.strip():
    raise ValueError(f'{source} is empty, expected a JSON object. {remedy}')
  try:
    if isinstance(text, bytes):
      text = text.decode('utf-8')
    content = json.loads(
      text,
      object_pairs_hook=_unique,
      parse_constant=_finite,
      parse_float=_finite,
    )
  except RecursionError as error:
    raise ValueError(f'{source} is nested too deep. {remedy}') from error
  except ValueError as error:
    raise ValueError(f'{source} is not JSON: {error}. {remedy}') from error
  if not isinstance(content, dict):
    raise ValueError(
      f'{source} holds a {type(content).__name__}, expected a JSON object. '
      f'{remedy}'
    )
  return content


def write_json(path: pathlib.Path, content: Mapping):
  """Writes an object; ValueError if JSON has no word for part of it."""
  try:
    text = json.dumps(dict(content), indent=2, allow_nan=False)
  except (TypeError, ValueError) as error:
    raise ValueError(
      f'{path.name} cannot hold this: {error}. Metadata is made of strings, '
      'numbers, booleans, None, lists and dicts.'
    ) from error
  path.write_text(text + '\n', encoding='utf-8')


def _unique(pairs):
  content = dict(pairs)
  if len(content) < len(pairs):
    raise ValueError(
      f'a key is given twice, of {", ".join(key for key, _ in pairs)}'
    )
  return content


def _finite(text: str) -> float:
  number = float(text)
  if not math.isfinite(number):
    raise ValueError(f'{text} is not a finite number')
  return number
