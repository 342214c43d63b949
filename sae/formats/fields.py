"""Checks of fields in the JSON files of SAEs, which others wrote."""

from collections.abc import Collection, Iterable
import difflib
import os
import sys

_WORDS = {
  int: 'an integer from 0 on',
  float: 'a number from 0 on',
  bool: 'true or false',
  str: 'a string',
  dict: 'an object',
  type(None): 'null',
}


def check_kind(path: str | os.PathLike, name: str, value, *kinds: type):
  """Raises ValueError unless a value is of one of the types, and not below 0.

  Args:
    path: The file, for the error.
    name: The field.
    value: As JSON has it.
    *kinds: int, float (which takes integers too), bool, str, dict, NoneType.
  """
  kind = type(value)
  right = kind in kinds or (kind is int and float in kinds)
  if right and kind in (int, float):
    right = 0 <= value <= sys.float_info.max  # not for NaN either
  if not right:
    expected = ' or '.join(_WORDS[kind] for kind in kinds)
    raise ValueError(f'{path}: {name} is {value!r:.80}, expected {expected}.')


def refuse_misspelt(
  path: str | os.PathLike,
  names: Iterable[str],
  read: Collection[str],
  others: Collection[str] = (),
):
  """Raises ValueError if a name is like one that is read, and is another.

  Args:
    path: The file, for the error.
    names: Those in the file.
    read: Those whose values count.
    others: Those that are known besides.
  """
  for name in names:
    if name in read or name in others:
      continue
    if near := difflib.get_close_matches(name, read, n=1, cutoff=0.8):
      raise ValueError(
        f'{path}: unknown field {name}, which would be ignored. Did you mean '
        f'{near[0]}? Write it so, or remove it.'
      )
