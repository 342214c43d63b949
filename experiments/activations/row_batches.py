"""Rows as batches of a few shapes.

Rows of about one length go together, padded to a bucket; the last batch of a
bucket is filled up with empty rows. So a program is compiled once per bucket.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import tqdm

from experiments.activations.harvest_rows import HarvestRows
import gemma_jax as gj

# Entities' prompts are short, and differ little in length.
BUCKETS = (8, 16, 24, *gj.BUCKETS[1:])
BATCH_SIZE = 64


class Batch(NamedTuple):
  """Rows as the model takes them.

  Attributes:
    tokens: int32 [B, T].
    positions: int32 [B, T], -1 at padding.
    at: int32 [B, 1], the position to read; -1 in an empty row.
    rows: int [b], which rows these are; the other B - b are empty.
  """

  tokens: np.ndarray
  positions: np.ndarray
  at: np.ndarray
  rows: np.ndarray


def make_batches(
  rows: HarvestRows,
  numbers: np.ndarray,
  batch_size: int,
  *,
  side: str = 'right',
  buckets: Sequence[int] = BUCKETS,
  whole: bool = False,
) -> Iterator[Batch]:
  """Batches of some rows, long ones first: what does not fit fails at once.

  Args:
    rows: Rows.
    numbers: int, which of them.
    batch_size: B.
    side: Side of the padding.
    buckets: Lengths T.
    whole: Run all tokens of a row, not only those up to its position.

  Raises:
    ValueError: a row is longer than the largest bucket.
  """
  lengths = _lengths(rows, numbers, whole)
  places = np.searchsorted(buckets, lengths)
  if len(lengths) and places.max() == len(buckets):
    row = numbers[places.argmax()]
    raise ValueError(
      f'Row {row} ({rows.ids[row]}) has {lengths.max()} tokens, the largest '
      f'bucket {buckets[-1]}. Make rows with a smaller window.'
    )
  for place in sorted(set(places.tolist()), reverse=True):
    members = numbers[places == place]
    for first in range(0, len(members), batch_size):
      some = members[first : first + batch_size]
      ends = _lengths(rows, some, whole)
      ids = [rows.tokens[i][:n] for i, n in zip(some, ends, strict=True)]
      ids += [[]] * (batch_size - len(some))
      tokens, positions = gj.pad_rows(ids, 0, side=side, buckets=buckets[place])
      at = np.full((batch_size, 1), -1, np.int32)
      at[: len(some), 0] = rows.positions[some]
      yield Batch(tokens, positions, at, some)


def progress(
  rows: HarvestRows, numbers: np.ndarray, description: str, whole: bool = False
) -> tqdm.tqdm:
  """Returns a progress bar over the tokens of some rows."""
  return tqdm.tqdm(
    desc=description,
    total=int(_lengths(rows, numbers, whole).sum()),
    unit=' tokens',
    unit_scale=True,
    dynamic_ncols=True,
  )


def count_tokens(batch: Batch) -> int:
  """Tokens of a batch, without padding."""
  return int((batch.positions >= 0).sum())


def _lengths(rows, numbers, whole) -> np.ndarray:
  """int [b], how many tokens of each row the model runs on."""
  if whole:
    return np.array([len(rows.tokens[i]) for i in numbers], np.int64)
  return rows.positions[numbers].astype(np.int64) + 1
