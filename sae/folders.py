"""Folders that appear complete, and the small JSON files in them."""

from collections.abc import Mapping
import contextlib
import json
import os
import pathlib
import shutil


@contextlib.contextmanager
def new_folder(path: str | os.PathLike):
  """A folder to fill, which appears as `path` once the block has ended well.

  A killed run leaves a hidden folder beside it, which the next one removes.

  Raises:
    FileExistsError: `path` exists and is not an empty folder.
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
  finally:
    shutil.rmtree(partial, ignore_errors=True)


def read_json(path: pathlib.Path) -> dict:
  """The object that a JSON file holds; ValueError names the file."""
  if not path.is_file():
    raise FileNotFoundError(f'{path} does not exist.')
  try:
    content = json.loads(path.read_text(encoding='utf-8'))
  except ValueError as error:
    raise ValueError(
      f'{path} is not JSON: {error}. Download it again.'
    ) from error
  if not isinstance(content, dict):
    raise ValueError(
      f'{path} holds a {type(content).__name__}, expected a JSON object.'
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
