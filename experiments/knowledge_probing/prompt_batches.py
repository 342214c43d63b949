"""Prompts as batches: what all begin with is run once, lengths are few.

Letters: B rows, P tokens of the shared beginning.
"""

from collections.abc import Sequence
import dataclasses

from experiments.entities.sampling import PROMPT_BUCKETS
import gemma_jax as gj

# Lengths of shared beginnings are rounded down to multiples of this, since
# every length is a program of its own; shorter ones are not worth sharing.
_STEP = 8


def shared_length(rows: Sequence[Sequence[int]]) -> int:
  """Returns how many tokens to share: P, a multiple of 8, or 0.

  At least one token of each row is left.
  """
  first, last = min(rows), max(rows)  # others lie between them
  size = 0
  while size < min(map(len, (first, last))) and first[size] == last[size]:
    size += 1
  size = min(size, min(map(len, rows)) - 1)
  return size - size % _STEP


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Shared:
  """The beginning of some rows, run once.

  Attributes:
    length: P.
    cache: For `prefix` of `gj.run` and `gj.generate`; None if P is 0.
  """

  length: int
  cache: gj.Cache | None

  @classmethod
  def of(cls, model: gj.Decoder, rows: Sequence[Sequence[int]]) -> 'Shared':
    """Runs what all rows begin with."""
    size = shared_length(rows)
    return cls(
      length=size,
      cache=gj.share_prefix(model, rows[0][:size]) if size else None,
    )

  def rest(
    self, tokenizer: gj.Tokenizer, rows: Sequence[Sequence[int]]
  ) -> gj.TokenBatch:
    """Returns what follows in B rows, padded; positions count on from P."""
    P = self.length
    batch = tokenizer.pad([row[P:] for row in rows], buckets=PROMPT_BUCKETS)
    positions = batch.positions + P * (batch.positions >= 0)
    return batch._replace(positions=positions)


def check_room(model: gj.Decoder, length: int, new: int, what: str):
  """Raises ValueError unless a prompt and new tokens fit into the model."""
  if length + new > model.config.max_positions:
    raise ValueError(
      f'{what} has {length} tokens, and {new} are to follow; the model has '
      f'{model.config.max_positions} positions. Use fewer demonstrations or '
      'new tokens, or leave the question out.'
    )
