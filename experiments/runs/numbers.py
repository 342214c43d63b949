"""Numbers in flags: finite and within bounds, or refused when parsed.

The fields of a study's settings are typed with the names at the end, or with
bounds of their own:

  seed: Seed = 0
  dose: Annotated[float, real(0, 1e3, above=True)] | None = None
"""

import math
from typing import Annotated

from absl import flags

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


Seed = Annotated[int, whole(0, 2**31 - 1)]
Layer = Annotated[int, whole(0, 9999)]
# How many of what takes long or much memory, such as answers to a question.
Few = Annotated[int, whole(1, 10_000)]
Count = Annotated[int, whole()]
# How many of what is read in a stream, such as documents; int32 holds it.
Many = Annotated[int, whole(1, 10**9)]
Share = Annotated[float, real(0, 1)]
Positive = Annotated[float, real(0, 1e6, above=True)]
Signed = Annotated[float, real(-1e6, 1e6)]
