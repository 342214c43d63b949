"""Running on from the middle of a run that is over.

What a change at layer l and token p cannot reach is the same as in the run
without it: all layers below l, and all tokens before p. `record` keeps the run
without changes; `resume` starts in the middle of it, at any layer and slot:

  kept = record(model, tokens, positions, sites=('attn_out',))
  x, _ = resume(model, kept, layer=5, slot=7, interventions=changes)
  logits = unembed(model, x[:, -1], answers)

gives what the whole run with those changes gives, for (L - 5) (T - 7) of its
L T blocks. The layer is data, the slot is static: a sweep over layers and
tokens is one program per suffix length.
"""

from collections.abc import Sequence
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from gemma_jax import interventions as iv
from gemma_jax.cache import Cache
from gemma_jax.capture import Capture
from gemma_jax.capture import prepare as prepare_capture
from gemma_jax.model import embed, run_blocks
from gemma_jax.weights import Decoder
from gemma_jax.where import concrete


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Recording:
  """A run that others start from.

  Attributes:
    positions: int32 [B, T], -1 at padding.
    stream: [L + 1, B, T, D]: what enters each layer, and what leaves the last.
    k: [L, B, K, T, H], rotated keys.
    v: Values, in the same layout.
    activations: Site -> [L, B, T, W], those that were asked for.
  """

  positions: jax.Array
  stream: jax.Array
  k: jax.Array
  v: jax.Array
  activations: dict[str, jax.Array]


def record(
  model: Decoder,
  tokens: jax.Array,
  positions: jax.Array | None = None,
  *,
  sites: Sequence[str] = (),
  interventions: iv.Interventions | None = None,
  prefix: Recording | None = None,
) -> Recording:
  """Runs the model and keeps what `resume` needs. Pure, as `forward` is.

  Args:
    model: Stacked.
    tokens: int32 [B, T].
    positions: int32 [B, T], -1 at padding; None counts from 0.
    sites: Vector sites whose activations are kept too.
    interventions: Changes to this run itself.
    prefix: Recording of one row, of the tokens before those of every row, with
      the same sites; give positions that count on from it. The recording
      returned has its slots first.

  Raises:
    KeyError: no such site.
  """
  config = model.config
  B, T = tokens.shape
  if positions is None:
    positions = jnp.broadcast_to(jnp.arange(T, dtype=jnp.int32), (B, T))
  x, activations, cache = run_blocks(
    model,
    embed(model, tokens, positions),
    positions,
    interventions=iv.prepare(interventions, config, positions),
    capture=Capture(sites=tuple(dict.fromkeys(('resid_pre', *sites)))),
    cache=Cache.empty(config, B, T, model.dtype),
    cache_is_empty=True,
    prefix=(
      None if prefix is None else _before(prefix, prefix.positions.shape[1])
    ),
    num_layers=config.num_layers,
  )
  own = Recording(
    positions=positions,
    stream=jnp.concatenate([activations['resid_pre'], x[None]]),
    k=cache.k,
    v=cache.v,
    activations={site: activations[site] for site in sites},
  )
  if prefix is None:
    return own

  def joined(shared, rows, row_axis, slot_axis):
    shared = jnp.repeat(shared, B, row_axis)
    return jnp.concatenate([shared, rows], slot_axis)

  return Recording(
    positions=joined(prefix.positions, own.positions, 0, 1),
    stream=joined(prefix.stream, own.stream, 1, 2),
    k=joined(prefix.k, own.k, 1, 3),
    v=joined(prefix.v, own.v, 1, 3),
    activations={
      site: joined(prefix.activations[site], rows, 1, 2)
      for site, rows in own.activations.items()
    },
  )


def resume(
  model: Decoder,
  recording: Recording,
  *,
  layer: int | jax.Array,
  slot: int = 0,
  stream: jax.Array | None = None,
  interventions: iv.Interventions | None = None,
  capture: Capture | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
  """Runs on from a layer and a slot; earlier ones are as recorded.

  Changes below the layer, or at tokens before the slot, do nothing: the
  recording has what is there. Give it with them, or start earlier.

  Args:
    model: The recording's.
    recording: Recording of B rows; or of one, which all R rows of `stream` go
      on from.
    layer: First layer to run, an int32 scalar; L runs none.
    slot: Static; the first column of the recording's tokens to run.
    stream: What enters the layer there, [R, T - slot, D]; None is the
      recording's.
    interventions: Changes with 1 or R rows.
    capture: Activations to return; its layers must be given.

  Returns:
    The stream that leaves the last layer, [R, T - slot, D], and activations.

  Raises:
    KeyError, ValueError: no such site, layer or slot, or shapes that do not
      fit.
  """
  config = model.config
  L, (B, T) = config.num_layers, recording.positions.shape
  if (known := concrete(layer)) is not None and not 0 <= known <= L:
    raise ValueError(f'Cannot run from layer {known}: it must be 0 to {L}.')
  if not 0 <= slot < T:
    raise ValueError(f'Cannot run from slot {slot}: rows have {T}.')
  positions = recording.positions[:, slot:]
  if stream is None:
    stream = recording.stream[layer, :, slot:]
  R = stream.shape[0]
  if stream.shape[1:] != (T - slot, config.d_model) or B not in (1, R):
    raise ValueError(
      f'The stream has shape {stream.shape}, expected '
      f'[{"R" if B == 1 else B}, {T - slot}, {config.d_model}].'
    )
  positions = jnp.broadcast_to(positions, (R, T - slot))
  x, activations, _ = run_blocks(
    model,
    stream,
    positions,
    interventions=iv.prepare(interventions, config, positions),
    capture=prepare_capture(capture, config, positions),
    prefix=_before(recording, slot) if slot else None,
    first_layer=jnp.asarray(layer, jnp.int32),
    num_layers=L,
  )
  return x, activations


def _before(recording: Recording, slot: int) -> Cache:
  """Keys and values of the tokens before a slot."""
  return Cache(
    k=recording.k[:, :, :, :slot],
    v=recording.v[:, :, :, :slot],
    positions=recording.positions[:, :slot],
    length=np.int32(slot),
  )
