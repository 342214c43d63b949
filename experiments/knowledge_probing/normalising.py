"""Answers as words that can be compared: spelling, numbers and dates.

  normalise('The U.S., 1,990 “miles”')   'us 1990 miles'
  dates('born on 3 March 1990')          {Date(1990, 3, 3)}

Case, accents (of Latin, Greek and Cyrillic letters), punctuation and English
articles do not count; numbers are digits, however they are written.
"""

import functools
import re
from typing import NamedTuple
import unicodedata

from experiments.entities.letter_folding import fold, join_initials
from experiments.entities.quantities import MONTHS, ONES, SCALES, TENS

# The words that say how an answer is put, not what it is.
STOP_WORDS = frozenset(
  """a about an and answer are as at be been being but by can could did do does
  for from had has have he her him his how i in into is it its me my of on or
  our she so such than that the their them then there these they this those to
  was we were what when where which while who whom whose why will with would you
  your""".split()
)
_ARTICLES = frozenset(('a', 'an', 'the'))
_SIGNS = str.maketrans('\u2018\u2019\u00b4\u2212', "'''-")
_POSSESSIVE = re.compile(r"(?<=\w)'s\b")
_ATTACHED = re.compile(r'(?<=\d)(?=(?:[kcm]?m|k?g|ft|mi|mph)\b)')
_SPACED = re.compile(r'(?<![\d.,])\d{1,3}(?: \d{3})+(?![\d,]|\.\d)')
_VALUES = ONES | TENS
_ORDINALS = {
  word: i
  for i, word in enumerate(
    'first second third fourth fifth sixth seventh eighth ninth tenth eleventh '
    'twelfth thirteenth fourteenth fifteenth sixteenth seventeenth eighteenth '
    'nineteenth twentieth'.split(),
    1,
  )
}
# How signs and units after a number are read out.
_SPOKEN = {
  '&': 'and',
  '%': 'percent',
  'per cent ': 'percent',
  '\u00b0c': 'degrees celsius',
  '\u00b0f': 'degrees fahrenheit',
}
_RATE = re.compile(r'(?<=m)/(?=(?:h|hr|s|sec|hour|second)\b)')
_MEASURES = {
  'km': 'kilometers',
  'm': 'meters',
  'cm': 'centimeters',
  'mm': 'millimeters',
  'ft': 'feet',
  'mi': 'miles',
  'kg': 'kilograms',
  'lb': 'pounds',
  'lbs': 'pounds',
  'kilometer': 'kilometers',
  'meter': 'meters',
  'foot': 'feet',
  'mile': 'miles',
  'pound': 'pounds',
}
_PER = {'h': 'hour', 'hr': 'hour', 's': '2nd', 'sec': '2nd'}
# Other spellings of a word, British ones and those that are cut short.
_SPELLED = {'st': 'saint', 'mt': 'mount', 'dr': 'doctor', 'grey': 'gray'}
_BRITISH = re.compile(r'\b(\w*(?:cen|thea|me|li)t)re(s?)\b|\b(\w{3,})our(s?)\b')
_NUMBER = r'(?:\d{1,3}(?:,\d{3})+(?![\d,])|\d+)(?:\.\d+)?'
# Scripts without spaces: every character is a word.
_UNSPACED = re.compile('([\u3040-\u30ff\u3400-\u9fff])')
# A number with its sign, or a word; 'C++' and 'F#' keep their signs.
_TOKEN = re.compile(
  rf'(?:(?<![\w.)])-)?{_NUMBER}(?!\w)|[0-9a-z\x80-\U0010ffff]+(?:[+#]+(?!\w))?'
)
_MONTHS = {
  name[:length]: i
  for i, name in enumerate(MONTHS, 1)
  for length in (3, 4, len(name))
}
_YEAR = r'(?P<y>[12]\d{3})'
_DAY = r'(?P<d>[0-3]?\d)(?:st|nd|rd|th)?'
_MONTH = rf'(?P<m>{"|".join(sorted(_MONTHS, key=len, reverse=True))})\b\.?'
_DATES = [
  re.compile(pattern)
  for pattern in (
    rf'\b{_YEAR}[-/.](?P<m>[01]?\d)[-/.](?P<d>[0-3]?\d)\b',
    rf'\b(?P<d>[0-3]?\d)[-/.](?P<m>[0-3]?\d)[-/.]{_YEAR}\b',
    rf'\b{_DAY}\s+(?:of\s+)?{_MONTH}(?:,?\s+(?:of\s+)?{_YEAR}\b)?',
    rf'\b{_MONTH}\s+(?:the\s+)?{_DAY}\b(?:,?\s+(?:of\s+)?{_YEAR}\b)?',
    rf'\b{_MONTH},?\s+(?:of\s+)?{_YEAR}\b',
    rf'\b{_YEAR}\b',
  )
]
_DAY_FIRST = _DATES[1]


Words = tuple[str, ...]


class Date(NamedTuple):
  """A date as far as it is given; None is what is not."""

  year: int | None
  month: int | None
  day: int | None

  def has(self, other: 'Date') -> bool:
    """Returns True if it says all that another does: 3 March 1990 says 1990."""
    return all(b is None or a == b for a, b in zip(self, other, strict=True))


def normalise(text: str) -> str:
  """Returns the words of a text, one space between them.

  NFKC and case folding; accents, punctuation and articles are gone, '1,990' is
  '1990', 'twelve' is '12' and '1.5 million' is '1500000'; Chinese and Japanese
  characters are words. A text without letters and digits stays as it is.
  """
  return ' '.join(words(text))


@functools.lru_cache(maxsize=1 << 16)
def words(text: str) -> Words:
  """Returns the same as a tuple."""
  text = spelled = plain(text)
  if "'" in text:
    text = _POSSESSIVE.sub('', text).replace("'", '')
  if '.' in text:
    text = join_initials(text)
  text = _RATE.sub(' per ', text.replace('mph', ' miles per hour'))
  for sign, spoken in _SPOKEN.items():
    text = text.replace(sign, f' {spoken} ')
  if not text.isascii():
    text = _UNSPACED.sub(r' \1 ', ''.join(map(_letter, text)))
  text = _SPACED.sub(lambda m: m[0].replace(' ', ''), text)
  text = _BRITISH.sub(_americanised, _ATTACHED.sub(' ', text))
  found = _read_numbers(_TOKEN.findall(text))
  kept = [word for word in found if word not in _ARTICLES]
  return tuple(kept or found or spelled.split())


@functools.lru_cache(maxsize=1 << 10)
def plain(text: str) -> str:
  """Returns a text with plain letters, quotes and spaces, in lower case."""
  text = text.replace('_', ' ')
  if text.isascii():
    return text.lower()
  return fold(text).casefold().translate(_SIGNS)


def is_number(word: str) -> bool:
  """Returns True if a normalised word is a number."""
  return bool(re.fullmatch(r'-?\d+(\.\d+)?', word))


def ordinal(number: int) -> str:
  """'1st', '2nd', '13th'."""
  ending = {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th')
  return f'{number}{"th" if 10 < number % 100 < 14 else ending}'


def numbers(text: str) -> tuple[float, ...]:
  """Returns all numbers of a text, in its order."""
  return tuple(float(word) for word in words(text) if is_number(word))


@functools.lru_cache(maxsize=1 << 16)
def dates(text: str) -> frozenset[Date]:
  """Returns all dates of a text; a year alone is one, from 1000 to 2999.

  '4/5/1990' may be in April or in May, and is both.
  """
  return _find_dates(text)[0]


@functools.lru_cache(maxsize=1 << 16)
def dates_alone(text: str) -> frozenset[Date]:
  """Returns the dates that a text is, with nothing else beside; or none."""
  found, rest = _find_dates(text)
  return frozenset() if set(words(rest)) - {'on', 'in', 'the'} else found


def _find_dates(text) -> tuple[frozenset[Date], str]:
  """Returns the dates of a text, and the text without them."""
  if not any(c.isdigit() for c in text):
    return frozenset(), text
  text, found = plain(text), set()
  for pattern in _DATES:
    for match in pattern.finditer(text):
      parts = match.groupdict()
      year, day = (int(parts.get(k) or 0) or None for k in 'yd')
      month = parts.get('m')
      month = _MONTHS.get(month) or int(month or 0) or None
      found.add(Date(year, month, day))
      if pattern is _DAY_FIRST:
        found.add(Date(year, day, month))
    text = pattern.sub(' ', text)
  valid = (d for d in found if (d.month or 1) <= 12 and (d.day or 1) <= 31)
  return frozenset(valid), text


def _read_numbers(tokens) -> list[str]:
  """Tokens with numbers as digits: 'twenty', 'one' are one, '21'.

  What follows 'hundred', and words after 'thousand', are added.
  """
  found = []
  room = 0  # A word for less than this joins the number before it.
  done = 0.0  # What of that number no later scale multiplies: a million.
  for i, token in enumerate(tokens):
    value = _VALUES.get(token)
    scale = SCALES.get(token, SCALES.get(token.removesuffix('s')))
    place = _ORDINALS.get(token)
    following = tokens[i + 1] if i + 1 < len(tokens) else ''
    if scale and found and is_number(found[-1]):
      done = done if float(found[-1]) > done else 0.0
      number = done + (float(found[-1]) - done) * scale
      found[-1] = _trimmed(f'{number:.6f}')
      room, done = scale, number if scale >= 1000 else done
    elif token == 'and' and room in (100, 1000) and following in _VALUES:
      continue
    elif value is not None and 0 < value < room and is_number(found[-1]):
      found[-1] = _trimmed(f'{float(found[-1]) + value:.6f}')
      room = 10 if value >= 20 else 0
    elif place and place < room == 10:
      found[-1] = ordinal(int(found[-1]) + place)
      room = 0
    elif token == 'dozen':
      own = found and found[-1].isdigit()
      found.append(str(12 * int(found.pop() if own else 1)))
    else:
      if found and is_number(found[-1]):
        token = _MEASURES.get(token, token)
      elif found and found[-1] == 'per':
        token = _PER.get(token, token)
      spelled = ordinal(place) if place else _trimmed(token)
      found.append(spelled if value is None else str(value))
      room, done = 10 if value is not None and value >= 20 else 0, 0.0
  return found


def _americanised(match) -> str:
  return f'{match[1]}er{match[2]}' if match[1] else f'{match[3]}or{match[4]}'


def _letter(c) -> str:
  """Returns the sign, or a space for one beyond ASCII that is no letter.

  Vowel signs are letters.
  """
  return c if c.isascii() or unicodedata.category(c)[0] in 'LMN' else ' '


def _trimmed(token) -> str:
  """Returns a number without commas and zeros, or a word spelled one way."""
  token = _SPELLED.get(token, token)
  if not token[-1].isdigit() or not re.match(r'[-\d]', token):
    return token
  token = token.replace(',', '')
  return token.rstrip('0').rstrip('.') if '.' in token else token
