"""Rows of tokens: documents, tokenised and cut into contexts.

A row begins with BOS and has at most `context` tokens, BOS included. A longer
document continues in the next row, which begins with BOS too; nothing is
dropped. Rows of short documents are short; with `pack`, a row is filled with
the documents that follow, each after a BOS of its own (they then see those
before them, as in SAELens).

Tokens that are *kept* are those an SAE is trained on and measured by: all but
BOS, EOS and padding (arXiv 2408.05147, section 3.2).
"""

import array
from collections.abc import Callable, Iterable, Iterator
import dataclasses
import os
import pathlib
from typing import Protocol

import numpy as np
import tqdm

from experiments.runs import outputs
from experiments.runs.stages import stage
import gemma_jax as gj

_ABOUT = 'about.json'
# Documents are tokenised so many characters at a time, in parallel.
_BATCH_CHARACTERS = 1 << 20


class Rows(Protocol):
  """Numbered rows of tokens.

  Attributes:
    length: Most tokens of a row.
    num_rows: Number of rows; None for endless ones.
    num_kept: Number of tokens that are kept, in all rows; None if endless.
    special: Tokens that are not kept.
  """

  length: int
  num_rows: int | None
  num_kept: int | None
  special: frozenset[int]

  def read(self, first: int, count: int) -> list[np.ndarray]:
    """Returns rows from `first` on, int32 [t] each; fewer where they end."""

  def find(self, kept: int) -> tuple[int, int]:
    """Returns a kept token's row, and how many kept ones are before it there.

    The number after the last one is at the beginning of the row after the
    last.
    """


@dataclasses.dataclass(frozen=True, kw_only=True)
class Counts:
  """Counts what became of documents.

  Attributes:
    documents: How many were used.
    documents_without_tokens: How many of these had only special tokens.
    rows: How many they gave.
    tokens_kept: Tokens that are kept.
    tokens_dropped: BOS, EOS and padding in the rows.
  """

  documents: int
  documents_without_tokens: int
  rows: int
  tokens_kept: int
  tokens_dropped: int


class TokenRows:
  """Rows of tokens in a folder, of which only what is read is in memory.

  Attributes: see `Rows`, and
    counts: Counts.
  """

  def __init__(self, folder: str | os.PathLike, *, repeat: bool = False):
    """Opens what `write_rows` wrote; `repeat` begins anew where rows end."""
    folder = pathlib.Path(folder)
    about = outputs.read_json(folder / _ABOUT)
    self.counts = Counts(**about['counts'])
    self.special = frozenset(about['special'])
    self._tokens = np.memmap(folder / 'tokens.bin', np.int32, 'r')
    self._starts = np.load(folder / 'starts.npy')
    self._kept = np.load(folder / 'kept.npy')  # before each row, and in all
    self.length = int(np.diff(self._starts).max())
    self._repeat = repeat
    self.num_rows = None if repeat else len(self._starts) - 1
    self.num_kept = None if repeat else int(self._kept[-1])

  def read(self, first: int, count: int) -> list[np.ndarray]:
    """See `Rows`."""
    R = len(self._starts) - 1
    numbers = range(
      first, first + count if self._repeat else min(first + count, R)
    )
    return [
      np.asarray(self._tokens[self._starts[i % R] : self._starts[i % R + 1]])
      for i in numbers
    ]

  def find(self, kept: int) -> tuple[int, int]:
    """See `Rows`."""
    total = int(self._kept[-1])
    times = 0
    if self._repeat:
      times, kept = divmod(kept, total)
    row = int(np.searchsorted(self._kept, kept, 'right')) - 1
    row = min(row, len(self._starts) - 1)
    return times * (len(self._starts) - 1) + row, kept - int(self._kept[row])


def write_rows(
  folder: str | os.PathLike,
  texts: Callable[[], Iterable[str]],
  tokenizer: gj.Tokenizer,
  *,
  identity: dict,
  context: int,
  vocab_size: int,
  special: Iterable[int],
  pack: bool = False,
  parse_special: bool = True,
  enough: int | None = None,
  description: str = 'Tokenising',
) -> TokenRows:
  """Tokenises texts into a folder, unless that is done.

  Args:
    folder: Where; what it holds is used if its `identity` is this one, else
      replaced.
    texts: Gives the documents.
    tokenizer: Tokenizer of the model.
    identity: Whatever else tells these rows from others, for JSON.
    context: Most tokens of a row, BOS included.
    vocab_size: Number of tokens of the model.
    special: Tokens that are not kept.
    pack: See the top of this file.
    parse_special: If true, '<eos>' written out in a text is that token.
    enough: Stop after so many kept tokens; None is all documents.
    description: Text before the progress bar.

  Raises:
    ValueError: the context is too short, no token is to be kept, or the
      tokenizer has tokens that the model lacks.
  """
  if context < 2:
    raise ValueError(
      f'A context of {context} tokens has no room after BOS; give at least 2.'
    )
  folder, special = pathlib.Path(folder), sorted(special)
  identity = identity | {
    'context': context,
    'special': special,
    'pack': pack,
    'parse_special': parse_special,
    'enough': enough,
  }
  documents = Documents(texts, tokenizer, parse_special, vocab_size, special)
  is_special = np.zeros(vocab_size, bool)
  is_special[special] = True
  bos = tokenizer.bos_id if tokenizer.adds_bos else None

  def make(partial: pathlib.Path):
    starts, kept = array.array('q', [0]), array.array('q', [0])
    with (
      open(partial / 'tokens.bin', 'wb') as file,
      tqdm.tqdm(
        desc=description, total=enough, unit=' tokens', unit_scale=True
      ) as bar,
    ):
      for row in cut_rows(documents, context, bos, pack):
        row = np.asarray(row, np.int32)
        count = int((~is_special[row]).sum())
        if not count:
          continue
        file.write(row.tobytes())
        starts.append(starts[-1] + len(row))
        kept.append(kept[-1] + count)
        bar.update(count)
        if enough is not None and kept[-1] >= enough:
          break
    if not kept[-1]:
      raise ValueError('The documents have no token besides special ones.')
    np.save(partial / 'starts.npy', np.frombuffer(starts, np.int64))
    np.save(partial / 'kept.npy', np.frombuffer(kept, np.int64))
    counts = Counts(
      documents=documents.used,
      documents_without_tokens=documents.without_tokens,
      rows=len(starts) - 1,
      tokens_kept=kept[-1],
      tokens_dropped=starts[-1] - kept[-1],
    )
    about = {'special': special, 'counts': dataclasses.asdict(counts)}
    outputs.write_json(partial / _ABOUT, about)

  stage(folder, identity, make)
  return TokenRows(folder)


class Documents:
  """Iterates over the ids of documents, BOS left out.

  Attributes:
    used: How many were given so far.
    without_tokens: How many of these had nothing but special tokens.
  """

  def __init__(self, texts, tokenizer, parse_special, vocab_size, special):
    self._texts, self._tokenizer = texts, tokenizer
    self._parse_special, self._vocab_size = parse_special, vocab_size
    self._special = frozenset(special)
    self.used = self.without_tokens = 0

  def __iter__(self) -> Iterator[list[int]]:
    bos = self._tokenizer.bos_id
    for texts in _batched(self._texts()):
      encodings = self._tokenizer.vocabulary.encode(texts, self._parse_special)
      for encoding in encodings:
        ids = encoding.ids
        # Every row gets its own.
        first = next((i for i, x in enumerate(ids) if x != bos), len(ids))
        ids = ids[first:]
        if ids and max(ids) >= self._vocab_size:
          raise ValueError(
            f'The tokenizer gave token {max(ids)}; the model has '
            f'{self._vocab_size} tokens. They do not belong together.'
          )
        self.used += 1
        self.without_tokens += self._special.issuperset(ids)
        yield ids


def cut_rows(
  documents: Iterable[list[int]], context: int, bos: int | None, pack: bool
) -> Iterator[list[int]]:
  """Yields rows of at most `context` tokens; see the top of this file.

  Args:
    documents: Token ids of each.
    context: T, the most tokens of a row.
    bos: Begins every document; None where the model has none.
    pack: If true, documents share rows.
  """
  begin = [] if bos is None else [bos]
  row = [*begin]
  for ids in filter(None, documents):
    if len(row) > len(begin):
      # Room for a BOS and a token after it, or a new row.
      if pack and len(row) + len(begin) + 1 <= context:
        row += begin
      else:
        yield row
        row = [*begin]
    at = 0
    while at < len(ids):
      if len(row) == context:
        yield row
        row = [*begin]
      part = ids[at : at + context - len(row)]
      row += part
      at += len(part)
  if len(row) > len(begin):
    yield row


def _batched(texts: Iterable[str]) -> Iterator[list[str]]:
  batch, size = [], 0
  for text in texts:
    batch.append(text)
    size += len(text)
    if size >= _BATCH_CHARACTERS:
      yield batch
      batch, size = [], 0
  if batch:
    yield batch
