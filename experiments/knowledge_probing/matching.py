"""Rules by which an answer matches the right ones, and what guards them.

A rule is called as rule(key, text, settings): `Key` holds what a question's
answers are compared with.
"""

from collections import Counter
from collections.abc import Mapping
import dataclasses
import functools
import re
from typing import NamedTuple

from rapidfuzz import process
from rapidfuzz.distance import DamerauLevenshtein

from experiments.knowledge_probing.normalising import (
  STOP_WORDS,
  Date,
  Words,
  dates,
  dates_alone,
  is_number,
  occurrences,
  words,
)
from experiments.knowledge_probing.records import Question

# Shorter answers must be all that is said, or its first number.
SHORTEST = 2
SHORTEST_FUZZY = 5
_NOT = frozenset(
  """not isnt wasnt arent werent never neither nor except unlike cannot cant
  doesnt didnt""".split()
)
_ISNT = frozenset('isnt wasnt arent werent'.split())
_IS = frozenset('is was are were'.split())
# Digits, Roman numerals and ordinals tell things of one name apart.
_ESSENTIAL = re.compile(
  r'.*\d.*|[ivx]+|first|second|third|fourth|fifth|sixth|seventh|eighth|ninth'
)
_DIGIT = re.compile(r'\d')
_SENTENCE = re.compile(r'(?<=[.!?])\s')
_PERSONAL = frozenset(('who', 'whom', 'whose'))


class Found(NamedTuple):
  """What a rule says.

  Attributes:
    right: True if the answer is right.
    why: Why not; '' where nothing matches.
  """

  right: bool
  why: str = ''


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Key:
  """What a question's answers are compared with.

  Attributes:
    names: Words of the right answers.
    asked: Words of the question.
    dates: Those of the right answers that are dates.
    others: Words of the other candidates -> as they are written.
    other_dates: Theirs.
  """

  names: tuple[Words, ...]
  asked: Words
  dates: frozenset[Date]
  others: Mapping[Words, str]
  other_dates: frozenset[Date]

  @functools.cached_property
  def longest(self) -> int:
    """Words of the longest other candidate."""
    return max(map(len, self.others), default=0)

  @functools.cached_property
  def is_choice(self) -> bool:
    """Whether the question names a right answer."""
    return any(occurrences(name, self.asked) for name in self.names)


@functools.lru_cache(maxsize=256)
def key_of(question: Question, others: tuple[str, ...]) -> Key:
  """What to compare answers to a question with.

  Args:
    question: With its right answers.
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
  by_words, other_dates = _index(others)
  return Key(
    names=names,
    asked=words(question.question),
    dates=frozenset().union(*map(_full_dates, question.answers)),
    others=by_words,
    other_dates=other_dates,
  )


@functools.lru_cache(maxsize=256)
def _index(others) -> tuple[dict[Words, str], frozenset[Date]]:
  by_words = dict(zip(map(words, others), others, strict=True))
  dated = filter(_has_digit, others if _has_digit(''.join(others)) else ())
  return by_words, frozenset().union(*map(_full_dates, dated))


def _full_dates(text) -> frozenset[Date]:
  """A date that a text is, unless it is a year: words find that."""
  return frozenset(date for date in dates_alone(text) if date.month)


def exact(key: Key, text: str, settings=None) -> Found:
  """Whether the first line is one of the right answers."""
  lines = text.strip().splitlines()
  return Found(bool(lines) and words(lines[0]) in key.names)


def _alias(key, text, settings) -> Found:
  sentence = _SENTENCE.split(text.strip(), maxsplit=1)[0]
  if words(sentence) not in key.names:
    return Found(False)
  rival = _rival(key, words(text), _own_spans(key, words(text)))
  return Found(not rival, rival)


def _contains(key, text, settings) -> Found:
  said, why = words(text), ''
  spans = _own_spans(key, said)
  rival = _rival(key, said, spans) if spans else ''
  for start, stop in spans:
    if stop - start == 1 and len(said[start]) < SHORTEST:
      if start != next((i for i, w in enumerate(said) if is_number(w)), -1):
        continue
    why = _guard(key, said, start, stop) or rival
    if not why:
      return Found(True)
  return Found(False, why)


def _date(key, text, settings) -> Found:
  if not key.dates:
    return Found(False)
  given = dates(text)
  if not any(date.has(gold) for date in given for gold in key.dates):
    return Found(False)
  said = words(text)
  if _NOT & set(said):
    return Found(False, 'denied')
  if 'or' in said:
    return Found(False, 'a choice of answers')
  if any(date.has(other) for date in given for other in key.other_dates):
    return Found(False, 'another date')
  return Found(True)


def _f1(key, text, settings) -> Found:
  """SQuAD's F1, where the words that differ do not make another thing of it.

  Nothing may be replaced ('New Zealand' for 'New York'), no number be lost
  ('World War'), and one word of several is too little, unless it is the
  surname of a person who was asked for.
  """
  said = words(text)
  best = max(_overlap(said, name) for name in key.names)
  if best < settings.f1_threshold:
    return Found(False)
  if _NOT & set(said):
    return Found(False, 'denied')
  if 'or' in said and not any('or' in name for name in key.names):
    return Found(False, 'a choice of answers')
  rival = _rival(key, said, _own_spans(key, said))
  if not rival and any(_overlap(said, o) >= best for o in key.others):
    rival = 'another answer fits as well'
  if rival:
    return Found(False, rival)
  why = ''
  for name in key.names:
    if _overlap(said, name) >= settings.f1_threshold:
      why = _differs(key, said, name)
      if not why:
        return Found(True)
  return Found(False, why)


def _differs(key, said, name) -> str:
  """Why words that share some with a name are not that name; or ''."""
  shared = (set(name) & set(said)) - STOP_WORDS
  missing = set(name) - set(said) - STOP_WORDS
  extra = set(said) - set(name) - set(key.asked)
  extra = {w for w in extra if w not in STOP_WORDS or _ESSENTIAL.fullmatch(w)}
  if not shared - set(key.asked):
    return 'only repeats the question'
  if missing and extra:
    return 'words are replaced'
  if _essential(missing):
    return 'a number is missing'
  if missing and len(shared) == 1:
    surname = name[-1] in shared and _PERSONAL & set(key.asked)
    ambiguous = any(shared & set(other) for other in key.others)
    if not surname or ambiguous:
      return 'one word of several'
  return ''


def _fuzzy(key, text, settings) -> Found:
  said, why = words(text), ''
  for name in key.names:
    size, written = len(name), ' '.join(name)
    if len(written) < SHORTEST_FUZZY or _has_digit(written):
      continue
    for start in range(len(said) - size + 1):
      stop = start + size
      window = ' '.join(said[start:stop])
      score = _similarity(window, written, settings.fuzzy)
      if not score or _has_digit(window) or len(window) < SHORTEST_FUZZY:
        continue
      if _essential(name) != _essential(said[start:stop]):
        continue
      why = _guard(key, said, start, stop)
      if occurrences(said[start:stop], key.asked):
        why = why or 'only repeats the question'
      why = why or _rival(key, said, [(start, stop)])
      if not why and _fits(window, key.others, score):
        why = 'another answer fits as well'
      if not why:
        return Found(True)
  return Found(False, why)


RULES = {
  'exact': exact,
  'alias': _alias,
  'contains': _contains,
  'date': _date,
  'f1': _f1,
  'fuzzy': _fuzzy,
}


def _guard(key, said, start, stop) -> str:
  """Why the words from start to stop are not given as the answer; or ''."""
  if _is_denied(said, start, stop):
    return 'denied'
  if 'or' in said[max(start - 1, 0) : start] + said[stop : stop + 1]:
    return 'a choice of answers'
  if _is_echo(key, said, start, stop):
    return 'only repeats the question'
  return ''


def _rival(key, said, own) -> str:
  """Names another candidate that stands outside the right answers; or ''.

  Not one that is denied, that belongs to a phrase of the question, or that the
  question names, unless the question names the right answer too: then it is a
  choice.
  """
  for start in range(len(said)):
    for stop in range(start + 1, min(start + key.longest, len(said)) + 1):
      name = key.others.get(said[start:stop])
      if name is None or len(' '.join(said[start:stop])) < SHORTEST:
        continue
      if any(a <= start and stop <= b for a, b in own):
        continue
      named = occurrences(said[start:stop], key.asked) and not key.is_choice
      if not (
        named
        or _is_denied(said, start, stop)
        or _is_echo(key, said, start, stop)
      ):
        return f'another answer, {name!r}'
  return ''


def _own_spans(key, said) -> list[tuple[int, int]]:
  return [
    (start, start + len(name))
    for name in key.names
    for start in occurrences(name, said)
  ]


def _is_denied(said, start, stop) -> bool:
  """'not in Paris', or 'Paris is not'; 'not Lyon but Paris' is neither."""
  before = start - 1
  while before >= 0 and said[before] in STOP_WORDS and said[before] != 'but':
    before -= 1
  if before >= 0 and said[before] in _NOT:
    return True
  after = said[stop : stop + 2]
  return bool(after) and (
    after[0] in _ISNT or (after[0] in _IS and after[-1] == 'not')
  )


def _is_echo(key, said, start, stop) -> bool:
  """Whether the words belong to a longer phrase of the question."""
  a, b = start, stop
  while a > 0 and occurrences(said[a - 1 : b], key.asked):
    a -= 1
  while b < len(said) and occurrences(said[a : b + 1], key.asked):
    b += 1
  return bool({*said[a:start], *said[stop:b]} - STOP_WORDS)


def _essential(these) -> list[str]:
  return [word for word in these if _ESSENTIAL.fullmatch(word)]


def _has_digit(text) -> bool:
  return bool(_DIGIT.search(text))


def _overlap(said: Words, name: Words) -> float:
  """SQuAD's F1 of two bags of words."""
  shared = (Counter(said) & Counter(name)).total()
  return 2 * shared / (len(said) + len(name))


def _similarity(a: str, b: str, least: float) -> float:
  """Damerau-Levenshtein similarity, 0 if it is below `least`."""
  return DamerauLevenshtein.normalized_similarity(a, b, score_cutoff=least)


def _fits(window, others, score) -> bool:
  """Whether another candidate is as similar to some words."""
  return bool(
    process.extractOne(
      window,
      [' '.join(other) for other in others],
      scorer=DamerauLevenshtein.normalized_similarity,
      score_cutoff=score,
    )
  )
