"""Reading activations: which sites, layers and positions."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from gemma_jax import sites as sites_lib
from gemma_jax import where
from gemma_jax.config import ModelConfig


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Capture:
  """Says which activations to return.

  Attributes:
    sites: Names; compiled in. For attention sites the rows of the queries at
      `positions` are returned.
    layers: int32 [k], distinct; -1 leaves a slot at 0. None is all layers, and
      the form to use under `jax.grad`.
    positions: int32 [B or 1, P], absolute; places that a row does not have
      give 0, and LAST (where.py) is each row's last token. None is all T places
      as they stand in `tokens`.
  """

  sites: tuple[str, ...] = dataclasses.field(metadata={'static': True})
  layers: jax.Array | None = None
  positions: jax.Array | None = None


def capture(
  *sites: str,
  layers: where.Indices = None,
  positions: where.Indices = None,
) -> Capture:
  """Says which activations to return.

  Args:
    *sites: Names in any spelling of `parse_site`; a name with a layer, such as
      'blocks.5.hook_resid_post', asks for that layer.
    layers: One layer or several distinct ones, from 0; None is those of the
      names, or else all.
    positions: One absolute position or several, the same in every row; 'last';
      or per_row([B]) and per_row([B, P]). None is every place.

  Raises:
    KeyError: a name is unknown or ambiguous.
    ValueError: layers are repeated, or names carry different layers (all
      captured sites share one choice of layers).
  """
  if not sites:
    raise ValueError(f'Name at least one site of {sites_lib.SITES}.')
  parsed = [sites_lib.parse_site(site) for site in sites]
  named = sorted({layer for _, layer in parsed if layer is not None})
  if named and (
    layers is not None or any(layer is None for _, layer in parsed)
  ):
    raise ValueError(
      f'{sites} name layers {named}; with bare sites or `layers` beside them '
      'it is not clear what is meant. Give bare sites and `layers`.'
    )
  if len(named) > 1 and len({site for site, _ in parsed}) > 1:
    raise ValueError(
      f'{sites} ask for different layers at different sites; all captured '
      'sites share one choice of layers. Give bare sites and `layers`.'
    )
  layers = named or layers
  if isinstance(layers, where.PerRow | str):
    raise ValueError(
      f'All rows are captured at the same layers, got layers={layers!r}.'
    )
  if layers is not None:
    layers = np.atleast_1d(np.asarray(layers))
    if layers.ndim > 1 or not np.issubdtype(layers.dtype, np.integer):
      raise ValueError(
        f'Layers to capture are integers, got {layers.dtype} {layers.shape}.'
      )
    layers = layers.astype(np.int32)
    if layers.min(initial=0) < 0:
      raise ValueError(f'Layers count from 0; got {layers.tolist()}.')
    if len(np.unique(layers)) != len(layers):
      raise ValueError(f'Layers to capture are repeated: {layers.tolist()}.')
  if positions is not None:
    positions = where.absolute(positions, 'positions')
  return Capture(
    sites=tuple(dict.fromkeys(site for site, _ in parsed)),
    layers=layers,
    positions=positions,
  )


def prepare(
  capture: Capture | None, config: ModelConfig, positions: jax.Array
) -> Capture:
  """Returns a capture with canonical sites and 'last' resolved; None is
  nothing.

  Raises:
    KeyError: not a site.
  """
  if capture is None:
    return Capture(sites=())
  at = capture.positions
  return Capture(
    sites=tuple(sites_lib.resolve(site, config) for site in capture.sites),
    layers=capture.layers,
    positions=None if at is None else resolve_last(at, positions),
  )


def resolve_last(at: jax.Array, positions: jax.Array) -> jax.Array:
  """Positions int32 [B or 1, P] with LAST being each row's last, [B, T]."""
  known = where.concrete(at)
  if known is not None and not (known == where.LAST).any():
    return at
  return jnp.where(at == where.LAST, positions.max(1)[:, None], at)


def take_positions(x: jax.Array, positions: jax.Array, at: jax.Array):
  """x [B, T, W] at absolute positions: int32 [B or 1, P] to [B, P, W].

  Positions that a row does not have give 0.
  """
  places, found = find_positions(positions, at)
  values = jnp.take_along_axis(x, places[:, :, None], axis=1)
  return jnp.where(found[:, :, None], values, jnp.zeros_like(values))


def find_positions(positions: jax.Array, at: jax.Array):
  """Returns positions' slots in a row, int32 [B, P], and if they are there."""
  at = jnp.broadcast_to(at, (positions.shape[0], at.shape[1]))
  match = (positions[:, None, :] == at[:, :, None]) & (at >= 0)[:, :, None]
  return match.argmax(-1), match.any(-1)
