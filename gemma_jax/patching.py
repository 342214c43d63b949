"""Putting other activations in place, and cutting attention.

Layers, positions and heads are said as `gates.py` explains. Wrong values raise
here, before any work.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from gemma_jax.config import ModelConfig
from gemma_jax.interventions import Knockout, Patch
from gemma_jax.sites import site_width
from gemma_jax.where import Indices, index_gates, layer_gates, position_gates


def patch(
  config: ModelConfig,
  site: str,
  source: jax.Array,
  *,
  layers: Indices = None,
  source_positions: jax.Array | Sequence[int] | None = None,
  positions: Indices = None,
  num_positions: int | Sequence[int] | None = None,
  features: jax.Array | None = None,
) -> Patch:
  """Replaces activations by those of another run, or by a constant.

    donor = run(model, *batch, capture=capture('resid_post'))
    patch(config, 'resid_post', donor.activations['resid_post'],
          source_positions=batch.positions, layers=5)

  Args:
    config: Of the model.
    site: Where.
    source: [W], a constant (a mean, or zeros); or [L or 1, R, S or 1, W], as
      captured over all layers or one. One slot serves every position.
    layers: Which layers to patch.
    source_positions: int [S] or [R, S], needed with several slots: the
      absolute position that each holds, -1 for none. They are the donor's
      positions, or those asked of the capture. A position without a slot is
      not patched.
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
  _, R, S, _ = source.shape
  if source_positions is None and S > 1:
    raise ValueError(
      f'source has {S} slots; say which positions they hold with '
      'source_positions: the positions of the run it was captured from, or '
      'those asked of the capture.'
    )
  slots = np.full((1, S), -1) if source_positions is None else source_positions
  slots = jnp.atleast_2d(jnp.asarray(slots, jnp.int32))
  if slots.shape not in ((1, S), (R, S)):
    raise ValueError(
      f'source_positions have shape {slots.shape}, expected ({S},) or '
      f'({R}, {S}): one for every slot of the source.'
    )
  return Patch(
    layers=layer_gates(config, layers),
    tokens=position_gates(positions, num_positions),
    features=jnp.ones((1, 1))
    if features is None
    else jnp.atleast_2d(jnp.asarray(features, jnp.float32)),
    source=jnp.moveaxis(source, 0, 1),
    slots=slots,
  )


def ablate_heads(
  config: ModelConfig,
  heads: Indices,
  *,
  layers: Indices,
  source: jax.Array | None = None,
  source_positions: jax.Array | Sequence[int] | None = None,
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
    source_positions: As in `patch`.
    positions: Which positions.
    num_positions: Needed with positions.
  """
  gates = index_gates(heads, config.num_heads, 'head')
  if source is None:
    source = jnp.zeros(site_width(config, 'z'))
  return patch(
    config,
    'z',
    source,
    layers=layers,
    source_positions=source_positions,
    positions=positions,
    num_positions=num_positions,
    features=jnp.repeat(gates, config.head_dim, axis=1),
  )


def knock_out_attention(
  config: ModelConfig,
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
    layers=layer_gates(config, layers) != 0,
    heads=index_gates(heads, config.num_heads, 'head') != 0,
    queries=position_gates(queries, num_positions) != 0,
    keys=position_gates(keys, num_positions) != 0,
  )
