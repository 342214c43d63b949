"""Edits along directions, and of SAE latents, under the field's names.

Layers, positions and heads are said as `gates.py` explains: None for all, an
int for all rows, [R] for one per row, [R, m] for several, or a mask. Wrong
values raise here, before any work.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from gemma_jax.config import ModelConfig
from gemma_jax.interventions import Edit
from gemma_jax.sites import site_width
from gemma_jax.where import (
  Indices,
  concrete,
  layer_gates,
  position_gates,
)


def steer(
  config: ModelConfig,
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
    layers: Which layers (gates.py).
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
    layers=layer_gates(config, layers) * _column(coefficient),
    tokens=position_gates(positions, num_positions),
    read=jnp.zeros_like(direction),
    write=direction,
    **_terms(shift=jnp.ones((R, k))),
  )


def ablate_direction(
  config: ModelConfig,
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
  if (known := concrete(norms)) is not None and not np.all(known > 0):
    raise ValueError(
      'A direction to ablate has norm 0; it names no direction. Drop it.'
    )
  unit = directions / norms
  if (known := concrete(unit)) is not None:
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
    layers=layer_gates(config, layers),
    tokens=position_gates(positions, num_positions),
    read=unit,
    write=unit,
    **_terms(slope=-ones, shift=ones * _per_latent(value, ones)),
  )


def orthonormal_basis(directions: jax.Array) -> jax.Array:
  """Orthonormal rows that span the same subspaces, for `ablate_direction`.

  Args:
    directions: [k, W], or [R, k, W] for one subspace per row.

  Returns:
    float32 [1, k, W] or [R, k, W].

  Raises:
    ValueError: the rows are linearly dependent (to 1e-5 of the longest).
  """
  directions = jnp.asarray(directions, jnp.float32)
  directions = directions[None] if directions.ndim == 2 else directions
  q, r = jnp.linalg.qr(directions.swapaxes(-1, -2))
  pivots = concrete(jnp.abs(jnp.diagonal(r, axis1=-2, axis2=-1)))
  if pivots is not None:
    weakest = pivots.min(-1) / np.maximum(pivots.max(-1), 1e-30)
    if np.any(weakest < 1e-5):
      raise ValueError(
        'The directions are linearly dependent: one adds only '
        f'{weakest.min():.3g} of the longest to the others. Drop it.'
      )
  return q.swapaxes(-1, -2)


def clamp_latent(
  config: ModelConfig,
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
  value = ones * _per_latent(value, ones)
  terms |= {'slope': -ones, 'offset' if only_active else 'shift': value}
  return Edit(
    layers=layer_gates(config, layers),
    tokens=position_gates(positions, num_positions),
    read=read,
    write=write,
    **_terms(**terms),
  )


def scale_latent(
  config: ModelConfig,
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
  ones = jnp.ones(read.shape[:2])
  terms['slope'] = ones * (_per_latent(factor, ones) - 1)
  return Edit(
    layers=layer_gates(config, layers),
    tokens=position_gates(positions, num_positions),
    read=read,
    write=write,
    **_terms(**terms),
  )


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
    'bias': ones * _per_latent(bias, ones),
    'threshold': ones * _per_latent(threshold, ones),
  }
  return read, write, terms


def _terms(**given) -> dict[str, jax.Array]:
  """An Edit's [R, k] terms; those not given do nothing."""
  some = next(iter(given.values()))
  neutral = dict.fromkeys(('bias', 'slope', 'offset', 'shift'), 0.0)
  neutral['threshold'] = -jnp.inf
  full = lambda value: jnp.full(some.shape, value, jnp.float32)
  return {name: full(value) for name, value in neutral.items()} | given


def _per_latent(values, like) -> jax.Array:
  """float32 [1 or R, 1 or k] from a scalar, [R] or [R, k]."""
  values = jnp.asarray(values, jnp.float32)
  if values.ndim == 1 and values.size > 1 and like.shape[1] > 1:
    raise ValueError(
      f'{values.size} values for {like.shape[1]} latents or directions per row '
      'could be one per row or one per latent. Give [R, 1] or [1, k] or [R, k].'
    )
  return values.reshape(-1, 1) if values.ndim < 2 else values


def _column(values) -> jax.Array:
  """float32 [1 or R, 1] from a scalar or [R]."""
  values = jnp.asarray(values, jnp.float32)
  if values.ndim > 1:
    raise ValueError(
      f'coefficient has shape {values.shape}, expected a scalar or [R]. For '
      'another coefficient per layer give gates [R, L] as `layers`.'
    )
  return values.reshape(-1, 1)
