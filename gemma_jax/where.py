"""Where a change applies: gates over layers, positions and heads.

Every constructor of `instruments.py` and `patching.py` takes one of these:

  None            all of them
  5               that one, in every row
  [5, 7]          one per row: row 0 at 5, row 1 at 7
  [[5, 6], [7, -1]]   several per row; -1 fills up and means nothing
  a bool or float array [R, size]: a gate for each

Positions are absolute (0 is a row's first token, whatever the padding), and
need `num_positions`: how many positions the rows can have, prompt and
generated tokens together, as an int or one per row. Without positions a change
applies at every token, those being generated too; `before` and `since` give
the masks "prompt only" and "generated tokens only".

Concrete values are checked here, before any work; traced ones cannot be, so
under `jit` and `grad` out-of-range indices mean nothing.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from gemma_jax.config import ModelConfig

Indices = int | Sequence | np.ndarray | jax.Array | None


def layer_window(config: ModelConfig, centers: Indices, width: int):
  """Gates [R, L] of `width` layers around each center, cut at both ends.

  Layers center - width // 2 up to center - width // 2 + width - 1: the windows
  of Geva et al. 2023 (arXiv 2304.14767), who used width 9.

  Args:
    config: Of the model.
    centers: int, or int [R].
    width: How many layers.
  """
  if np.ndim(centers) > 1:
    raise ValueError(f'centers must be an int or [R], got {centers}.')
  index_gates(centers, config.num_layers, 'layer')
  start = jnp.atleast_1d(jnp.asarray(centers))[:, None] - width // 2
  layers = jnp.arange(config.num_layers)[None]
  return ((layers >= start) & (layers < start + width)).astype(jnp.float32)


def before(lengths: Sequence[int] | np.ndarray, num_positions: int):
  """Gates [R, S] of the positions below each length: the prompts' tokens."""
  return _position_range(lengths, num_positions, upto=True)


def since(lengths: Sequence[int] | np.ndarray, num_positions: int):
  """Gates [R, S] of the positions from each length on: generated tokens.

  The prompt's last token, whose logits give the first generated one, is at
  length - 1.
  """
  return _position_range(lengths, num_positions, upto=False)


def _position_range(lengths, num_positions, upto):
  below = (
    jnp.arange(num_positions) < jnp.atleast_1d(jnp.asarray(lengths))[:, None]
  )
  return (below if upto else ~below).astype(jnp.float32)


def index_gates(
  indices: Indices,
  size: int,
  what: str,
  lengths: np.ndarray | None = None,
) -> jax.Array:
  """float32 [R, size] from any way to say which (module docstring).

  `lengths` [1 or R] bounds each row's indices more tightly than `size`.
  """
  if indices is None:
    return jnp.ones((1, size))
  indices = indices if isinstance(indices, jax.Array) else np.asarray(indices)
  if not jnp.issubdtype(indices.dtype, jnp.integer):
    if indices.ndim != 2 or indices.shape[1] != size:
      raise ValueError(
        f'Gates over {what}s have shape {indices.shape}, expected [R, {size}]. '
        f'Indices of {what}s must be integers.'
      )
    return jnp.asarray(indices, jnp.float32)
  if indices.ndim > 2:
    raise ValueError(
      f'{what} indices have shape {indices.shape}; expected an int, [R] or '
      '[R, m].'
    )
  filled = indices.ndim == 2
  rows = indices.reshape(-1, indices.shape[1] if filled else 1)
  if (known := concrete(rows)) is not None:
    limit = size if lengths is None else lengths[:, None]
    bad = (known >= limit) | (known < (-1 if filled else 0))
    if bad.any():
      known, limit = np.broadcast_arrays(known, limit)
      row, column = np.argwhere(bad)[0]
      limit = limit[row, column]
      raise ValueError(
        f'{what} {known[row, column]} (row {row}) is out of range: this row '
        f'has {what}s 0 to {limit - 1}. Count from 0; in [R, m] -1 fills up.'
      )
    ordered = np.sort(known, axis=1)
    repeated = (np.diff(ordered, axis=1) == 0) & (ordered[:, 1:] >= 0)
    if repeated.any():
      raise ValueError(
        f'{what}s {known[repeated.any(1).argmax()].tolist()} of one row are '
        'repeated. A mask of 0 and 1 must be bool or float.'
      )
  hot = jnp.asarray(rows)[:, :, None] == jnp.arange(size)
  return hot.any(1).astype(jnp.float32)


def layer_gates(config, layers):
  return index_gates(layers, config.num_layers, 'layer')


def position_gates(positions, num_positions):
  """float32 [R, S], or [1, 1] (everywhere) without positions."""
  if positions is None and num_positions is None:
    return jnp.ones((1, 1))
  if num_positions is None:
    raise ValueError(
      'positions need num_positions: how many positions the rows can have, '
      'generated tokens included, as an int or one per row.'
    )
  lengths = np.atleast_1d(np.asarray(num_positions))
  size = int(lengths.max())
  if size > 1:
    return index_gates(positions, size, 'position', lengths)
  # A gate of size 1 would mean "everywhere": add a position nobody has.
  return jnp.pad(
    index_gates(positions, size, 'position', lengths), ((0, 0), (0, 1))
  )


def concrete(x) -> np.ndarray | None:
  """The values, or None while tracing."""
  return None if isinstance(x, jax.core.Tracer) else np.asarray(x)
