"""Shuffled activations on device, from a stream of them on any device.

A *bucket* is filled from the stream, shuffled as one, used whole, and filled
again (arXiv 2408.05147, section 3.2: buckets of about a million activations).
Which rows a batch holds follows from the number of the update alone, so that a
resumed run needs no record of the shuffle.
"""

from collections.abc import Callable, Iterable, Iterator
import functools

import jax
import jax.numpy as jnp
import numpy as np

from sae.training import sharding
from sae.training.recipe import TrainConfig

# An item of a stream: activations, or those and which of them to use.
Activations = jax.Array | np.ndarray
Item = Activations | tuple[Activations, np.ndarray]
# A stream, or a function that opens it at a given row (of those in use).
Source = Iterable[Item] | Callable[[int], Iterator[Item]]


class ActivationsEnded(ValueError):
  """A stream ended before training did."""


class ActivationBuffer:
  """Fills buckets from a stream of activations.

  Attributes:
    shape: (S, D).
    array: [S, bucket_size, D] on device, in the stream's order and dtype
      (float64 becomes float32).
    order: int32 [bucket_size] on device, the order in which to use the rows.
  """

  def __init__(
    self,
    config: TrainConfig,
    source: Source,
    *,
    first_step: int = 0,
    mesh=None,
  ):
    """Opens the stream at the bucket of an update, and reads its first item.

    Args:
      config: Says how large buckets are, and how many rows will be used.
      source: Items [n, D], or [S, n, D] of S sources trained together; or
        tuples of such an array and a mask bool [n], which names the rows to
        use. n may vary, but each n compiles a small program. A function gets
        the number of rows to skip; an iterable is read and dropped up to there.
      first_step: An update of the first bucket to be used.
      mesh: Rows are split over its 'data' axis.

    Raises:
      ValueError: an item is no such array.
      ActivationsEnded: there is no row there.
    """
    self._config = config
    self._next = first_step // (config.bucket_size // config.batch_size)
    first_row = self._next * config.bucket_size
    opened = callable(source)
    self._items = iter(source(first_row) if opened else source)
    self._skip = 0 if opened else first_row
    self._rows_read = first_row if opened else 0
    self._item = None  # (rows, indices of those still to be placed)
    self._loaded = None
    self.shape = self.order = None
    self._advance()
    shape = (self.shape[0], config.bucket_size, self.shape[1])
    dtype = jax.dtypes.canonicalize_dtype(self._item[0].dtype)
    placed = sharding.placement('SBD', shape, mesh)
    self.array = jnp.zeros(shape, dtype, device=placed)

  def load(self, number: int):
    """Makes a bucket the current one; they are loaded in order, from the first.

    Raises:
      ActivationsEnded: the stream has too few rows.
    """
    if number == self._loaded:
      return
    if number != self._next:
      raise ValueError(f'Bucket {self._next} comes next, not {number}.')
    config = self._config
    total = config.num_steps * config.batch_size
    num_rows = min(config.bucket_size, total - number * config.bucket_size)
    at = 0
    while at < num_rows:
      self._advance()
      rows, left = self._item
      now, later = left[: num_rows - at], left[num_rows - at :]
      places = np.full(rows.shape[1], config.bucket_size, np.int32)
      places[now] = np.arange(at, at + len(now))
      self.array = _place(self.array, rows, places)
      at += len(now)
      self._item = (rows, later) if len(later) else None
    order = np.zeros(config.bucket_size, np.int32)
    rng = np.random.default_rng([config.shuffle_seed, number])
    order[:num_rows] = rng.permutation(num_rows)
    self.order = jnp.asarray(order)
    self._loaded, self._next, self._num_rows = number, number + 1, num_rows

  def scale(self) -> np.ndarray:
    """float32 [S], sqrt(E||x||^2) over the rows of the current bucket."""
    return np.asarray(_root_mean_square(self.array, self._num_rows))

  def rows_not_finite(self) -> np.ndarray:
    """Rows of the current bucket that hold NaN or infinity in any source."""
    bad = ~jnp.isfinite(self.array).all(axis=(0, 2))
    return np.flatnonzero(np.asarray(bad)[: self._num_rows])

  def _advance(self):
    """Reads items up to one with rows to use."""
    while self._item is None:
      try:
        item = next(self._items)
      except StopIteration:
        B = self._config.batch_size
        raise ActivationsEnded(
          f'The stream of activations ended after {self._rows_read:,} rows; '
          f'num_steps={self._config.num_steps} takes '
          f'{self._config.num_steps * B:,}. Give more, or train with '
          f'num_steps={self._rows_read // B} in a new folder.'
        ) from None
      rows, left = self._checked(item)
      self._rows_read += len(left)
      dropped = min(self._skip, len(left))
      self._skip -= dropped
      if dropped < len(left):
        self._item = rows, left[dropped:]

  def _checked(self, item):
    """([S, n, D], int [m] indices of the rows to use)."""
    rows, mask = item if isinstance(item, tuple) else (item, None)
    if not isinstance(rows, jax.Array):
      rows = np.asarray(rows)
    rows = rows[None] if rows.ndim == 2 else rows
    if rows.ndim != 3 or not jnp.issubdtype(rows.dtype, jnp.floating):
      raise ValueError(
        f'The stream gave {rows.dtype} {rows.shape}, expected floating-point '
        'activations [n, D], or [S, n, D] of several sources.'
      )
    shape = rows.shape[0], rows.shape[2]
    self.shape = self.shape or shape
    if shape != self.shape:
      raise ValueError(
        f'The stream gave {shape[0]} sources of width {shape[1]}, after '
        f'{self.shape[0]} of width {self.shape[1]}.'
      )
    if mask is None:
      return rows, np.arange(rows.shape[1])
    mask = np.asarray(mask)
    if mask.dtype != bool or mask.shape != rows.shape[1:2]:
      raise ValueError(
        f'The stream gave a mask {mask.dtype} {mask.shape} for '
        f'{rows.shape[1]} rows; expected bool [{rows.shape[1]}].'
      )
    return rows, np.flatnonzero(mask)


@functools.partial(jax.jit, donate_argnums=0)
def _place(bucket, rows, places):
  """Writes rows [S, n, D] to places int32 [n]; outside means nowhere."""
  rows = rows.astype(bucket.dtype)
  return bucket.at[:, places].set(rows, mode='drop')


@jax.jit
def _root_mean_square(bucket, num_rows):
  used = jnp.arange(bucket.shape[1]) < num_rows
  norms = (bucket.astype(jnp.float32) ** 2).sum(-1)
  norms = jnp.where(used, norms, 0)
  return jnp.sqrt(norms.sum(1) / num_rows)
