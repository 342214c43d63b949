"""A study's settings: one frozen dataclass, whose fields become its flags.

  @dataclasses.dataclass(frozen=True, kw_only=True)
  class Settings:
    '''What the study does.

    Attributes:
      out: Folder for everything that is written.
      shots: Numbers of demonstrations.
    '''

    out: str
    shots: tuple[Count, ...] = (1, 4)

  names = define_flags(Settings)
  settings = read_flags(Settings, flags.FLAGS)

A field's paragraph under "Attributes:" is the flag's help. A field without a
default is a required flag. Types are str, bool, Literal (one of some words),
numbers with bounds (numbers.py), tuples of str, of such words or of such
numbers (values with commas between them), and any of them or None.

What several studies are told is a dataclass of its own, which their settings
inherit from, each field with its help (experiments/inputs/settings.py).
"""

from collections.abc import Sequence
import dataclasses
import inspect
import re
import types
import typing

from absl import flags

from experiments.runs.numbers import Number

_ATTRIBUTE = re.compile(r'(\w+): (.*)')
_S = typing.TypeVar('_S')


def define_flags(
  settings: type, values: flags.FlagValues = flags.FLAGS
) -> list[str]:
  """Defines a flag for every field of a dataclass; returns their names.

  Raises:
    TypeError: a field has no help, or a type that no flag has.
  """
  helps = _helps(settings)
  hints = typing.get_type_hints(settings, include_extras=True)
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
  """Returns the settings that parsed flags describe.

  Raises:
    ValueError: the class refuses a value.
  """
  given = {
    field.name: values[field.name].value
    for field in dataclasses.fields(settings)
  }
  return settings(
    **{k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
  )


def check_numbers(settings):
  """Raises ValueError if a field is not within the bounds of its type.

  Args:
    settings: An instance of a study's settings, for its __post_init__.
  """
  hints = typing.get_type_hints(type(settings), include_extras=True)
  for field in dataclasses.fields(settings):
    value = getattr(settings, field.name)
    kind, item = _inner(hints[field.name])
    number = item if kind is tuple else kind
    if value is None or not isinstance(number, Number):
      continue
    for each in value if kind is tuple else (value,):
      try:
        number.parse(each)
      except ValueError as error:
        raise ValueError(f'--{field.name}={each} {error}') from error


class _Numbers(flags.ListParser):
  """Parses numbers with commas between them.

  Attributes:
    item: Parses each of them.
  """

  def __init__(self, item: Number):
    super().__init__()
    self.item = item
    self.syntactic_help = f'with commas between them: {item.expected}'

  def parse(self, argument) -> list:
    try:
      return [self.item.parse(part) for part in super().parse(argument)]
    except ValueError as error:
      raise ValueError(f'each of them {error}') from error


class _Words(flags.ListParser):
  """Parses some of given words, with commas between them."""

  def __init__(self, words: Sequence[str]):
    super().__init__()
    self._words = words
    self.syntactic_help = f'some of {", ".join(words)}, with commas between'

  def parse(self, argument) -> list[str]:
    found = super().parse(argument)
    if wrong := [word for word in found if word not in self._words]:
      raise ValueError(
        f'has {wrong[0]!r}; expected some of {", ".join(self._words)}.'
      )
    return found


def _helps(settings: type) -> dict[str, str]:
  """Field -> its paragraph of the docstring of the class that defines it."""
  helps = {}
  for each in reversed(settings.__mro__):
    if dataclasses.is_dataclass(each):
      helps |= _attributes(inspect.cleandoc(each.__doc__))
  return helps


def _attributes(docstring: str) -> dict[str, str]:
  """Field -> its paragraph under "Attributes:"."""
  lines = docstring.split('Attributes:\n')[-1].splitlines()
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
  """Returns a type without None, and the type of a tuple's items or None.

  A number's type is the `Number` that it is annotated with.
  """
  # Literal[...] | None is a typing.Union, int | None a types.UnionType.
  if typing.get_origin(hint) in (types.UnionType, typing.Union):
    parts = [part for part in typing.get_args(hint) if part is not type(None)]
    hint = parts[0] if len(parts) == 1 else hint
  if typing.get_origin(hint) is typing.Annotated:
    _, *notes = typing.get_args(hint)
    return (notes[0] if isinstance(notes[0], Number) else hint), None
  if typing.get_origin(hint) is tuple:
    item, *others = typing.get_args(hint)
    item, _ = _inner(item)
    if others == [...] and (
      item is str or isinstance(item, Number) or _is_words(item)
    ):
      return tuple, item
  return hint, None


def _is_words(kind) -> bool:
  """Returns True for Literal['some', 'words']."""
  return typing.get_origin(kind) is typing.Literal and all(
    isinstance(word, str) for word in typing.get_args(kind)
  )


def _define(name, hint, default, help_text, values):
  kind, item = _inner(hint)
  if kind is tuple and default is not None:
    default = list(default)
  given = name, default, help_text
  common = {'flag_values': values}
  commas = {**common, 'serializer': flags.CsvListSerializer(',')}
  if isinstance(item, Number):
    flags.DEFINE(_Numbers(item), *given, **commas)
  elif item is str:
    flags.DEFINE_list(*given, **common)
  elif item is not None:
    flags.DEFINE(_Words(typing.get_args(item)), *given, **commas)
  elif _is_words(kind):
    words = list(typing.get_args(kind))
    flags.DEFINE_enum(name, default, words, help_text, **common)
  elif kind is bool:
    flags.DEFINE_bool(*given, **common)
  elif isinstance(kind, Number):
    plain = flags.ArgumentSerializer()
    flags.DEFINE(kind, *given, serializer=plain, **common)
  elif kind is str:
    flags.DEFINE_string(*given, **common)
  else:
    raise TypeError(
      f'No flag has the type {hint} of {name}. A number needs bounds, see '
      'experiments/runs/numbers.py.'
    )
