"""Is a completion right? One judge per kind of answer, in two modes.

A judge is called as judge(completion, answer, mode). Its two methods are

  strict      the default; arXiv 2411.14257's rules with their defects mended
  reference   the published rules: a part of a name counts if all its words
              occur anywhere ('us' in any sentence), any number in the text
              counts, signs and most accented letters do not exist, one
              coordinate can stand for both
"""

import dataclasses
import math
import re
from typing import ClassVar
import unicodedata

from rapidfuzz import fuzz, utils

from experiments.entities.modes import is_reference

_UNSIGNED = r'(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?'
_NUMBER = rf'(?:(?<!\w)[-+\u2212])?{_UNSIGNED}'
# Degrees, after a degree sign perhaps minutes and seconds, perhaps a letter.
_ANGLE = re.compile(
  rf"(?P<degrees>{_NUMBER})(?:\s*°(?:\s*(?P<minutes>{_UNSIGNED})\s*['’′]"
  rf'(?:\s*(?P<seconds>{_UNSIGNED})\s*["”″])?)?)?(?:\s*(?P<side>[NSEW])\b)?'
)
_POINT = re.compile(r'Point\((-?\d+\.?\d*) (-?\d+\.?\d*)\)')
_SUFFIXES = ('jr', 'sr', 'ii', 'iii', 'iv')
# What answers that are exactly these names may also be called.
_ALSO = {
  'united states of america': ['United States', 'US', 'USA'],
  "people's republic of china": ['China'],
}
# thefuzz removes these before it compares, 'é' but not 'š'.
_LATIN_1 = dict.fromkeys(range(128, 256))


class Judge:
  """Says whether a completion gives an answer.

  Attributes:
    form: What an answer looks like, in words.
  """

  form: ClassVar[str] = 'a text that is not empty'

  def __call__(
    self, completion: str, answer: str, mode: str = 'default'
  ) -> bool:
    """Raises ValueError for an unknown mode or a malformed answer."""
    if is_reference(mode):
      return self.reference(completion, answer)
    return self.strict(completion, answer)

  def accepts(self, answer: str) -> bool:
    """Whether the answer has this judge's form."""
    return bool(answer.strip())

  def strict(self, completion: str, answer: str) -> bool:
    raise NotImplementedError

  def reference(self, completion: str, answer: str) -> bool:
    raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Name(Judge):
  """One of the answer's names, which are separated by commas."""

  def strict(self, completion, answer):
    return names_any(completion, _names_in(answer))

  def reference(self, completion, answer):
    completion = re.sub('[,.-]', ' ', completion.lower())
    answer = answer.lower()
    names = answer.split(',')
    names += [name.lower() for name in _ALSO.get(answer, ())]
    return any(thefuzz_ratio(name, completion) > 90 for name in names)


@dataclasses.dataclass(frozen=True)
class Number(Judge):
  """A number near the answer: strictly, the first one in the completion.

  Attributes:
    tolerance: How far it may be; with `relative`, in parts of the answer.
    relative: Whether it is a share.
  """

  form: ClassVar[str] = "a number such as '1986' or '-3.5'"
  tolerance: float
  relative: bool = False

  def accepts(self, answer):
    return bool(re.fullmatch(r'-?\d+(\.\d+)?', answer))

  def strict(self, completion, answer):
    return self._is_near(_numbers(completion)[:1], float(answer))

  def reference(self, completion, answer):
    numbers = re.findall(r'\d+', completion.replace(',', ''))
    return self._is_near(map(int, numbers), int(float(answer)), signed=True)

  def _is_near(self, numbers, answer, signed=False) -> bool:
    scale = answer if signed else abs(answer)
    limit = self.tolerance * scale if self.relative else self.tolerance
    return any(abs(number - answer) <= limit for number in numbers)


@dataclasses.dataclass(frozen=True)
class NumberInList(Judge):
  """A number near any of the answer's, which are separated by commas."""

  form: ClassVar[str] = "numbers such as '125' or '90, 125'"
  tolerance: float

  def accepts(self, answer):
    return bool(re.fullmatch(r'\d+(\.\d+)?(, *\d+(\.\d+)?)*', answer))

  def strict(self, completion, answer):
    near = Number(self.tolerance)
    return any(near.strict(completion, part) for part in answer.split(','))

  def reference(self, completion, answer):
    numbers = [int(n) for n in re.findall(r'\d+', completion)]
    return any(
      abs(number - int(float(part))) <= self.tolerance
      for part in answer.split(',')
      for number in numbers
    )


@dataclasses.dataclass(frozen=True)
class Genre(Judge):
  """One of the answer's genres; 'film' at their end does not count."""

  def strict(self, completion, answer):
    said = _words(completion.lower())
    return any(
      _is_run(_words(genre), said)
      for genre in answer.lower().replace(' film', '').split(',')
    )

  def reference(self, completion, answer):
    genres = [g.replace(' film', '') for g in answer.lower().split(',')]
    return any(genre in completion.lower() for genre in genres)


@dataclasses.dataclass(frozen=True)
class Place(Judge):
  """Coordinates: strictly, the first two angles are latitude and longitude.

  A letter N, S, E or W after an angle overrides its place and sign.

  Attributes:
    tolerance: In degrees.
  """

  form: ClassVar[str] = "'Point(longitude latitude)'"
  tolerance: float

  def accepts(self, answer):
    return bool(_POINT.fullmatch(answer))

  def strict(self, completion, answer):
    longitude, latitude = _coordinates(answer)
    angles = list(_ANGLE.finditer(completion))[:2]
    if len(angles) < 2:
      return False
    if angles[0]['side'] in ('E', 'W') or angles[1]['side'] in ('N', 'S'):
      angles.reverse()
    north, east = angles
    if north['side'] in ('E', 'W') or east['side'] in ('N', 'S'):
      return False  # one coordinate twice
    return (
      abs(_degrees(north) - latitude) <= self.tolerance
      and abs(_degrees(east) - longitude) <= self.tolerance
    )

  def reference(self, completion, answer):
    whole = [abs(int(float(x))) for x in _coordinates(answer)]
    matches = 0
    for text in re.findall(r'-?\d+\.?\d*', completion):
      number = abs(int(float(text)))
      matches += sum(abs(number - x) <= self.tolerance for x in whole)
      if matches == 2:
        return True
    return False


@dataclasses.dataclass(frozen=True)
class Substring(Judge):
  """The answer itself, anywhere in the completion, in both modes."""

  def strict(self, completion, answer):
    return answer in completion

  reference = strict


def thefuzz_ratio(a: str, b: str) -> int:
  """token_set_ratio of thefuzz with its default processing, 0 to 100.

  It deletes code points 128 to 255, makes a space of what is no letter or
  digit, and ignores case.
  """
  a, b = (utils.default_process(text.translate(_LATIN_1)) for text in (a, b))
  return round(fuzz.token_set_ratio(a, b))


def names_any(completion: str, names: list[str]) -> bool:
  """Whether a completion holds, strictly, one of some names.

  Accents do not count. All of a name's words must follow each other, or
  token_set_ratio be over 90, which lets a long name be misspelled. A name of
  three characters must be written as it is, capitals included.
  """
  said = _words(completion)
  lower = [word.lower() for word in said]
  for name in names:
    name = _fold(name.strip())
    words = _words(name)
    if len(name) <= 3:
      found = _is_run(words, said)
    else:
      words = [word.lower() for word in words]
      score = fuzz.token_set_ratio(' '.join(words), ' '.join(lower))
      found = _is_run(words, lower) if score == 100 else round(score) > 90
    if found:
      return True
  return False


def _names_in(answer: str) -> list[str]:
  """The names of a list: 'A, Jr., B' has two."""
  names = []
  for part in answer.split(','):
    if names and part.strip().strip('.').lower() in _SUFFIXES:
      names[-1] += part
    else:
      names.append(part)
  return names + _ALSO.get(answer.strip().lower(), [])


def _fold(text: str) -> str:
  """The text without accents, 'é' as 'e'."""
  split = unicodedata.normalize('NFKD', text)
  return ''.join(c for c in split if not unicodedata.combining(c))


def _words(text: str) -> list[str]:
  return re.findall(r'[^\W_]+', _fold(text))


def _is_run(words: list[str], said: list[str]) -> bool:
  """Whether words, of which there are some, follow each other in `said`."""
  starts = range(len(said) - len(words) + 1)
  return bool(words) and any(said[i : i + len(words)] == words for i in starts)


def _numbers(text: str) -> list[float]:
  return [_parse(number) for number in re.findall(_NUMBER, text)]


def _parse(number: str) -> float:
  return float(number.replace(',', '').replace('\u2212', '-'))


def _coordinates(answer: str) -> tuple[float, float]:
  """Longitude and latitude. Raises ValueError unless it is a Point."""
  match = _POINT.fullmatch(answer)
  if not match:
    raise ValueError(f'Expected {Place.form}, got {answer!r}.')
  return float(match[1]), float(match[2])


def _degrees(angle: re.Match) -> float:
  """Signed by the letter where there is one."""
  degrees = _parse(angle['degrees'])
  size = abs(degrees) + _parse(angle['minutes'] or '0') / 60
  size += _parse(angle['seconds'] or '0') / 3600
  if angle['side']:
    return size if angle['side'] in 'NE' else -size
  return math.copysign(size, degrees)
