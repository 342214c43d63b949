"""How else a right answer may be written.

forms     'Henry VIII' as 'henry 8th', 'Mercury (planet)' as 'mercury'
parts     'Shakespeare', of 'William Shakespeare'; 'Pacific', where an ocean is
          asked for
acronym   'NASA'
"""

from collections.abc import Iterator, Sequence
import re

from experiments.knowledge_probing.normalising import (
  STOP_WORDS,
  Words,
  ordinal,
  words,
)

# Words that initials leave out.
SMALL = frozenset('a an and at by de for in of on the to'.split())
_ROMAN = [
  (10, 'x'),
  (9, 'ix'),
  (5, 'v'),
  (4, 'iv'),
  (1, 'i'),
]
# Longer ones are seldom numbers of kings, wars and films.
_LARGEST = 39
_PLACE = re.compile(
  'where|city|town|place|village|capital|located|born|county|port'
)
# '(planet)' says which Mercury is meant.
_IN_BRACKETS = re.compile(r'\s*\([^()A-Z]*\)$')
# These make a title or an office of a name, whose last word is no surname.
_NO_SURNAME = frozenset('of the in at and for &'.split())
_EITHER = re.compile(r'[^\W\d_]{4,}(?:\s*/\s*[^\W\d_]{4,})+')
# 'Akron, Ohio', but not 'Peter, Paul and Mary'.
_LIES_IN = re.compile(
  r'([^,]+)(?:, (?!.*(?:&| and )|.*\bthe\b)[A-Z][^,]*){1,2}'
)


def forms(answers: Sequence[str], asked: Words) -> tuple[Words, ...]:
  """Returns the words of answers, and of other ways to write them.

  Args:
    answers: Right ones.
    asked: Words of the question. Where it asks for a place, what follows the
      comma of an answer is left out.
  """
  written = list(answers)
  for answer in answers:
    written.append(_IN_BRACKETS.sub('', answer))
    if _EITHER.fullmatch(answer):
      written += answer.split('/')
    place = _LIES_IN.fullmatch(answer)
    if place and any(map(_PLACE.fullmatch, asked)):
      written.append(place[1])
  # What only repeats the question is no other way to write the answer.
  found = dict.fromkeys(
    name
    for each in written
    if each.strip() and (name := words(each))
    if each in answers or not set(name) <= set(asked)
  )
  for name in list(found):
    found |= dict.fromkeys(_with_other_numerals(name))
  return tuple(found)


def parts(written: str, asked: Words, personal: bool) -> Iterator[str]:
  """Yields parts of a name that stand for all of it.

  Args:
    written: The name.
    asked: Words of the question. If it says what kind of thing is asked for,
      the name may leave that out.
    personal: True if it asks for a person, whose surname is enough.
  """
  written = _IN_BRACKETS.sub('', written)
  pieces = re.sub(r',? (?:Jr|Sr)\.?$', '', written).split()
  if personal:
    is_name = not _NO_SURNAME & set(pieces)
    starts = range(1, len(pieces) if is_name else 0)
    found = [pieces[start:] for start in starts]
  else:
    kept = list(pieces)
    while kept and _is_asked(kept[-1], asked):
      kept.pop()
    while kept and (_is_asked(kept[0], asked) or kept[0].lower() in SMALL):
      kept.pop(0)
    found = [kept] if len(kept) < len(pieces) else []
  for piece in found:
    is_name = piece and piece[-1][0].isupper() and len(piece[-1]) > 2
    if is_name and not _number(piece[-1].lower()) and ',' not in piece[0]:
      yield ' '.join(piece)


def acronym(written: str) -> str:
  """Returns the initials of a name's words, small ones left out."""
  pieces = re.findall(r"[^\W_]+(?:['\u2019]\w+)?", written)
  return ''.join(p[0].upper() for p in pieces if p.lower() not in SMALL)


def _with_other_numerals(name: Words) -> Iterator[Words]:
  """Yields a name with later words as Roman or ordinal numbers."""
  for i, word in enumerate(name):
    number = _number(word) if i else 0
    if number:
      for other in (str(number), _roman(number), ordinal(number)):
        yield (*name[:i], other, *name[i + 1 :])


def _number(word: str) -> int:
  """Returns the number up to 39 that a word is; 0 for another word."""
  digits = re.fullmatch(r'(\d{1,2})(?:st|nd|rd|th)?', word)
  if digits:
    number = int(digits[1])
    return number if number <= _LARGEST else 0
  if not re.fullmatch('x{0,3}(?:ix|iv|v?i{0,3})', word):
    return 0
  return next(n for n in range(_LARGEST + 1) if _roman(n) == word)


def _roman(number: int) -> str:
  written = ''
  for value, letters in _ROMAN:
    written += letters * (number // value)
    number %= value
  return written


def _is_asked(word: str, asked: Words) -> bool:
  own = words(word)
  return bool(own) and all(
    w in asked or f'{w}s' in asked or w in STOP_WORDS for w in own
  )
