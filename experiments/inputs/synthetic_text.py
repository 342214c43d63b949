"""Endless rows of tokens with some structure, where there is no text.

A language of a seed: tokens have Zipf frequencies, and each is followed, three
times out of four, by one of its eight usual successors. Row i of a stream is
the same whoever asks for it, and needs no row before it; streams (training,
evaluation) share the language and no row.
"""

from collections.abc import Iterable

import numpy as np

_SUCCESSORS = 8
_FOLLOW = 0.75


class SyntheticRows:
  """Rows of one stream; see `token_rows.Rows` for the attributes."""

  def __init__(
    self,
    *,
    vocab_size: int,
    special: Iterable[int],
    bos: int,
    context: int,
    seed: int = 0,
    stream: int = 0,
  ):
    """Draws the language.

    Args:
      vocab_size: Of the model.
      special: Tokens that are never drawn.
      bos: Begins every row.
      context: T, the length of every row, BOS included.
      seed: Of the language.
      stream: Of its rows.

    Raises:
      ValueError: there is no room for a token, or none to draw.
    """
    self.special = frozenset(special) | {bos}
    ordinary = np.setdiff1d(np.arange(vocab_size), sorted(self.special))
    if context < 2 or len(ordinary) < 2:
      raise ValueError(
        f'A context of {context} tokens out of {len(ordinary)} ordinary ones '
        'holds no text; expected at least 2 of each.'
      )
    rng = np.random.default_rng([seed, 0])
    self._tokens = rng.permutation(ordinary).astype(np.int32)  # by frequency
    weights = 1 / np.arange(1, len(ordinary) + 1)
    self._reached = np.cumsum(weights / weights.sum())
    self._reached[-1] = 1
    self._next = self._draw(rng.random((len(ordinary), _SUCCESSORS)))
    self._bos, self._seed, self._stream = bos, seed, stream
    self.length, self.num_rows, self.num_kept = context, None, None

  def read(self, first: int, count: int) -> list[np.ndarray]:
    """Rows from `first` on, int32 [T] each."""
    u = np.stack(
      [
        np.random.default_rng([self._seed, 1, self._stream, row]).random(
          (2, self.length - 1)
        )
        for row in range(first, first + count)
      ]
    )  # [rows, 2, T - 1]
    drawn = self._draw(u[:, 1])
    usual = (u[:, 1] * _SUCCESSORS).astype(np.int64)
    follow = u[:, 0] < _FOLLOW
    ranks = drawn.copy()
    for t in range(1, self.length - 1):
      after = self._next[ranks[:, t - 1], usual[:, t]]
      ranks[:, t] = np.where(follow[:, t], after, drawn[:, t])
    rows = np.full((count, self.length), self._bos, np.int32)
    rows[:, 1:] = self._tokens[ranks]
    return list(rows)

  def find(self, kept: int) -> tuple[int, int]:
    """(row, kept tokens before it there) of a kept token, by its number."""
    return divmod(kept, self.length - 1)

  def _draw(self, u):
    """Ranks by Zipf's law, from numbers in [0, 1)."""
    return np.searchsorted(self._reached, u, 'right')
