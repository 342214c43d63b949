"""Rows of different lengths as one array, of one of a few lengths.

A program is compiled per shape, so T is rounded up to a *bucket*. Positions
say where the tokens are: -1 is padding, and masks come from positions alone,
so that it does not matter on which side the padding is.
"""

import bisect
from collections.abc import Sequence
import itertools
from typing import NamedTuple

import numpy as np

# The last is Gemma 2's context.
BUCKETS = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)


class TokenBatch(NamedTuple):
  """Rows of tokens, as `run` and `generate` take them.

  Attributes:
    tokens: int32 [B, T], pad_id at padding.
    positions: int32 [B, T], 0, 1, ... at a row's tokens and -1 at padding.
  """

  tokens: np.ndarray
  positions: np.ndarray

  @property
  def starts(self) -> np.ndarray:
    """int32 [B], the column of each row's first token (0 in an empty row).

    A row's token i, as in a span or a position, stands in column starts + i.
    """
    return np.argmax(self.positions >= 0, axis=1).astype(np.int32)


def pad_rows(
  rows: Sequence[Sequence[int]],
  pad_id: int,
  *,
  side: str = 'left',
  buckets: int | Sequence[int] = BUCKETS,
) -> TokenBatch:
  """Pads rows of ids to the smallest bucket that holds the longest.

  Args:
    rows: B sequences of token ids. An empty one is all padding.
    pad_id: What fills empty places of `tokens`; the model does not see it.
    side: Where padding goes, 'left' (as HF's Gemma tokenizer) or 'right'.
    buckets: Increasing lengths; one number fixes T.

  Raises:
    ValueError: a row is longer than the largest bucket (nothing is cut), or an
      argument is malformed.
  """
  buckets = check_buckets(buckets)
  if side not in ('left', 'right'):
    raise ValueError(f"side must be 'left' or 'right', got {side!r}.")
  sizes = [len(row) for row in rows]
  longest = max(sizes, default=0)
  if longest > buckets[-1]:
    raise ValueError(
      f'Row {sizes.index(longest)} has {longest} tokens, the largest bucket '
      f'{buckets[-1]}. Pass larger buckets, or tokenize with max_length and '
      'truncate=True.'
    )
  length = buckets[bisect.bisect_left(buckets, longest)]
  tokens = np.full((len(rows), length), pad_id, np.int32)  # [B, T]
  positions = np.full_like(tokens, -1)  # [B, T]
  for row, ids in enumerate(rows):
    start = length - len(ids) if side == 'left' else 0
    places = slice(start, start + len(ids))
    tokens[row, places] = ids
    positions[row, places] = np.arange(len(ids))
  return TokenBatch(tokens, positions)


def check_buckets(buckets: int | Sequence[int]) -> tuple[int, ...]:
  """Buckets as a tuple. Raises ValueError unless positive and increasing."""
  buckets = (buckets,) if isinstance(buckets, int) else tuple(buckets)
  if not buckets or any(a >= b for a, b in itertools.pairwise((0, *buckets))):
    raise ValueError(
      f'buckets must be increasing positive lengths, got {buckets}.'
    )
  return buckets
