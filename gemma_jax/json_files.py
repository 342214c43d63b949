"""JSON files that others wrote: read strictly, with errors that name the file.

Python's own reader takes what other programs refuse, or read otherwise: a key
that is given twice, NaN and Infinity. It also fails in its own ways on deep
nesting and very long numbers. Here each of these is a ValueError.
"""

from collections.abc import Sequence
import json
import math
import os
import pathlib

REMEDY = 'Download or write it again.'


def read_json(path: str | os.PathLike, kind: type = dict, remedy: str = REMEDY):
  """Reads a JSON file.

  Args:
    path: The file, in UTF-8.
    kind: The type that its content must have: dict, list or object (any).
    remedy: What to do about a file that cannot be read, for the error.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: see `parse_json`.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise FileNotFoundError(f'{path} does not exist. {remedy}')
  return parse_json(path.read_bytes(), path, kind, remedy)


def parse_json(
  text: str | bytes,
  source: str | os.PathLike,
  kind: type = dict,
  remedy: str = REMEDY,
):
  """Parses a JSON text.

  Args:
    text: The text; bytes are UTF-8.
    source: What errors call it, such as its path or a path and a line.
    kind: The type that its content must have: dict, list or object (any).
    remedy: What to do about a text that cannot be read, for the error.

  Raises:
    ValueError: the text is empty, is not JSON or not UTF-8, is nested too
      deep, has a key twice or a number that is not finite, or its content is
      of another type. The error names the source.
  """
  if not text.strip():
    raise ValueError(f'{source} is empty, expected JSON. {remedy}')
  try:
    if isinstance(text, bytes):
      text = text.decode('utf-8')
    content = json.loads(
      text,
      object_pairs_hook=_unique,
      parse_constant=_refuse_constant,
      parse_float=_finite,
    )
  except RecursionError as error:
    raise ValueError(
      f'{source} is nested too deep to be read. {remedy}'
    ) from error
  except ValueError as error:
    raise ValueError(f'{source} is not JSON: {error}. {remedy}') from error
  if not isinstance(content, kind):
    raise ValueError(
      f'{source} holds a {_NAMES.get(type(content), "number")}, expected '
      f'a {_NAMES[kind]}. {remedy}'
    )
  return content


_NAMES = {
  dict: 'JSON object',
  list: 'JSON list',
  str: 'string',
  bool: 'boolean',
  type(None): 'null',
}


def _unique(pairs: Sequence[tuple[str, object]]) -> dict:
  content = dict(pairs)
  if len(content) < len(pairs):
    keys = [key for key, _ in pairs]
    twice = next(key for key in keys if keys.count(key) > 1)
    raise ValueError(f'the key {twice!r} is given twice')
  return content


def _refuse_constant(name: str):
  raise ValueError(f'{name} is no JSON number')


def _finite(text: str) -> float:
  number = float(text)
  if not math.isfinite(number):
    raise ValueError(f'{text} is too large a number')
  return number
