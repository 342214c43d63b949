"""What a question's answers are compared with."""

from collections.abc import Mapping
import dataclasses
import functools
import re
from typing import NamedTuple

from experiments.entities.name_matching import occurrences
from experiments.entities.quantities import quantity, unit_of
from experiments.knowledge_probing.forms import forms
from experiments.knowledge_probing.normalising import (
  Date,
  Words,
  dates_alone,
  words,
)
from experiments.knowledge_probing.probe_records import Question

# Words of a question that asks for a person.
_PERSONAL = frozenset(
  """who whom whose person man woman author writer poet novelist playwright
  actor actress singer rapper musician composer artist painter sculptor
  architect director president politician minister chancellor senator scientist
  physicist chemist mathematician philosopher inventor explorer astronaut player
  golfer boxer footballer cricketer driver comedian monarch""".split()
)
_SCALED = re.compile(r'\b(?:thousand|million|billion)')


class Amount(NamedTuple):
  """A right answer that is a number.

  Attributes:
    value: The number.
    unit: 'm', 'min', 'kg' or ''.
    digits: To how many it is given; 0 for a count, which is exact.
  """

  value: float
  unit: str
  digits: int


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Key:
  """Holds what a question's answers are compared with.

  Attributes:
    names: Words of the right answers.
    forms: These, and how else they are written.
    written: The right answers.
    amounts: Those of them that are numbers.
    asked: Words of the question.
    dates: Those of the right answers that are dates.
    others: Words of the other candidates -> as they are written.
    other_dates: Those of the other candidates that are dates.
    other_amounts: Those of the other candidates that are numbers.
  """

  names: tuple[Words, ...]
  forms: tuple[Words, ...]
  written: tuple[str, ...]
  amounts: tuple[Amount, ...]
  asked: Words
  dates: frozenset[Date]
  others: Mapping[Words, str]
  other_dates: frozenset[Date]
  other_amounts: tuple[Amount, ...]

  @functools.cached_property
  def longest(self) -> int:
    """Words of the longest other candidate."""
    return max(map(len, self.others), default=0)

  @functools.cached_property
  def is_choice(self) -> bool:
    """Returns True if the question names a right answer."""
    return any(occurrences(name, self.asked) for name in self.names)

  @functools.cached_property
  def is_personal(self) -> bool:
    """Returns True if a person is asked for."""
    return bool(_PERSONAL & set(self.asked))


@functools.lru_cache(maxsize=256)
def key_of(question: Question, others: tuple[str, ...]) -> Key:
  """Returns what to compare answers to a question with.

  Args:
    question: The question, with its right answers.
    others: Other candidates.

  Raises:
    ValueError: a right answer is blank.
  """
  names = tuple(dict.fromkeys(map(words, question.answers)))
  if not names or not all(names):
    raise ValueError(
      f'Question {question.id!r} has the answers {question.answers!r}, '
      'expected at least one, and none that is blank. Correct it, or leave it '
      'out.'
    )
  by_words, other_dates, other_amounts = _index(others)
  asked = words(question.question)
  return Key(
    names=names,
    forms=forms(question.answers, asked),
    written=question.answers,
    amounts=_amounts_of(question.answers, question.question),
    asked=asked,
    dates=frozenset().union(*map(_full_dates, question.answers)),
    others=by_words,
    other_dates=other_dates,
    other_amounts=other_amounts,
  )


@functools.lru_cache(maxsize=256)
def _index(others):
  """Words of other candidates, their dates and their amounts."""
  by_words = dict(zip(map(words, others), others, strict=True))
  numeric = tuple(filter(has_digit, others))
  other_dates = frozenset().union(*map(_full_dates, numeric))
  return by_words, other_dates, _amounts_of(numeric)


def _amounts_of(texts, question='') -> tuple['Amount', ...]:
  """Returns the texts that are numbers, but no years."""
  asked = (unit_of(w) for w in re.findall(r'\bin (\w+)', question.lower()))
  unit = next(filter(None, asked), '')
  found = []
  for text in texts:
    read = None if dates_alone(text) else quantity(text)
    if read:
      measured = read[1] or unit or _SCALED.search(text)
      digits = len(re.findall(r'\d', text)) if measured else 0
      found.append(Amount(read[0], read[1] or unit, digits))
  return tuple(found)


def _full_dates(text) -> frozenset[Date]:
  """Returns a date that a text is, unless it is a year: words find that."""
  return frozenset(date for date in dates_alone(text) if date.month)


def has_digit(text: str) -> bool:
  """Returns True if a text has any digit."""
  return any(c.isdigit() for c in text)
