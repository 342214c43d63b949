"""A language model's activations as a stream that SAEs are trained on.

  stream = ActivationStream(model, rows, site='resid_post', layers=[12])
  sae.train(config, stream, ...)

Activations go from the model into the trainer's bucket on the device; nothing
is stored. The stream opens anywhere: which token comes where follows from the
rows alone, so the model does not run on what is skipped.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import jax
import numpy as np
import tqdm

from experiments.inputs.token_rows import Rows
import gemma_jax as gj


class Batch(NamedTuple):
  """Holds rows of tokens as the model takes them.

  Attributes:
    tokens: int32 [B, T], padded on the right.
    positions: int32 [B, T], -1 at padding.
    keep: bool [B, T], False at BOS, EOS and padding.
  """

  tokens: np.ndarray
  positions: np.ndarray
  keep: np.ndarray


def read_batch(
  rows: Rows, number: int, batch_size: int, stop: int | None = None
) -> Batch:
  """Reads a batch of rows, of one shape for all batches.

  Args:
    rows: All rows.
    number: Number of the batch, from 0.
    batch_size: B rows; where they end, empty ones fill up.
    stop: Rows from this one on are left out.
  """
  first = number * batch_size
  count = batch_size
  if stop is not None:
    count = max(0, min(count, stop - first))
  some = [row.tolist() for row in rows.read(first, count)] if count else []
  some += [[]] * (batch_size - len(some))
  tokens, positions = gj.pad_rows(some, 0, side='right', buckets=rows.length)
  keep = (positions >= 0) & ~np.isin(tokens, sorted(rows.special))
  return Batch(tokens, positions, keep)


class ActivationStream:
  """Opens streams of activations; `sae.buckets` says what those are."""

  def __init__(
    self,
    model: gj.Decoder,
    rows: Rows,
    *,
    site: str,
    layers: Sequence[int],
    batch_size: int = 16,
    num_tokens: int | None = None,
  ):
    """Takes the model and its text.

    Args:
      model: May be truncated after the last of the layers.
      rows: What it reads.
      site: One of `gemma_jax.VECTOR_SITES`, of width W.
      layers: S distinct layers; each is a source.
      batch_size: Rows per run of the model.
      num_tokens: Number of tokens that will be used, for the progress bar.
    """
    self._model, self._rows = model, rows
    self._site, self._batch_size = site, batch_size
    self._capture = gj.capture(site, layers=list(layers))
    self._num_tokens = num_tokens

  def __call__(self, first: int = 0) -> Iterator[tuple[jax.Array, np.ndarray]]:
    """Yields activations from the kept token number `first` on.

    Yields:
      Activations [S, B * T, W] of the model's dtype, and bool [B * T]: which
      of them are kept.
    """
    row, before = self._rows.find(first)
    number = row // self._batch_size
    # Whole batches, always the same ones: a resumed run computes what the
    # uninterrupted one did, bit for bit.
    earlier = read_batch(self._rows, number, self._batch_size, stop=row)
    skip = int(earlier.keep.sum()) + before
    with tqdm.tqdm(
      desc='Harvesting',
      total=self._num_tokens,
      initial=first,
      unit=' tokens',
      unit_scale=True,
      dynamic_ncols=True,
    ) as bar:
      last = None
      while (
        self._rows.num_rows is None
        or number * self._batch_size < self._rows.num_rows
      ):
        batch = read_batch(self._rows, number, self._batch_size)
        out = gj.run(self._model, *batch[:2], capture=self._capture)
        x = out[self._site]
        keep = batch.keep.reshape(-1)
        keep[np.flatnonzero(keep)[:skip]] = False
        skip = 0
        # Two batches are under way at most: the host must not fill the device
        # with those to come.
        jax.block_until_ready(last)
        last = x
        count = int(keep.sum())
        # The last batch has more than is used.
        bar.update(min(count, (bar.total or bar.n + count) - bar.n))
        yield x.reshape(x.shape[0], -1, x.shape[-1]), keep
        number += 1


def num_batches(
  rows: Rows, num_tokens: int, batch_size: int
) -> tuple[int, int]:
  """Counts batches and rows that hold so many kept tokens, or all there are."""
  if rows.num_kept is not None:
    num_tokens = min(num_tokens, rows.num_kept)
  stop = rows.find(num_tokens - 1)[0] + 1
  return -(-stop // batch_size), stop
