"""A study's settings: one frozen dataclass, whose fields become its flags.

  @dataclasses.dataclass(frozen=True, kw_only=True)
  class Settings:
    '''What the study does.

    Attributes:
      out: Folder for everything that is written.
      shots: Numbers of demonstrations.
    '''

    out: str
    shots: tuple[int, ...] = (0, 4)

  names = define_flags(Settings)
  settings = read_flags(Settings, flags.FLAGS)

A field's paragraph under "Attributes:" is the flag's help. A field without a
default is a required flag. Types are str, int, float, bool, Literal (one of
some words), tuples of str, int or float (values with commas between them), and
any of them or None.
"""

import dataclasses
import inspect
import math
import re
import types
import typing

from absl import flags

_ATTRIBUTE = re.compile(r'(\w+): (.*)')
_S = typing.TypeVar('_S')


def define_flags(
  settings: type, values: flags.FlagValues = flags.FLAGS
) -> list[str]:
  """Defines a flag for every field of a dataclass; returns their names.

  Raises:
    TypeError: a field has no help, or a type that no flag has.
  """
  helps, hints = _helps(settings), typing.get_type_hints(settings)
  names = []
  for field in dataclasses.fields(settings):
    if field.name not in helps:
      raise TypeError(
        f'{settings.__name__}.{field.name} is not described under '
        '"Attributes:" in the docstring of its class.'
      )
    required = field.default is dataclasses.MISSING
    default = None if required else field.default
    _define(field.name, hints[field.name], default, helps[field.name], values)
    if required:
      flags.mark_flag_as_required(field.name, values)
    names.append(field.name)
  return names


def read_flags(settings: type[_S], values: flags.FlagValues) -> _S:
  """The settings that parsed flags describe.

  Raises:
    ValueError: a value is not of its field's type, or not a finite number.
  """
  hints = typing.get_type_hints(settings)
  return settings(
    **{
      field.name: _value(field.name, values[field.name].value, hints)
      for field in dataclasses.fields(settings)
    }
  )


def check_at_least(settings, least: int, *names: str):
  """Raises ValueError if a field is less; one that is None is none.

  Args:
    settings: An instance of a study's settings, for its __post_init__.
    least: What the fields are at least.
    *names: Of the fields.
  """
  for name in names:
    value = getattr(settings, name)
    if value is not None and value < least:
      raise ValueError(f'--{name}={value} must be at least {least}.')


def _helps(settings: type) -> dict[str, str]:
  """Field -> its paragraph of the docstring."""
  lines = inspect.getdoc(settings).split('Attributes:\n')[-1].splitlines()
  helps, name = {}, None
  for line in lines:
    if line and not line.startswith(' '):
      break  # another section
    start = _ATTRIBUTE.fullmatch(line.strip())
    if line.startswith('  ') and not line.startswith('   ') and start:
      name, helps[start[1]] = start[1], start[2]
    elif name and line.strip():
      helps[name] += ' ' + line.strip()
  return helps


def _inner(hint) -> tuple:
  """A type without None, and the type of a tuple's items or None."""
  # Literal[...] | None is a typing.Union, int | None a types.UnionType.
  if typing.get_origin(hint) in (types.UnionType, typing.Union):
    parts = [part for part in typing.get_args(hint) if part is not type(None)]
    hint = parts[0] if len(parts) == 1 else hint
  if typing.get_origin(hint) is tuple:
    item, *others = typing.get_args(hint)
    if others == [...] and item in (str, int, float):
      return tuple, item
  return hint, None


def _define(name, hint, default, help_text, values):
  kind, item = _inner(hint)
  common = {'flag_values': values}
  if kind is tuple and item:
    default = None if default is None else [str(part) for part in default]
    flags.DEFINE_list(name, default, help_text, **common)
  elif typing.get_origin(kind) is typing.Literal and all(
    isinstance(word, str) for word in typing.get_args(kind)
  ):
    words = list(typing.get_args(kind))
    flags.DEFINE_enum(name, default, words, help_text, **common)
  elif kind is bool:
    flags.DEFINE_bool(name, default, help_text, **common)
  elif kind in (int, float, str):
    define = {
      int: flags.DEFINE_integer,
      float: flags.DEFINE_float,
      str: flags.DEFINE_string,
    }[kind]
    define(name, default, help_text, **common)
  else:
    raise TypeError(f'No flag has the type {hint} of {name}.')


def _value(name, value, hints):
  kind, item = _inner(hints[name])
  if value is None:
    return None
  if kind is tuple:
    try:
      value = tuple(item(part) for part in value)
    except ValueError as error:
      raise ValueError(
        f'--{name}={",".join(value)} must be values of type {item.__name__} '
        'with commas between them.'
      ) from error
  for number in value if kind is tuple else (value,):
    if isinstance(number, float) and not math.isfinite(number):
      raise ValueError(f'--{name}={number} must be a finite number.')
  return value
