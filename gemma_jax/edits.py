"""Edits along directions, of SAE latents, and by whole SAEs.

Every function returns a change that carries its site, for the list
`interventions` of `run`, `generate` and `forward`. Layers and positions are
said as `where.py` explains: a list is all of them in every row, and what
differs by row is said with `per_row`. Directions and coefficients may differ
by row too: their leading axis is R, 1 or the rows of the batch. Nothing here
knows the model; a change that does not fit it is refused when it is run.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gemma_jax.finite import all_finite
from gemma_jax.interventions import Edit, Splice
from gemma_jax.sites import SITES, VECTOR_SITES, parse_site
from gemma_jax.where import Indices, Selection, concrete, select


def steer(
  site: str,
  direction: jax.Array,
  *,
  layers: Indices = None,
  coefficient: float | jax.Array = 1.0,
  positions: Indices = None,
) -> Edit:
  """Adds coefficient * direction.

  Args:
    site: Where; its width is W. A name with a layer, such as
      'blocks.5.hook_resid_post', says the layer too.
    direction: [W], or [R, W] for one per row; used as it is, not normalised.
    layers: Which layers; they must be said, here or by the site's name.
      range(L) is all of them.
    coefficient: Scalar, or [R].
    positions: Which positions.

  Raises:
    ValueError: no layer is said, a shape does not fit, or a number is not
      finite.
  """
  if layers is None and parse_site(site)[1] is None:
    raise ValueError(
      f'steer at {site}: say which layers, such as layers=12. To add the '
      'direction at every layer, give layers=range(L).'
    )
  direction = _vectors(direction, 'direction')
  R, k = direction.shape[:2]
  if k != 1:
    raise ValueError(
      f'steer adds one direction per row, got {k}. Sum them, or make several '
      'edits.'
    )
  return Edit(
    **place(site, layers, positions),
    coefficient=_per_row(coefficient, 'coefficient'),
    read=jnp.zeros_like(direction),
    write=direction,
    **_terms(shift=jnp.ones((R, k), jnp.float32)),
  )


def ablate_direction(
  site: str,
  directions: jax.Array,
  *,
  layers: Indices = None,
  value: float | jax.Array = 0.0,
  positions: Indices = None,
) -> Edit:
  """Sets the component of the activation along unit directions to `value`.

  Args:
    site: Where.
    directions: [W]; [R, W], one per row; or [R, k, W], a subspace per row,
      whose k rows must be orthogonal: all are projected out at once, and
      projections on correlated directions would overlap. Scaled to unit norm.
    layers: Which layers.
    value: Component left along each direction, scalar, [R] or [R, k]; 0
      ablates.
    positions: Which positions.

  Raises:
    ValueError: a direction is zero or not finite, or the directions are not
      orthogonal.
  """
  directions = _vectors(directions, 'directions')
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
  ones = jnp.ones(unit.shape[:2], jnp.float32)
  return Edit(
    **place(site, layers, positions),
    coefficient=jnp.ones(1, jnp.float32),
    read=unit,
    write=unit,
    **_terms(slope=-ones, shift=ones * _per_latent(value, ones, 'value')),
  )


def orthonormal_basis(directions: jax.Array) -> jax.Array:
  """Orthonormal rows that span the same subspaces, for `ablate_direction`.

  Args:
    directions: [k, W], or [R, k, W] for one subspace per row.

  Returns:
    float32 [1, k, W] or [R, k, W].

  Raises:
    ValueError: the rows are linearly dependent (to 1e-5 of the longest), or
      not finite.
  """
  directions = finite(jnp.asarray(directions, jnp.float32), 'directions')
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


def clamp_latents(
  latents: Any,
  value: jax.Array | float,
  *,
  only_active: bool = False,
  positions: Indices = None,
) -> Edit:
  """Sets JumpReLU SAE latents to a value, keeping the SAE's error term.

  x += (value - latent(x)) * decoder, with latent(x) = p if p > threshold else
  0 and p = x @ encoder + bias. Value 0 ablates the latents.

    clamp_latents(sae.select([3, 7]), 0.0)               both, in every row
    clamp_latents(sae.select(np.array([[3], [7]])), 0.0) one per row

  Args:
    latents: From `sae.select`: they know their site and layer. An object with
      encoder and decoder [k, W] or [R, k, W], bias and threshold [k] or [R, k],
      site and layer.
    value: What to set them to: scalar, or [R, k], [R, 1] or [1, k].
    only_active: Leave a latent alone where it is 0.
    positions: Which positions.

  Raises:
    ValueError: the latents do not say their site and layer, or a number is
      not finite.
  """
  where, read, write, terms = _latents(latents, positions)
  ones = jnp.ones(read.shape[:2], jnp.float32)
  value = ones * _per_latent(value, ones, 'value')
  terms |= {'slope': -ones, 'offset' if only_active else 'shift': value}
  return Edit(
    **where,
    coefficient=jnp.ones(1, jnp.float32),
    read=read,
    write=write,
    **_terms(**terms),
  )


def scale_latents(
  latents: Any, factor: jax.Array | float, *, positions: Indices = None
) -> Edit:
  """Multiplies JumpReLU SAE latents by a factor, keeping the error term.

  x += (factor - 1) * latent(x) * decoder. Factor 0 ablates. Arguments are
  those of `clamp_latents`; factor is as its value.
  """
  where, read, write, terms = _latents(latents, positions)
  ones = jnp.ones(read.shape[:2], jnp.float32)
  terms['slope'] = ones * (_per_latent(factor, ones, 'factor') - 1)
  return Edit(
    **where,
    coefficient=jnp.ones(1, jnp.float32),
    read=read,
    write=write,
    **_terms(**terms),
  )


def splice(
  module: Any,
  *,
  site: str | None = None,
  layers: Indices = None,
  positions: Indices = None,
) -> Splice:
  """Puts a module's output, an SAE's reconstruction, in the activation's place.

  Args:
    module: A pytree that is called with x [B, T, W], such as an SAE. One with
      an `origin` knows its site and layer; one with `as_function` is compiled
      once for all of its shape.
    site: Where, if the module does not know, or to say it aloud.
    layers: Which layers, likewise.
    positions: Which positions.

  Raises:
    ValueError: site or layer is not known, or is not that of the module; or
      its arrays are not finite.
  """
  mine = getattr(module, 'origin', None)
  known = getattr(mine, 'site', None), getattr(mine, 'layer', None)
  site, layers = _known_place(f'{mine or module}', known, site, layers)
  if hasattr(module, 'as_function'):
    module = module.as_function()
  for array in jax.tree.leaves(module):
    finite(array, f'An array of the module to splice at {site}')
  return Splice(**place(site, layers, positions), module=module)


def place(
  site: str, layers: Indices, positions: Indices
) -> dict[str, str | Selection]:
  """Site, layers and positions of a change, checked.

  Raises:
    KeyError: not a site.
    ValueError: the site's name has a layer, and layers are given too.
  """
  name, layer = parse_site(site)
  if name in SITES and name not in VECTOR_SITES:
    raise ValueError(
      f'{name} has no vector per token, so it cannot be edited or patched; '
      'knock_out_attention cuts its edges.'
    )
  if layer is not None:
    if layers is not None:
      raise ValueError(f'{site} names its layer; leave out layers={layers!r}.')
    layers = layer
  return {
    'site': name,
    'layers': select(layers, 'layer'),
    'positions': select(positions, 'position', last=True),
  }


def finite(values: jax.Array, what: str) -> jax.Array:
  """Returns the values; ValueError if one is known to be NaN or infinite."""
  if not all_finite(values):
    raise ValueError(
      f'{what} holds NaN or infinity; expected finite numbers. If a model gave '
      'them, run it with dtype=float32 or dtype=bfloat16.'
    )
  return values


def _known_place(what, known, site, layers):
  """Site and layers, from an SAE's origin and from arguments."""
  its_site, its_layer = known
  if site is not None and its_site is not None:
    if parse_site(site)[0] != its_site:
      raise ValueError(f'{what} reads {its_site}, not {site}.')
  if its_layer is not None and isinstance(layers, int | np.integer):
    if layers != int(its_layer):
      raise ValueError(f'{what} reads layer {its_layer}, not {layers}.')
  site = its_site if site is None else site
  layers = its_layer if layers is None else layers
  if site is None or (layers is None and parse_site(site)[1] is None):
    raise ValueError(
      f'{what} does not say what it reads. Give its site and layers, or load '
      'it so that its origin is known.'
    )
  return site, layers


def _vectors(vectors, what) -> jax.Array:
  """float32 [R, k, W] from [W], [R, W] or [R, k, W]."""
  vectors = finite(jnp.asarray(vectors, jnp.float32), what)
  if vectors.ndim not in (1, 2, 3):
    raise ValueError(
      f'{what} has shape {vectors.shape}, expected [W], [R, W] or [R, k, W] '
      'with W the width of the site.'
    )
  if vectors.ndim == 1:
    return vectors[None, None]
  return vectors[:, None] if vectors.ndim == 2 else vectors


def _latents(latents, positions):
  """Place, read and write [R, k, W], and terms [R, k], of latents."""
  known = getattr(latents, 'site', None), getattr(latents, 'layer', None)
  site, layer = _known_place('This selection of latents', known, None, None)
  rows = lambda x: x if x.ndim == 3 else x.reshape(1, -1, x.shape[-1])
  read = rows(jnp.asarray(latents.encoder, jnp.float32))
  write = rows(jnp.asarray(latents.decoder, jnp.float32))
  R, k, _ = read.shape
  terms = {
    name: jnp.asarray(getattr(latents, name), jnp.float32).reshape(R, k)
    for name in ('bias', 'threshold')
  }
  for name, array in (('encoder', read), ('decoder', write), *terms.items()):
    finite(array, f'{name} of the latents')
  return place(site, layer, positions), read, write, terms


def _terms(**given) -> dict[str, jax.Array]:
  """Returns an Edit's [R, k] terms; those not given do nothing."""
  some = next(iter(given.values()))
  neutral = dict.fromkeys(('bias', 'slope', 'offset', 'shift'), 0.0)
  neutral['threshold'] = -jnp.inf
  full = lambda value: jnp.full(some.shape, value, jnp.float32)
  return {name: full(value) for name, value in neutral.items()} | given


def _per_latent(values, like, what) -> jax.Array:
  """float32 [1 or R, 1 or k] from a scalar, [R] or [R, k]."""
  values = finite(jnp.asarray(values, jnp.float32), what)
  if values.ndim == 1 and values.size > 1 and like.shape[1] > 1:
    raise ValueError(
      f'{values.size} values for {like.shape[1]} latents or directions per row '
      'could be one per row or one per latent. Give [R, 1] or [1, k] or [R, k].'
    )
  return values.reshape(-1, 1) if values.ndim < 2 else values


def _per_row(values, what) -> jax.Array:
  """float32 [1 or R] from a scalar or [R]."""
  values = finite(jnp.asarray(values, jnp.float32), what)
  if values.ndim > 1:
    raise ValueError(
      f'{what} has shape {values.shape}, expected a scalar or [R]. For another '
      'one per layer, give a float mask over layers.'
    )
  return values.reshape(-1)
