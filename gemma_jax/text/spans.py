"""Which tokens spell a substring of a text.

A *span* is a pair (start, stop) of token indices, stop excluded. `Tokenizer`
makes encodings and offers both rules below as `find_span`.
"""

import bisect
from collections.abc import Callable, Sequence
import dataclasses
import itertools
import re
from typing import NamedTuple
import unicodedata


class Span(NamedTuple):
  """A stretch of tokens or characters; `keys=span` means all of them.

  Attributes:
    start: The first.
    stop: The one after the last.
  """

  start: int
  stop: int


class TruncationError(ValueError):
  """The text holds the wanted substring, but truncation cut it off."""


@dataclasses.dataclass(frozen=True)
class Encoding:
  """One text and its tokens.

  Attributes:
    text: The whole text, what truncation cut included.
    ids: Token ids, BOS included.
    offsets: Per token the characters [start, stop) of `text` that it spells.
      An added BOS has (0, 0), and so, at its place, has a space that the
      tokenizer itself puts before a text, if it is a token of its own. The
      space before a word belongs to the word's token, if it is in that token;
      tokens that each spell some bytes of a character all have that character.
    kept: How many leading characters have all their tokens in `ids`.
  """

  text: str
  ids: list[int]
  offsets: list[Span]
  kept: int

  def token_span(self, start: int, stop: int) -> Span:
    """Returns the tokens that spell any of the characters [start, stop).

    Raises:
      ValueError: these are not characters of the text, or have no token.
      TruncationError: some of their tokens were cut.
    """
    if not 0 <= start < stop <= len(self.text):
      raise ValueError(
        f'Characters [{start}, {stop}) are not a part of {quote(self.text)}, '
        f'which has {len(self.text)}.'
      )
    if stop > self.kept:
      raise _cut(self, self.text[start:stop])
    hits = [
      i for i, (a, b) in enumerate(self.offsets) if a < stop and b > start
    ]
    if not hits:
      raise ValueError(
        f'No token spells {self.text[start:stop]!r} in {quote(self.text)}: '
        'the tokenizer drops these characters.'
      )
    return Span(hits[0], hits[-1] + 1)


def span_by_offsets(
  encoding: Encoding,
  substring: str,
  occurrence: int = 0,
  whole_word: bool = False,
) -> Span:
  """Returns all tokens that spell a part of one occurrence in the text.

  Args:
    encoding: The text and its tokens.
    substring: What to look for, exactly as written.
    occurrence: 0 is the first, -1 the last; overlapping ones count.
    whole_word: Count only occurrences whose first and last word do not go on
      outside, by a letter, digit, underscore or combining mark.

  Raises:
    ValueError: there is no such occurrence.
    TruncationError: there is, but some of its tokens were cut.
  """
  text, size = encoding.text, len(substring)
  found = []
  start = text.find(substring)
  while start >= 0:
    if not (whole_word and _splits_word(text, start, start + size)):
      found.append(start)
    start = text.find(substring, start + 1)
  if not -len(found) <= occurrence < len(found):
    raise ValueError(
      f'{substring!r} occurs {len(found)} times'
      f'{" as a whole word" if whole_word else ""} in {quote(text)}; there is '
      f'no occurrence {occurrence}.'
    )
  return encoding.token_span(found[occurrence], found[occurrence] + size)


def span_by_bisection(
  encoding: Encoding,
  substring: str,
  decode: Callable[[Sequence[int]], str],
) -> Span:
  """Returns the rule of the code of arXiv 2411.14257, `find_string_in_tokens`.

  Bisection for the smallest stop such that decode(ids[:stop]) holds the
  substring, then for the largest start such that decode(ids[start:stop]) does.
  The probes are those of the original, so that both agree even where decoding
  more tokens can lose the substring (see `Tokenizer.find_span`).

  Raises:
    ValueError: the decoded tokens do not hold the substring.
    TruncationError: nor do they because they were truncated.
  """
  ids = encoding.ids

  def holds(start, stop):
    return substring in decode(ids[start:stop])

  if not holds(0, len(ids)):
    if substring in encoding.text:
      raise _cut(encoding, substring)
    raise ValueError(f'{substring!r} does not occur in {quote(encoding.text)}.')
  # bisect never probes the upper end, which is known to hold.
  stop = bisect.bisect_left(range(len(ids)), True, key=lambda i: holds(0, i))
  back = bisect.bisect_left(
    range(stop - 1), True, key=lambda i: holds(stop - 1 - i, stop)
  )
  return Span(stop - 1 - back, stop)


def encoding_of_pieces(pieces: Sequence[bytes], ids: Sequence[int]) -> Encoding:
  """Returns text and offsets of tokens whose text is not at hand.

  Args:
    pieces: The UTF-8 bytes that each token spells, which may be a part of a
      character.
    ids: The tokens.

  Returns:
    The encoding. A byte that is no part of UTF-8 counts as one character, a
    lone surrogate that occurs in no text.
  """
  text = b''.join(pieces).decode('utf-8', 'surrogateescape')
  sizes = (len(c.encode('utf-8', 'surrogateescape')) for c in text)
  characters = list(itertools.accumulate(sizes, initial=0))  # first bytes
  tokens = itertools.accumulate(map(len, pieces), initial=0)
  offsets = [
    (bisect.bisect(characters, a) - 1, bisect.bisect_left(characters, b))
    for a, b in itertools.pairwise(tokens)
  ]
  return Encoding(text, list(ids), offsets, len(text))


def spell_out(piece: bytes) -> str:
  """Returns UTF-8 as text, and what is no whole character as '<0xF0>'."""
  return re.sub(
    '[\udc80-\udcff]',
    lambda byte: f'<0x{ord(byte[0]) - 0xDC00:02X}>',
    piece.decode('utf-8', 'surrogateescape'),
  )


def quote(text: str) -> str:
  """Returns a text as error messages show it, shortened."""
  return repr(text) if len(text) <= 80 else f'{text[:80]!r}...'


def in_word(char: str) -> bool:
  """Returns True for a letter, digit, underscore or combining mark."""
  return char.isalnum() or char == '_' or unicodedata.category(char)[0] == 'M'


def _cut(encoding: Encoding, substring: str) -> TruncationError:
  return TruncationError(
    f'Truncation to {len(encoding.ids)} tokens cut {substring!r} from '
    f'{quote(encoding.text)}, of which {encoding.kept} characters were kept. '
    'Raise max_length, or drop and count this text.'
  )


def _splits_word(text: str, start: int, stop: int) -> bool:
  """Returns True if a word goes on across an edge of text[start:stop]."""

  def is_word(index):
    return 0 <= index < len(text) and in_word(text[index])

  return any(is_word(edge - 1) and is_word(edge) for edge in (start, stop))
