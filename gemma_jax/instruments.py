"""Constructors of interventions, under the field's names.

Where a change applies is said the same way everywhere, for layers, positions
and heads:

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

from gemma_jax.config import Gemma2Config
from gemma_jax.interventions import Edit, Knockout, Patch
from gemma_jax.sites import site_width

Indices = int | Sequence | np.ndarray | jax.Array | None


def steer(
  config: Gemma2Config,
  site: str,
  direction: jax.Array,
  *,
  layers: Indices,
  coefficient: float | jax.Array = 1.0,
  positions: Indices = None,
  num_positions: int | Sequence[int] | None = None,
) -> Edit:
  """Adds coefficient * direction.

  Args:
    config: Of the model.
    site: Where; its width is W.
    direction: [W], or [R, W] for one per row; used as it is, not normalised.
    layers: Which layers (module docstring).
    coefficient: Scalar, or [R].
    positions: Which positions.
    num_positions: Needed with positions.
  """
  direction = _vectors(config, site, direction, 'direction')
  R, k = direction.shape[:2]
  if k != 1:
    raise ValueError(
      f'steer adds one direction per row, got {k}. Sum them, or make several '
      'edits.'
    )
  return Edit(
    layers=_layer_gates(config, layers) * _column(coefficient),
    tokens=_position_gates(positions, num_positions),
    read=jnp.zeros_like(direction),
    write=direction,
    **_terms(shift=jnp.ones((R, k))),
  )


def ablate_direction(
  config: Gemma2Config,
  site: str,
  directions: jax.Array,
  *,
  layers: Indices = None,
  value: float | jax.Array = 0.0,
  positions: Indices = None,
  num_positions: int | Sequence[int] | None = None,
) -> Edit:
  """Sets the component of the activation along unit directions to `value`.

  Args:
    config: Of the model.
    site: Where.
    directions: [W]; [R, W], one per row; or [R, k, W], a subspace per row,
      whose k rows must be orthogonal: all are projected out at once, and
      projections on correlated directions would overlap. Scaled to unit norm.
    layers: Which layers.
    value: Component left along each direction, scalar, [R] or [R, k]; 0
      ablates.
    positions: Which positions.
    num_positions: Needed with positions.

  Raises:
    ValueError: a direction is zero, or the directions are not orthogonal.
  """
  directions = _vectors(config, site, directions, 'directions')
  norms = jnp.linalg.norm(directions, axis=-1, keepdims=True)
  if (known := _concrete(norms)) is not None and not np.all(known > 0):
    raise ValueError(
      'A direction to ablate has norm 0; it names no direction. Drop it.'
    )
  unit = directions / norms
  if (known := _concrete(unit)) is not None:
    k = known.shape[1]
    overlap = np.abs(known @ known.swapaxes(1, 2) - np.eye(k)).max()
    if overlap > 1e-4:
      raise ValueError(
        f'The {k} directions to ablate are not orthogonal: their largest '
        f'cosine is {overlap:.3g}. Pass orthonormal_basis(directions), which '
        'spans the same space.'
      )
  ones = jnp.ones(unit.shape[:2])
  return Edit(
    layers=_layer_gates(config, layers),
    tokens=_position_gates(positions, num_positions),
    read=unit,
    write=unit,
    **_terms(slope=-ones, shift=ones * _per_latent(value)),
  )


def orthonormal_basis(directions: jax.Array) -> jax.Array:
  """Orthonormal rows [..., k, W] that span the rows of directions [..., k, W].

  Raises:
    ValueError: the rows are linearly dependent (to 1e-5 of the longest).
  """
  directions = jnp.asarray(directions, jnp.float32)
  q, r = jnp.linalg.qr(directions.swapaxes(-1, -2))
  pivots = _concrete(jnp.abs(jnp.diagonal(r, axis1=-2, axis2=-1)))
  if pivots is not None:
    weakest = pivots.min(-1) / np.maximum(pivots.max(-1), 1e-30)
    if np.any(weakest < 1e-5):
      raise ValueError(
        'The directions are linearly dependent: one adds only '
        f'{weakest.min():.3g} of the longest to the others. Drop it.'
      )
  return q.swapaxes(-1, -2)


def clamp_latent(
  config: Gemma2Config,
  site: str,
  *,
  encoder: jax.Array,
  decoder: jax.Array,
  bias: jax.Array | float,
  threshold: jax.Array | float,
  value: jax.Array | float,
  layers: Indices,
  only_active: bool = False,
  positions: Indices = None,
  num_positions: int | Sequence[int] | None = None,
) -> Edit:
  """Sets JumpReLU SAE latents to a value, keeping the SAE's error term.

  x += (value - latent(x)) * decoder, with latent(x) = p if p > threshold else
  0 and p = x @ encoder + bias. Value 0 ablates the latent.

  Args:
    config: Of the model.
    site: What the SAE reads. Gemma Scope's residual SAE of layer l reads
      resid_post of layer l.
    encoder: Columns of W_enc: [W]; [R, W]; or [R, k, W] for k latents at once.
    decoder: Rows of W_dec, likewise.
    bias: Entries of b_enc: scalar, [R] or [R, k].
    threshold: Of the latents, likewise.
    value: What to set them to, likewise.
    layers: Which layers; normally the SAE's.
    only_active: Leave a latent alone where it is 0.
    positions: Which positions.
    num_positions: Needed with positions.
  """
  read, write, terms = _latents(config, site, encoder, decoder, bias, threshold)
  ones = jnp.ones(read.shape[:2])
  value = ones * _per_latent(value)
  terms |= {'slope': -ones, 'offset' if only_active else 'shift': value}
  return Edit(
    layers=_layer_gates(config, layers),
    tokens=_position_gates(positions, num_positions),
    read=read,
    write=write,
    **_terms(**terms),
  )


def scale_latent(
  config: Gemma2Config,
  site: str,
  *,
  encoder: jax.Array,
  decoder: jax.Array,
  bias: jax.Array | float,
  threshold: jax.Array | float,
  factor: jax.Array | float,
  layers: Indices,
  positions: Indices = None,
  num_positions: int | Sequence[int] | None = None,
) -> Edit:
  """Multiplies JumpReLU SAE latents by a factor, keeping the error term.

  x += (factor - 1) * latent(x) * decoder. Factor 0 ablates. Arguments are
  those of `clamp_latent`; factor is scalar, [R] or [R, k].
  """
  read, write, terms = _latents(config, site, encoder, decoder, bias, threshold)
  terms['slope'] = jnp.ones(read.shape[:2]) * (_per_latent(factor) - 1)
  return Edit(
    layers=_layer_gates(config, layers),
    tokens=_position_gates(positions, num_positions),
    read=read,
    write=write,
    **_terms(**terms),
  )


def patch(
  config: Gemma2Config,
  site: str,
  source: jax.Array,
  *,
  layers: Indices = None,
  positions: Indices = None,
  num_positions: int | Sequence[int] | None = None,
  features: jax.Array | None = None,
) -> Patch:
  """Replaces activations by those of another run, or by a constant.

  Args:
    config: Of the model.
    site: Where.
    source: [W], a constant (a mean, or zeros); or [L or 1, R, S or 1, W], the
      layout of a capture, by absolute position: capture all layers with
      `positions=jnp.arange(S)[None]`.
    layers: Which layers to patch.
    positions: Which positions.
    num_positions: Needed with positions.
    features: Gate per feature, [R, W]; None patches all of them.
  """
  W = site_width(config, site)
  source = jnp.asarray(source)
  if source.shape == (W,):
    source = source[None, None, None]
  L = config.num_layers
  if source.ndim != 4 or source.shape[3] != W or source.shape[0] not in (1, L):
    raise ValueError(
      f'source for {site} has shape {source.shape}, expected ({W},) or '
      f'[{L} or 1, R, S or 1, {W}] as captured over all layers. For one '
      'captured layer give [1, R, S, W] and that layer in `layers`.'
    )
  return Patch(
    layers=_layer_gates(config, layers),
    tokens=_position_gates(positions, num_positions),
    features=jnp.ones((1, 1)) if features is None else _as_rows(features),
    source=jnp.moveaxis(source, 0, 1),
  )


def ablate_heads(
  config: Gemma2Config,
  heads: Indices,
  *,
  layers: Indices,
  source: jax.Array | None = None,
  positions: Indices = None,
  num_positions: int | Sequence[int] | None = None,
) -> Patch:
  """Replaces heads' outputs z by zeros, or by `source`. Goes to site 'z'.

  Args:
    config: Of the model.
    heads: Which query heads.
    layers: Which layers.
    source: What to put there, as in `patch` with W = N * H: means for mean
      ablation, another run's z for patching heads. None is zeros.
    positions: Which positions.
    num_positions: Needed with positions.
  """
  gates = _gates(heads, config.num_heads, 'head')
  if source is None:
    source = jnp.zeros(site_width(config, 'z'))
  return patch(
    config,
    'z',
    source,
    layers=layers,
    positions=positions,
    num_positions=num_positions,
    features=jnp.repeat(gates, config.head_dim, axis=1),
  )


def knock_out_attention(
  config: Gemma2Config,
  *,
  queries: Indices,
  keys: Indices,
  num_positions: int | Sequence[int],
  layers: Indices = None,
  heads: Indices = None,
) -> Knockout:
  """Stops chosen queries from attending to chosen keys; at 'attn_logits'.

  Args:
    config: Of the model.
    queries: Positions that lose their view.
    keys: Positions they no longer see. A query always sees itself.
    num_positions: How many positions rows can have.
    layers: Which layers; see `layer_window`.
    heads: Which query heads.
  """
  return Knockout(
    layers=_layer_gates(config, layers) != 0,
    heads=_gates(heads, config.num_heads, 'head') != 0,
    queries=_position_gates(queries, num_positions) != 0,
    keys=_position_gates(keys, num_positions) != 0,
  )


def layer_window(config: Gemma2Config, centers: Indices, width: int):
  """Gates [R, L] of `width` layers around each center, cut at both ends.

  Layers center - width // 2 up to center - width // 2 + width - 1: the windows
  of Geva et al. 2023 (arXiv 2304.14767), who used width 9.

  Args:
    config: Of the model.
    centers: int, or int [R].
    width: How many layers.
  """
  _gates(centers, config.num_layers, 'layer')
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


def _gates(
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
  if (known := _concrete(rows)) is not None:
    limit = size if lengths is None else lengths[:, None]
    bad = (known >= limit) | (known < (-1 if filled else 0))
    if bad.any():
      row, column = np.argwhere(bad)[0]
      limit = np.broadcast_to(limit, known.shape)[row, column]
      raise ValueError(
        f'{what} {known[row, column]} (row {row}) is out of range: this row '
        f'has {what}s 0 to {limit - 1}. Count from 0; in [R, m] -1 fills up.'
      )
  hot = jnp.asarray(rows)[:, :, None] == jnp.arange(size)
  return hot.any(1).astype(jnp.float32)


def _layer_gates(config, layers):
  return _gates(layers, config.num_layers, 'layer')


def _position_gates(positions, num_positions):
  """float32 [R, S], or [1, 1] (everywhere) without positions."""
  if positions is None and num_positions is None:
    return jnp.ones((1, 1))
  if num_positions is None:
    raise ValueError(
      'positions need num_positions: how many positions the rows can have, '
      'generated tokens included, as an int or one per row.'
    )
  lengths = np.atleast_1d(np.asarray(num_positions))
  # A gate of size 1 would mean "everywhere".
  size = max(2, int(lengths.max()))
  if (
    getattr(positions, 'ndim', 0) == 2
    and positions.shape[1] == 1 == lengths.max()
  ):
    if not jnp.issubdtype(positions.dtype, jnp.integer):
      positions = jnp.pad(positions, ((0, 0), (0, 1)))
  return _gates(positions, size, 'position', lengths)


def _vectors(config, site, vectors, what) -> jax.Array:
  """float32 [R, k, W] from [W], [R, W] or [R, k, W]."""
  W = site_width(config, site)
  vectors = jnp.asarray(vectors, jnp.float32)
  if vectors.ndim not in (1, 2, 3) or vectors.shape[-1] != W:
    raise ValueError(
      f'{what} at {site} has shape {vectors.shape}, expected [W], [R, W] or '
      f'[R, k, W] with W={W}, the width of {site} in this model.'
    )
  shape = {1: (1, 1, W), 2: (-1, 1, W), 3: vectors.shape}[vectors.ndim]
  return vectors.reshape(shape)


def _latents(config, site, encoder, decoder, bias, threshold):
  """read, write [R, k, W], and bias, threshold [R, k] as terms of an Edit."""
  read = _vectors(config, site, encoder, 'encoder')
  write = _vectors(config, site, decoder, 'decoder')
  if read.shape[1] != write.shape[1]:
    raise ValueError(
      f'encoder has {read.shape[1]} latents per row, decoder '
      f'{write.shape[1]}; they must be the same latents.'
    )
  ones = jnp.ones(read.shape[:2])
  terms = {
    'bias': ones * _per_latent(bias),
    'threshold': ones * _per_latent(threshold),
  }
  return read, write, terms


def _terms(**given) -> dict[str, jax.Array]:
  """An Edit's [R, k] terms; those not given do nothing."""
  some = next(iter(given.values()))
  neutral = dict.fromkeys(('bias', 'slope', 'offset', 'shift'), 0.0)
  neutral['threshold'] = -jnp.inf
  return {n: jnp.full(some.shape, v) for n, v in neutral.items()} | given


def _per_latent(values) -> jax.Array:
  """float32 [1 or R, 1 or k] from a scalar, [R] or [R, k]."""
  values = jnp.asarray(values, jnp.float32)
  return values.reshape(-1, 1) if values.ndim < 2 else values


def _column(values) -> jax.Array:
  return jnp.asarray(values, jnp.float32).reshape(-1, 1)


def _as_rows(values) -> jax.Array:
  return jnp.atleast_2d(jnp.asarray(values, jnp.float32))


def _concrete(x) -> np.ndarray | None:
  """The values, or None while tracing."""
  return None if isinstance(x, jax.core.Tracer) else np.asarray(x)
