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

# The words that say how an answer is put, not what it is.
STOP_WORDS = frozenset(
  """a about an and answer are as at be been being but by can could did do does
  for from had has have he her him his how i in into is it its me my of on or
  our she so such than that the their them then there these they this those to
  was we were what when where which while who whom whose why will with would you
  your""".split()
)
_ARTICLES = frozenset(('a', 'an', 'the'))
# Letters that no accent was added to, but that are written without.
_PLAIN = str.maketrans(
  {'ø': 'o', 'ł': 'l', 'đ': 'd', 'ı': 'i', 'æ': 'ae', 'œ': 'oe'}
)
_SIGNS = str.maketrans('\u2018\u2019\u02bc\u00b4\u2212', "''''-")
_ACCENT = re.compile('[\u0300-\u036f]')
_POSSESSIVE = re.compile(r"(?<=\w)'s\b")
_INITIALS = re.compile(r'\b(?:[^\W\d_]\.\s*){2,}(?:(?<=\.)[^\W\d_]\b)?')
_ATTACHED = re.compile(r'(?<=\d)(?=(?:[kcm]?m|k?g|ft|mi|mph)\b)')
_UNITS = (
  'zero one two three four five six seven eight nine ten eleven twelve '
  'thirteen fourteen fifteen sixteen seventeen eighteen nineteen'
).split()
_TENS = 'twenty thirty forty fifty sixty seventy eighty ninety'.split()
_VALUES = {word: i for i, word in enumerate(_UNITS)}
_VALUES |= {word: 10 * i for i, word in enumerate(_TENS, 2)}
_SCALES = {'thousand': 3, 'million': 6, 'billion': 9}
_SCALES |= {f'{word}s': power for word, power in _SCALES.items()}
_NUMBER = r'(?:\d{1,3}(?:,\d{3})+(?![\d,])|\d+)(?:\.\d+)?'
# Scripts without spaces: every character is a word.
_UNSPACED = re.compile('([\u3040-\u30ff\u3400-\u9fff])')
# A number with its sign, or a word; 'C++' and 'F#' keep their signs.
_TOKEN = re.compile(
  rf'(?:(?<![\w.)])-)?{_NUMBER}(?!\w)|[0-9a-z\x80-\U0010ffff]+(?:[+#]+(?!\w))?'
)
_MONTHS = {
  name[:length]: i
  for i, name in enumerate(
    'january february march april may june july august september october '
    'november december'.split(),
    1,
  )
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
    """Whether it says all that another does: 3 March 1990 says 1990."""
    return all(b is None or a == b for a, b in zip(self, other, strict=True))


def normalise(text: str) -> str:
  """The words of a text, one space between them.

  NFKC and case folding; accents, punctuation and articles are gone, '1,990' is
  '1990', 'twelve' is '12' and '1.5 million' is '1500000'; Chinese and Japanese
  characters are words. A text without letters and digits stays as it is.
  """
  return ' '.join(words(text))


@functools.lru_cache(maxsize=1 << 16)
def words(text: str) -> Words:
  """The same as a tuple."""
  text = spelled = plain(text)
  if "'" in text:
    text = _POSSESSIVE.sub('', text).replace("'", '')
  if '.' in text:
    text = _INITIALS.sub(lambda m: re.sub(r'[.\s]', '', m[0]) + ' ', text)
  if not text.isascii():
    text = _UNSPACED.sub(r' \1 ', ''.join(map(_letter, text)))
  text = _ATTACHED.sub(' ', text.replace('&', ' and '))
  found = _read_numbers(_TOKEN.findall(text))
  kept = [word for word in found if word not in _ARTICLES]
  return tuple(kept or found or spelled.split())


@functools.lru_cache(maxsize=1 << 10)
def plain(text: str) -> str:
  """A text in one spelling of letters, quotes and spaces, in lower case."""
  text = text.replace('_', ' ')
  if text.isascii():
    return text.lower()
  text = unicodedata.normalize('NFKC', text).casefold()
  text = text.translate(_SIGNS)
  text = _ACCENT.sub('', unicodedata.normalize('NFD', text.translate(_PLAIN)))
  return unicodedata.normalize('NFC', text)


def is_number(word: str) -> bool:
  """Whether a normalised word is a number."""
  return bool(re.fullmatch(r'-?\d+(\.\d+)?', word))


def numbers(text: str) -> tuple[float, ...]:
  """All numbers of a text, in its order."""
  return tuple(float(word) for word in words(text) if is_number(word))


@functools.lru_cache(maxsize=1 << 16)
def dates(text: str) -> frozenset[Date]:
  """All dates of a text; a year alone is one, from 1000 to 2999.

  '4/5/1990' may be in April or in May, and is both.
  """
  return _find_dates(text)[0]


@functools.lru_cache(maxsize=1 << 16)
def dates_alone(text: str) -> frozenset[Date]:
  """The dates that a text is, with nothing else beside; or none."""
  found, rest = _find_dates(text)
  return frozenset() if set(words(rest)) - {'on', 'in', 'the'} else found


def occurrences(name: Words, said: Words) -> list[int]:
  """Where the words of a name, of which there are some, follow each other."""
  if name[0] not in said:
    return []
  size = len(name)
  starts = range(len(said) - size + 1)
  return [i for i in starts if said[i : i + size] == name]


def _find_dates(text) -> tuple[frozenset[Date], str]:
  """The dates of a text, and the text without them."""
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
  """Tokens with numbers as digits: 'twenty', 'one' are one, '21'."""
  found, tens = [], False
  for token in tokens:
    value, power = _VALUES.get(token), _SCALES.get(token)
    if power and found and is_number(found[-1]):
      found[-1] = _trimmed(f'{float(found[-1]) * 10**power:.6f}')
    elif value is None:
      found.append(_trimmed(token))
    elif tens and 1 <= value <= 9:
      found[-1] = str(int(found[-1]) + value)
    else:
      found.append(str(value))
    tens = value is not None and value >= 20
  return found


def _letter(c) -> str:
  """A space for a sign that is not in ASCII; vowel signs are letters."""
  return c if c.isascii() or unicodedata.category(c)[0] in 'LMN' else ' '


def _trimmed(token) -> str:
  """A number without commas and closing zeros, and 'saint' for 'st'."""
  if token == 'st':
    return 'saint'
  if not token[-1].isdigit() or not re.match(r'[-\d]', token):
    return token
  token = token.replace(',', '')
  return token.rstrip('0').rstrip('.') if '.' in token else token
