"""Is a completion right? One judge per kind of answer, in two modes.

A judge is called as judge(completion, answer, mode, subject). Its two methods
are

  strict      the default; arXiv 2411.14257's rules with their defects mended
  reference   the published rules: a part of a name counts if all its words
              occur anywhere ('us' in any sentence), any number in the text
              counts, signs and most accented letters do not exist, one
              coordinate can stand for both

By default the subject, which is the question's entity, is no answer where it
is only mentioned: "The movie '1917' was released in 2019." says 2019.
"""

import dataclasses
import math
import re
from typing import ClassVar

from experiments.entities.mentions import (
  find_name,
  last_mention,
  stands_alone,
  without,
)
from experiments.entities.modes import is_reference
from experiments.entities.name_matching import (
  names_any,
  occurrences,
  thefuzz_ratio,
  words_of,
)
from experiments.entities.quantities import amounts, years

_UNSIGNED = r'(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?'
_NUMBER = rf'(?:(?<!\w)[-+\u2212])?{_UNSIGNED}'
_SIDE = r'[NSEW]\b|(?i:north|south|east|west)\b'
# Degrees, after a degree sign perhaps minutes and seconds. A letter or word for
# the side stands before or after.
_ANGLE = re.compile(
  rf'(?:\b(?P<before>{_SIDE})\s*)?'
  rf"(?P<degrees>{_NUMBER})(?:\s*[°º](?:\s*(?P<minutes>{_UNSIGNED})\s*['’′]"
  rf'(?:\s*(?P<seconds>{_UNSIGNED})\s*(?:["”″]|[\'’′]{{2}}))?)?'
  rf'|\s*(?:degrees?|deg)\b)?(?(before)|(?:\s*(?P<after>{_SIDE}))?)'
)
_CLAUSE = re.compile(r'[.;!?]\s|\n')
_POINT = re.compile(r'Point\((-?\d+\.?\d*) (-?\d+\.?\d*)\)')
# What is a name only after another: 'Davis, Jr.', 'Tyler, the Creator'.
_LATER = re.compile(r'(?i:jr|sr|ii|iii|iv)\.?|(?:the|and|or|of|&)\s.*')
# What answers that are exactly these names may also be called.
_ALSO = {
  'united states of america': ['United States', 'US', 'USA'],
  "people's republic of china": ['China'],
}


class Judge:
  """Says whether a completion gives an answer.

  Attributes:
    form: What an answer looks like, in words.
  """

  form: ClassVar[str] = 'a text that is not empty'

  def __call__(
    self,
    completion: str,
    answer: str,
    mode: str = 'default',
    subject: str = '',
  ) -> bool:
    """Judges a completion.

    Args:
      completion: What was said.
      answer: The right one.
      mode: 'default' or 'reference'.
      subject: Name of the entity that the question is about; 'reference' does
        not know it.

    Raises:
      ValueError: unknown mode, or a malformed answer.
    """
    if is_reference(mode):
      return self.reference(completion, answer)
    own = without(completion, subject)
    return self.strict(own, answer) or (
      self._is_subject(answer, subject, own)
      and self.strict(last_mention(completion, subject), answer)
    )

  def attempts(self, completion: str, subject: str = '') -> bool:
    """Returns True if a completion has anything of an answer's form.

    Args:
      completion: What was said.
      subject: As above.
    """
    del subject
    return bool(re.search(r'\w', completion))

  def accepts(self, answer: str) -> bool:
    """Returns True if the answer has this judge's form."""
    return bool(answer.strip())

  def strict(self, completion: str, answer: str) -> bool:
    raise NotImplementedError

  def reference(self, completion: str, answer: str) -> bool:
    raise NotImplementedError

  def _is_subject(self, answer: str, subject: str, own: str) -> bool:
    """Returns True if the subject's name may be the answer.

    `own` is what was said besides the name.
    """
    del own
    return words_of(answer.lower()) == words_of(subject.lower())


@dataclasses.dataclass(frozen=True)
class Name(Judge):
  """One name, commas and all: 'Alright, Still'."""

  def strict(self, completion, answer):
    names, doubtful = self.names(answer)
    names += _ALSO.get(answer.strip().lower(), [])
    doubtful += [n[4:] for n in names if re.match('The .{4}', n)]
    if names_any(completion, names, proper=True):
      return True
    cased = completion != completion.lower()
    return cased and any(stands_alone(completion, name) for name in doubtful)

  def names(self, answer: str) -> tuple[list[str], list[str]]:
    """Names of an answer, and what may be one.

    The latter counts where it is all that is written with capitals: 'Earth',
    but not 'Planet Earth'.
    """
    return [answer], []

  def reference(self, completion, answer):
    completion = re.sub('[,.-]', ' ', completion.lower())
    answer = answer.lower()
    names = answer.split(',')
    names += [name.lower() for name in _ALSO.get(answer, ())]
    return any(thefuzz_ratio(name, completion) > 90 for name in names)


@dataclasses.dataclass(frozen=True)
class PlaceName(Name):
  """A place's name; what follows its comma says where it lies."""

  def names(self, answer):
    return [answer, answer.split(',')[0]], []


@dataclasses.dataclass(frozen=True)
class Names(Name):
  """One of the answer's names, which are separated by commas.

  A name may have commas itself. A part that is only 'Jr.' or the like, or that
  begins with a lower-case article or conjunction, belongs to the one before it.
  Single words before a part with '&' or 'and' may be one name with it ('Earth,
  Wind & Fire') or names of their own ('Inna, Play & Win'). By its form one
  cannot tell, so the words count where nothing else is capitalised beside them.
  """

  def names(self, answer):
    names = []
    for part in map(str.strip, answer.split(',')):
      if names and _LATER.fullmatch(part):
        names[-1] += f', {part}'
      else:
        names.append(part)
    doubtful, long = set(), []
    for i, name in enumerate(names):
      start = i
      if re.search(r' (?:&|and) ', name):
        while start and ' ' not in names[start - 1]:
          start -= 1
      if start < i:
        doubtful |= set(names[start:i])
        long.append(', '.join(names[start : i + 1]))
    certain = [name for name in names if name not in doubtful]
    return certain + long, sorted(doubtful)


@dataclasses.dataclass(frozen=True)
class Number(Judge):
  """A number near the answer: strictly, the first one that may be meant.

  Attributes:
    tolerance: How far it may be; with `relative`, in parts of the answer.
    relative: True if it is a share.
    unit: What the answer is in, of those of `quantities.amounts`; '' counts.
  """

  form: ClassVar[str] = "a number such as '1986' or '-3.5'"
  tolerance: float
  relative: bool = False
  unit: str = ''

  def accepts(self, answer):
    return bool(re.fullmatch(r'-?\d+(\.\d+)?', answer))

  def read(self, completion: str) -> list[float]:
    """Returns what the completion may mean, the likeliest first."""
    return amounts(completion, self.unit)

  def attempts(self, completion, subject=''):
    own = without(completion, subject)
    return bool(self.read(own) or self.read(last_mention(completion, subject)))

  def strict(self, completion, answer):
    return self._is_near(self.read(completion)[:1], float(answer))

  def reference(self, completion, answer):
    numbers = re.findall(r'\d+', completion.replace(',', ''))
    return self._is_near(map(int, numbers), int(float(answer)), signed=True)

  def _is_near(self, numbers, answer, signed=False) -> bool:
    scale = answer if signed else abs(answer)
    limit = self.tolerance * scale if self.relative else self.tolerance
    return any(abs(number - answer) <= limit for number in numbers)

  def _is_subject(self, answer, subject, own):
    return not self.read(own) and self.strict(subject, answer)


@dataclasses.dataclass(frozen=True)
class Year(Number):
  """A year: strictly, the first one; in its clause, the first after the event.

  Attributes:
    event: Pattern of words for what the year is asked of.
  """

  event: str = ''

  def read(self, completion):
    for clause in _CLAUSE.split(completion):
      if found := years(clause):
        after = re.search(rf'\b(?:{self.event})\b', clause)
        return (years(clause[after.end() :]) if after else []) or found
    return amounts(completion)


@dataclasses.dataclass(frozen=True)
class NumberInList(Number):
  """A number near any of the answer's, which are separated by commas."""

  form: ClassVar[str] = "numbers such as '125' or '90, 125'"

  def accepts(self, answer):
    return bool(re.fullmatch(r'\d+(\.\d+)?(, *\d+(\.\d+)?)*', answer))

  def strict(self, completion, answer):
    said = self.read(completion)[:1]
    return any(self._is_near(said, float(part)) for part in answer.split(','))

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

  suffix: ClassVar[str] = ' film'

  def strict(self, completion, answer):
    said = words_of(completion.lower())
    return any(
      occurrences(words_of(genre.strip().removesuffix(self.suffix)), said)
      for genre in answer.lower().split(',')
    )

  def reference(self, completion, answer):
    genres = [g.replace(' film', '') for g in answer.lower().split(',')]
    return any(genre in completion.lower() for genre in genres)


@dataclasses.dataclass(frozen=True)
class SongGenre(Genre):
  """The same of songs, where 'music' does not count."""

  suffix: ClassVar[str] = ' music'

  reference = Name.reference


@dataclasses.dataclass(frozen=True)
class Place(Judge):
  """Coordinates: strictly, the first two angles are latitude and longitude.

  N, S, E or W, or the word, by an angle overrides its place and sign.

  Attributes:
    tolerance: In degrees.
  """

  form: ClassVar[str] = "'Point(longitude latitude)'"
  tolerance: float

  def accepts(self, answer):
    return bool(_POINT.fullmatch(answer))

  def attempts(self, completion, subject=''):
    return bool(re.search(r'\d', without(completion, subject)))

  def strict(self, completion, answer):
    longitude, latitude = _coordinates(answer)
    angles = list(_ANGLE.finditer(completion))[:2]
    if len(angles) < 2:
      return False
    if _side(angles[0]) in ('E', 'W') or _side(angles[1]) in ('N', 'S'):
      angles.reverse()
    north, east = angles
    if _side(north) in ('E', 'W') or _side(east) in ('N', 'S'):
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
  """The answer itself, as words of the completion."""

  def strict(self, completion, answer):
    return find_name(completion, answer) >= 0

  def reference(self, completion, answer):
    return answer in completion


def _parse(number: str) -> float:
  return float(number.replace(',', '').replace('\u2212', '-'))


def _coordinates(answer: str) -> tuple[float, float]:
  """Longitude and latitude. Raises ValueError unless it is a Point."""
  match = _POINT.fullmatch(answer)
  if not match:
    raise ValueError(f'Expected {Place.form}, got {answer!r}.')
  return float(match[1]), float(match[2])


def _side(angle: re.Match) -> str:
  """'N', 'S', 'E' or 'W', or '' where none is said."""
  return (angle['before'] or angle['after'] or '')[:1].upper()


def _degrees(angle: re.Match) -> float:
  """Signed by the side where there is one."""
  degrees = _parse(angle['degrees'])
  size = abs(degrees) + _parse(angle['minutes'] or '0') / 60
  size += _parse(angle['seconds'] or '0') / 3600
  if side := _side(angle):
    return size if side in 'NE' else -size
  return math.copysign(size, degrees)
