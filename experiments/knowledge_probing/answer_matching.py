"""Rules by which an answer matches the right ones.

A rule is called as rule(key, text, settings).
"""

from collections import Counter
import math
import re
from typing import NamedTuple

from rapidfuzz import process
from rapidfuzz.distance import DamerauLevenshtein

from experiments.entities.letter_folding import fold, join_initials
from experiments.entities.mentions import stands_alone
from experiments.entities.name_matching import occurrences
from experiments.entities.quantities import OTHER_SIGNS, amounts
from experiments.knowledge_probing.forms import SMALL, acronym, parts
from experiments.knowledge_probing.guards import (
  NOT,
  SHORTEST,
  guard,
  own_spans,
  rival_of,
)
from experiments.knowledge_probing.keys import Amount, Key, has_digit
from experiments.knowledge_probing.normalising import (
  STOP_WORDS,
  Words,
  dates,
  is_number,
  words,
)

SHORTEST_FUZZY = 5
SHORTEST_INFLECTED = 3
# Digits, Roman numerals and ordinals tell things of one name apart.
_ESSENTIAL = re.compile(
  r'.*\d.*|[ivx]+|first|second|third|fourth|fifth|sixth|seventh|eighth|ninth'
)
_DOUBLED = re.compile(r'(\w)\1')
_SENTENCE = re.compile(r'(?<=[.!?])\s')
_TITLES = frozenset(
  """mr mrs ms dr sir lord lady king queen president minister saint st pope
  emperor prince princess captain general professor judge""".split()
)
_ABOUT = re.compile(
  r'\b(?:about|approximately|approx|around|roughly|nearly|almost|some|over'
  r'|more than|just under|million|billion)\b|~'
)
# A number that is about right is rounded, and differs by so little.
_NEAR = 0.02


class Found(NamedTuple):
  """Holds what a rule says.

  Attributes:
    right: True if the answer is right.
    why: Why not; '' where nothing matches.
  """

  right: bool
  why: str = ''


def exact(key: Key, text: str, settings=None) -> Found:
  """Returns True if the first line is one of the right answers."""
  lines = text.strip().splitlines()
  return Found(bool(lines) and words(lines[0]) in key.names)


def _alias(key, text, settings) -> Found:
  sentence = _SENTENCE.split(text.strip(), maxsplit=1)[0]
  if words(sentence) not in key.forms:
    return Found(False)
  rival = rival_of(key, words(text), own_spans(key, words(text)))
  return Found(not rival, rival)


def _contains(key, text, settings) -> Found:
  said, why = words(text), ''
  spans = own_spans(key, said)
  rival = rival_of(key, said, spans) if spans else ''
  for start, stop in spans:
    if stop - start == 1 and len(said[start]) < SHORTEST:
      if not _is_meant(key, said, start):
        continue
    why = guard(key, said, start, stop) or rival
    if not why:
      return Found(True)
  return Found(False, why)


def _is_meant(key, said, at) -> bool:
  """Returns True if a single letter or digit is given as the answer.

  A digit is the first number that the question does not hold, or counts what
  it asks for; a letter is called one.
  """
  if not is_number(said[at]):
    return said[max(at - 1, 0) : at] == ('letter',)
  own = set(key.asked) if said[at] not in key.asked else set()
  first = next((i for i, w in enumerate(said) if is_number(w) and w not in own))
  if at == first:
    return True
  many = key.asked.index('many') + 1 if 'many' in key.asked else None
  counted = set() if many is None else set(key.asked[many : many + 2])
  return bool(
    set(map(_singular, said[at + 1 : at + 2])) & set(map(_singular, counted))
  )


def _amount(key, text, settings) -> Found:
  """Returns True if the first number, in the right unit, is a right one.

  It is if it is the same once both have as many digits, or, where it is said to
  be about right, once the right one is rounded like it.
  """
  said = words(text)
  for right in key.amounts:
    given = amounts(OTHER_SIGNS.sub(' ', text), right.unit)[:1]
    if not given or not _is_near(given[0], right, text):
      continue
    if NOT & set(said):
      return Found(False, 'denied')
    if {'or', 'between'} & set(said):
      return Found(False, 'a choice of answers')
    off = abs(given[0] - right.value)
    if any(abs(given[0] - other.value) <= off for other in key.other_amounts):
      return Found(False, 'another answer fits as well')
    return Found(True)
  return Found(False)


def _date(key, text, settings) -> Found:
  if not key.dates:
    return Found(False)
  given = dates(text)
  if not any(date.has(gold) for date in given for gold in key.dates):
    return Found(False)
  said = words(text)
  if NOT & set(said):
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
  best = max(_overlap(said, name) for name in key.forms)
  if best < settings.f1_threshold:
    return Found(False)
  if NOT & set(said):
    return Found(False, 'denied')
  if 'or' in said and not any('or' in name for name in key.names):
    return Found(False, 'a choice of answers')
  rival = rival_of(key, said, own_spans(key, said))
  if not rival and any(_overlap(said, o) >= best for o in key.others):
    rival = 'another answer fits as well'
  if rival:
    return Found(False, rival)
  why = ''
  for name in key.forms:
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
  _pair_initials(missing, extra)
  if missing and extra:
    return 'words are replaced'
  missing -= set(key.asked)
  if _essential(missing):
    return 'a number is missing'
  if missing and len(shared) == 1:
    surname = name[-1] in shared and key.is_personal
    ambiguous = any(shared & set(other) for other in key.others)
    if not surname or ambiguous:
      return 'one word of several'
  return ''


def _pair_initials(missing: set[str], extra: set[str]):
  """Takes initials out, and what they stand for: 'f' and 'fitzgerald'."""
  for short, long in ((missing, extra), (extra, missing)):
    for word in [w for w in short if len(w) <= 3 and not _essential([w])]:
      found = {next((w for w in long if w[0] == c), None) for c in word}
      if len(found) == len(word) and None not in found:
        short.discard(word)
        long.difference_update(found)


def _fuzzy(key, text, settings) -> Found:
  said, why = words(text), ''
  for name in key.forms:
    size, written = len(name), ' '.join(name)
    if len(written) < SHORTEST_INFLECTED or has_digit(written):
      continue
    for start, stop in _windows(said, size):
      window = ' '.join(said[start:stop])
      score = _similarity(key, window, written, settings.fuzzy)
      if not score or has_digit(window):
        continue
      if _essential(name) != _essential(said[start:stop]):
        continue
      if score < 1 and _initial(name) != _initial(said[start:stop]):
        continue
      why = guard(key, said, start, stop)
      if occurrences(said[start:stop], key.asked):
        why = why or 'only repeats the question'
      why = why or rival_of(key, said, [(start, stop)])
      if not why and _fits(window, key.others, score):
        why = 'another answer fits as well'
      if not why:
        return Found(True)
  return Found(False, why)


def _short(key, text, settings) -> Found:
  """Returns True if a text says part of a name, or its initials."""
  said, why = words(text), ''
  for written in key.written:
    own = frozenset(written.lower().split()) | _TITLES | STOP_WORDS | {'i'}
    pieces = [
      piece
      for piece in parts(written, key.asked, key.is_personal)
      if stands_alone(text, piece, own)
    ]
    if not key.is_personal:
      pieces += _initials(written, text)
    for piece in pieces:
      name = words(piece)
      if occurrences(name, key.asked):
        continue
      if any(occurrences(name, other) for other in key.others):
        return Found(False, 'one word of several')
      spans = [(i, i + len(name)) for i in occurrences(name, said)]
      rival = rival_of(key, said, spans)
      for start, stop in spans:
        why = guard(key, said, start, stop) or rival
        if not why:
          return Found(True)
  return Found(False, why)


def _initials(written: str, text: str) -> list[str]:
  """Returns a name's initials in a text, or the name that they stand for."""
  text = join_initials(fold(text))
  if len(written.split()) > 1:
    short = acronym(written)
    return [short] if re.search(rf'\b{re.escape(short)}\b', text) else []
  if not re.fullmatch('[A-Z]{2,6}', written):
    return []
  tokens = re.findall(r'[^\W_]+', text)
  runs = (
    tokens[start : start + size]
    for size in range(len(written), len(written) + 4)
    for start in range(len(tokens) - size + 1)
  )
  return [
    ' '.join(run)
    for run in runs
    if run[0][0].isupper()
    and run[-1].lower() not in SMALL
    and acronym(' '.join(run)) == written
  ]


RULES = {
  'exact': exact,
  'alias': _alias,
  'contains': _contains,
  'date': _date,
  'amount': _amount,
  'f1': _f1,
  'fuzzy': _fuzzy,
  'short': _short,
}


def _essential(these) -> list[str]:
  return [word for word in these if _ESSENTIAL.fullmatch(word)]


def _initial(these) -> list[str]:
  return [w for w in these if len(w) <= 2 and w not in STOP_WORDS]


def _overlap(said: Words, name: Words) -> float:
  """SQuAD's F1 of two bags of words."""
  shared = (Counter(said) & Counter(name)).total()
  return 2 * shared / (len(said) + len(name))


def _windows(said, size) -> list[tuple[int, int]]:
  """Returns all stretches of about so many words ('icecream' may be two)."""
  return [
    (start, start + wide)
    for wide in (size, size - 1, size + 1)
    for start in range(len(said) - wide + 1)
    if wide > 0
  ]


def _similarity(key, a: str, b: str, least: float) -> float:
  """Damerau-Levenshtein similarity, 0 if it is below `least`.

  It is 1 for a plural and its singular, unless they are of a person's name, and
  where only single letters are doubled.
  """
  if _singular(a) == _singular(b):
    return float(a == b or not key.is_personal)
  if min(len(a), len(b)) < SHORTEST_FUZZY:
    return 0.0
  if a.count(' ') != b.count(' '):
    return float(a.replace(' ', '') == b.replace(' ', ''))
  if _DOUBLED.sub(r'\1', a) == _DOUBLED.sub(r'\1', b):
    return 1.0
  return DamerauLevenshtein.normalized_similarity(a, b, score_cutoff=least)


def _singular(text: str) -> str:
  """Returns the words without a plural's ending."""
  text = re.sub(r'(?<=\w\w)ies\b', 'y', text)
  text = re.sub(r'(?<=ch|sh|ss)es\b|(?<=x)es\b', '', text)
  return re.sub(r'(?<=\w\w[^\Ws])s\b', '', text)


def _is_near(given: float, right: Amount, text: str) -> bool:
  """Returns True if numbers are the same as far as one of them is rounded."""
  value, rounded = right.value, given
  if right.digits > 1 and value:
    magnitude = math.floor(math.log10(abs(value)))
    rounded = round(given, right.digits - 1 - magnitude)
  if math.isclose(rounded, value, rel_tol=1e-12):
    return True
  written = f'{given:.9f}'.rstrip('0').rstrip('.')
  if '.' in written:
    unit = 10.0 ** -len(written.split('.')[1])
  else:
    unit = 10.0 ** (len(written) - len(written.rstrip('0')))
  off = abs(given - value)
  about = bool(_ABOUT.search(text.lower()))
  return about and off <= min(unit / 2, _NEAR * abs(value))


def _fits(window, others, score) -> bool:
  """Returns True if another candidate is as similar to some words."""
  return bool(
    process.extractOne(
      window,
      [' '.join(other) for other in others],
      scorer=DamerauLevenshtein.normalized_similarity,
      score_cutoff=score,
    )
  )
