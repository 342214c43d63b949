"""Where a text mentions a name.

A mention does not split a word: 'Rome' is not in 'Romeo', nor '10' in '10.5'
or '10,000'. Scripts without spaces between words have no such edges.
"""

from collections.abc import Iterable
import re

from experiments.entities.letter_folding import fold
from gemma_jax.text.spans import in_word

# What stands for a name that is left out: no letter, digit, sign or space.
_GONE = '\ufffc'
_APOSTROPHE = "['\u2018\u2019\u02bc]"
_OPENING = r'["\'\u2018\u201c\u201e\u00ab`*]'
_CLOSING = r'["\'\u2019\u201d\u201c\u00bb`*]'
_QUOTES = '"\'\u2018\u201c\u201e\u00ab`'
# Thai, Lao, Burmese, Khmer, Japanese, Chinese; Korean joins endings to names.
_UNSPACED = re.compile(
  '[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u9fff\uac00-\ud7a3]'
)
_TITLE = re.compile(
  '["\u201c\u201e]([^"\u201c\u201d\u201e]+)["\u201c\u201d]'
  "|(?<!\\w)['\u2018](.+?)['\u2019](?!\\w)"
)
# What stands between the words of one name.
_BESIDE = r'(?:-|\.?,?\ (?:&\ |and\ )?)'
# What tells that a mention only says what a statement is about.
_KIND = re.compile(
  r'\b(?:song|single|track|movie|film|city|town|player)\W*$', re.IGNORECASE
)
_STATES = re.compile(
  r'\W*(?:is|was|are|were|has|had|have|appear(?:s|ed)|lies|belongs|comes|came'
  r'|features?|stars?|won|plays|played|opened|premiered|runs|lasts)\b'
)
# What follows a 'Sorry' that is no title.
_SPEAKS = re.compile(r'\W+(?:but|I|we|there|this|that|it|no|for)\b')
_SAME = re.compile(
  r'\b(?:same (?:name|title)|self-titled|eponymous|title (?:track|song))\b',
  re.IGNORECASE,
)
_SPLIT_NUMBER = re.compile(r'\d[.,]?\d')


def find_name(text: str, name: str, *, last: bool = False) -> int:
  """Returns where a text first has a name as whole words, -1 if nowhere.

  Args:
    text: Any.
    name: Looked for as it is written.
    last: If true, the last mention is looked for.
  """
  found = [m.start() for m in re.finditer(f'(?={re.escape(name)})', text)]
  whole = [
    start
    for start in found
    if name
    and not _splits(text, start)
    and not _splits(text, start + len(name))
  ]
  return whole[-1 if last else 0] if whole else -1


def mentions(text: str, name: str) -> list[tuple[int, int]]:
  """Returns the characters [start, stop) of each mention of a name.

  In quotes case does not count and the quotes belong to the mention; elsewhere
  a name must be written as it is.
  """
  if not name.strip():
    return []
  words = re.sub(_APOSTROPHE, "'", name.strip()).split()
  spelled = r'\s+'.join(map(re.escape, words)).replace("'", _APOSTROPHE)
  pattern = f'{_OPENING}+(?i:{spelled})[.,!?]*{_CLOSING}+|{spelled}'
  return [
    match.span()
    for match in re.finditer(pattern, text)
    if not _splits(text, match.start()) and not _splits(text, match.end())
  ]


def stands_alone(text: str, name: str, beside: Iterable[str] = ()) -> bool:
  """Returns True if a text has a name that is no part of a longer one.

  That is, without another word with a capital beside it: 'Earth' is not in
  'Planet Earth'. A text without any capitals has no names to tell apart.

  Args:
    text: Any; accents do not count.
    name: Looked for as it is written.
    beside: Words in lower case that may stand beside it all the same.
  """
  name, text = fold(name), fold(text)
  if text == text.lower():
    name = name.lower()
  for match in re.finditer(rf'(?<!\w){re.escape(name)}(?!\w)', text):
    sides = (
      re.search(rf'([^\W_]+){_BESIDE}$', text[: match.start()]),
      re.match(rf'{_BESIDE}([^\W_]+)', text[match.end() :]),
    )
    words = [side[1] for side in sides if side]
    if not any(w[0].isupper() and w.lower() not in beside for w in words):
      return True
  return False


def titles_in(text: str) -> list[str]:
  """Returns what stands in quotes in a text."""
  return [a or b for a, b in _TITLE.findall(text)]


def without(text: str, name: str) -> str:
  """Returns a text without the mentions of a name."""
  return _cut(text, mentions(text, name))


def last_mention(text: str, name: str) -> str:
  """Returns a text without the mentions of a name that only repeat a question.

  These are all but the last, and that too where it is what a statement is about
  ("The song 'Sorry' is", "Sorry was") or a number in quotes. 'The album of the
  same name' mentions it.
  """
  spans = mentions(text, name)
  if spans:
    start, stop = spans[-1]
    quoted = text[start] != name.strip()[0]
    about = _KIND.search(text[:start]) or _STATES.match(text, stop)
    if not about and not (quoted and re.search(r'\d', name)):
      spans = spans[:-1]
  return _SAME.sub(lambda _: name, _cut(text, spans))


def without_titles(text: str, name: str) -> str:
  """Returns a text without a name that may be said for itself.

  'Sorry' stays in "Sorry, I cannot say", where it is not a song.
  """
  return _cut(
    text,
    [
      (start, stop)
      for start, stop in mentions(text, name)
      if text[start] in _QUOTES or not _SPEAKS.match(text, stop)
    ],
  )


def _cut(text, spans) -> str:
  for start, stop in reversed(spans):
    text = text[:start] + _GONE + text[stop:]
  return text


def _splits(text, edge) -> bool:
  """Returns True if a word, or a number, goes on across an edge."""
  before, after = text[edge - 1 : edge] if edge else '', text[edge : edge + 1]
  if not before or not after:
    return False
  if in_word(before) and in_word(after):
    return not (_UNSPACED.match(before) or _UNSPACED.match(after))
  return any(
    _SPLIT_NUMBER.fullmatch(text[max(a, 0) : b])
    for a, b in ((edge - 1, edge + 2), (edge - 2, edge + 1))
  )
