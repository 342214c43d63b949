"""One spelling for what is spelled in several ways: 'Łódź' is 'Lodz'."""

import re
import unicodedata

# Letters that Unicode does not split into a plain one and an accent.
_LOWER = {
  'æ': 'ae',
  'œ': 'oe',
  'ß': 'ss',
  'þ': 'th',
  **dict(zip('đðħıłøŧ', 'ddhilot', strict=True)),
}
_UPPER = {a.upper(): b.capitalize() for a, b in _LOWER.items() if a not in 'ßı'}
# Two letters of Hawaiian and Uzbek are written like apostrophes.
_PLAIN = str.maketrans(_LOWER | _UPPER | {'ẞ': 'SS', 'ʻ': "'", 'ʼ': "'"})
_ACCENT = re.compile('[\u0300-\u036f]')
_INITIALS = re.compile(r'\b(?:[^\W\d_]\.\s*){2,}(?:(?<=\.)[^\W\d_]\b)?')


def fold(text: str) -> str:
  """Returns a text without accents, in Unicode's plain forms (NFKC).

  Accents of Latin, Greek and Cyrillic letters go. Marks of other scripts tell
  words apart and stay.
  """
  if text.isascii():
    return text
  text = unicodedata.normalize('NFKC', text).translate(_PLAIN)
  text = _ACCENT.sub('', unicodedata.normalize('NFD', text))
  return unicodedata.normalize('NFC', text)


def join_initials(text: str) -> str:
  """Returns a text with 'USA' for 'U.S.A.', and 'JRR ' for 'J. R. R. '."""
  return _INITIALS.sub(lambda m: re.sub(r'[.\s]', '', m[0]) + ' ', text)
