"""JSON files that are a list of objects; errors name the file and the place."""

import codecs
from collections.abc import Iterable, Mapping
import json
import os
import pathlib

from experiments.runs import outputs
from gemma_jax import json_files


def read_rows(path: str | os.PathLike) -> list[dict]:
  """Returns the objects in a file, of which there is at least one.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is empty, cut off, not UTF-8 JSON, or not a list of objects.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    raise FileNotFoundError(f'There is no file {path}.')
  text = path.read_bytes().removeprefix(codecs.BOM_UTF8)
  rows = json_files.parse_json(text, path, list)
  if not rows:
    raise ValueError(
      f'{path} is an empty list; expected at least one object. Remove the file '
      'if there is nothing to say.'
    )
  for i, row in enumerate(rows):
    if not isinstance(row, dict):
      raise ValueError(f'{path}, record {i}: expected an object, got {row!r}.')
  return rows


def write_rows(path: str | os.PathLike, rows: Iterable[Mapping]):
  """Writes objects, one per line; the file is whole or the one before."""
  lines = ',\n'.join(json.dumps(row, ensure_ascii=False) for row in rows)
  outputs.write_text(path, f'[\n{lines}\n]\n')


def text_of(row: Mapping, field: str, where: str) -> str:
  """Returns a field that must be there and be a text.

  Args:
    row: An object.
    field: Name of the field.
    where: File and record, for the error.

  Raises:
    ValueError: it is missing, of another type, empty, has white space at an
      end, or is not Unicode.
  """
  if field not in row:
    raise ValueError(
      f'{where} has no {field!r}, only {sorted(row)}. Add it, or remove the '
      'record.'
    )
  return _text(row[field], field, where)


def texts_of(row: Mapping, field: str, where: str) -> tuple[str, ...]:
  """Returns a field that must be a list of texts, at least one.

  Args:
    row: An object.
    field: Name of the field.
    where: File and record, for the error.

  Raises:
    ValueError: it is not, or one of them is empty or not Unicode.
  """
  values = row.get(field)
  if not isinstance(values, list) or not values:
    raise ValueError(
      f'{where}: {field!r} is {values!r}, expected a list of texts. Correct '
      'it, or remove the record.'
    )
  for value in values:
    # White space around a name does no harm: it is compared without.
    _text(value.strip() if isinstance(value, str) else value, field, where)
  return tuple(values)


def _text(value, field, where) -> str:
  if not isinstance(value, str):
    raise ValueError(
      f'{where}: {field!r} is {value!r}, expected a text. Numbers are texts '
      "too: '1986'."
    )
  if not value or value != value.strip():
    raise ValueError(
      f'{where}: {field!r} is {value!r}, expected a text that is not empty and '
      'has no white space at its ends. Trim it, or remove the record.'
    )
  try:
    value.encode()
  except UnicodeEncodeError as error:
    raise ValueError(
      f'{where}: {field!r} is {value!r}, which is not Unicode: {error}. '
      'Correct it, or remove the record.'
    ) from error
  return value
