"""Flags that are numbers: finite and within bounds, or refused when parsed.

  define_number('seed', 0, 'Random seed.', SEED)
  define_number('dose', None, 'Norm that is added.', real(0, 1e3, above=True))
  define_numbers('layers', None, 'Layers of the SAEs, from 0.', LAYER)

The fields of a study's settings are typed with the names at the end.
"""

import math
from typing import Annotated

from absl import flags

# --help lists a flag with the module that calls, not with this one.
flags.disclaim_key_flags()

# More of anything is a slip of the pen, and would run for ever.
MOST = 10**6


class Number(flags.ArgumentParser):
  """Parses a finite number within bounds.

  Attributes:
    expected: What a value must be, in words.
  """

  def __init__(
    self,
    kind: type[int] | type[float],
    least: float,
    most: float,
    above: bool,
    words: tuple[str, ...],
  ):
    """See `whole` and `real`."""
    self._kind, self._words = kind, words
    self._least, self._most, self._above = least, most, above
    low, high = (f'{x:,}' if kind is int else f'{x:g}' for x in (least, most))
    what = 'a whole number' if kind is int else 'a number'
    self.expected = (
      f'{what} above {low} and at most {high}'
      if above
      else f'{what} from {low} to {high}'
    ) + ''.join(f', or {word!r}' for word in words)
    self.syntactic_help = self.expected

  def parse(self, argument) -> int | float | str:
    """Returns the number that a text or a number stands for, or the word.

    Raises:
      ValueError: it is out of bounds, not finite, or of another kind.
    """
    if argument in self._words:
      return argument
    try:
      number = self._kind(str(argument))
    except ValueError:
      number = math.nan
    inside = self._least <= number <= self._most
    if not inside or (self._above and number == self._least):
      raise ValueError(f'must be {self.expected}.')
    return number

  def flag_type(self) -> str:
    """Returns what --help calls the type."""
    return self._kind.__name__


class _Numbers(flags.ListParser):
  """Parses numbers with commas between them.

  Attributes:
    item: Parses each of them.
  """

  def __init__(self, item: Number, fewest: int):
    super().__init__()
    self.item, self._fewest = item, fewest
    self.syntactic_help = f'with commas between them: {item.expected}'

  def parse(self, argument) -> list:
    try:
      numbers = [self.item.parse(part) for part in super().parse(argument)]
    except ValueError as error:
      raise ValueError(f'each of them {error}') from error
    if len(numbers) < self._fewest:
      raise ValueError(f'must have at least {self._fewest} of them.')
    return numbers


def whole(
  least: int = 1, most: int = MOST, words: tuple[str, ...] = ()
) -> Number:
  """Returns the parser of a whole number from `least` to `most`.

  Args:
    least, most: The bounds.
    words: What may stand in place of a number.
  """
  return Number(int, least, most, False, words)


def real(least: float, most: float, *, above: bool = False) -> Number:
  """Returns the parser of a number from `least` to `most`.

  Args:
    least, most: The bounds.
    above: If true, the number must be more than `least`.
  """
  return Number(float, least, most, above, ())


def define_number(
  name: str, default, help_text: str, number: Number, **options
) -> flags.FlagHolder:
  """Defines a flag that is a number.

  Args:
    name: Name of the flag.
    default: The value where the flag is not given; None for none.
    help_text: What --help says.
    number: What it may be.
    **options: For `flags.DEFINE`, such as flag_values.
  """
  serializer = flags.ArgumentSerializer()
  return flags.DEFINE(
    number, name, default, help_text, serializer=serializer, **options
  )


def define_numbers(
  name: str,
  default,
  help_text: str,
  number: Number,
  *,
  fewest: int = 1,
  **options,
) -> flags.FlagHolder:
  """Defines a flag that is a list of numbers with commas between them.

  Args:
    name: Name of the flag.
    default: A list of numbers; None for none.
    help_text: What --help says.
    number: What each of them may be.
    fewest: So many numbers are needed.
    **options: For `flags.DEFINE`, such as flag_values.
  """
  return flags.DEFINE(
    _Numbers(number, fewest),
    name,
    None if default is None else list(default),
    help_text,
    serializer=flags.CsvListSerializer(','),
    **options,
  )


SEED = whole(0, 2**31 - 1)
LAYER = whole(0, 9999)
# Of what takes long or much memory each, such as answers to every question.
FEW = whole(1, 10_000)
# Of what is read in a stream, such as documents; int32 holds it.
MANY = whole(1, 10**9)
SHARE = real(0, 1)
POSITIVE = real(0, 1e6, above=True)
SIGNED = real(-1e6, 1e6)

Seed = Annotated[int, SEED]
Layer = Annotated[int, LAYER]
Few = Annotated[int, FEW]
Count = Annotated[int, whole()]
Many = Annotated[int, MANY]
Share = Annotated[float, SHARE]
Positive = Annotated[float, POSITIVE]
