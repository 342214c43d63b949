"""Runs the ends of prompts on from their recordings, in rows.

As `gj.resume` does, but prompts may go on from different tokens, many rows go
on from one prompt, and each layer is read as it is run. So no activation of all
layers, rows and prompts is ever kept, only what was read.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp

import gemma_jax as gj
from gemma_jax.block import BlockContext, block
from gemma_jax.interventions import prepare
from gemma_jax.model import QUERY_CHUNK, rotary_by_layer

# Which axis of a recording is the prompts', for `jax.vmap`.
PROMPT_AXES = gj.Recording(positions=0, stream=1, k=1, v=1, activations={})

# (weights of a layer, layer, site -> [R, T, W], found) -> found
Read = Callable[[Any, jax.Array, dict[str, jax.Array], Any], Any]

record = jax.jit(gj.record)


def last_positions(
  positions: jax.Array, first: jax.Array, count: int
) -> jax.Array:
  """Returns the positions that are run again, int32 [P, T]; -1 for none.

  Args:
    positions: int32 [P, S], -1 at padding.
    first: int32 [P], the first token of each prompt that is run again.
    count: T; no prompt may have more tokens from its first to its last.
  """
  last = positions.max(axis=1, keepdims=True) + jnp.arange(1 - count, 1)
  return jnp.where(last >= first[:, None], last, -1)


def earlier_positions(recording: gj.Recording, again: jax.Array) -> jax.Array:
  """Returns the positions that are not run again, int32 [S]; -1 elsewhere.

  Args:
    recording: Recording of one prompt, without the axis of prompts.
    again: int32 [T], the positions that are run again.
  """
  positions = recording.positions
  return jnp.where(jnp.isin(positions, again), -1, positions)


def resume(
  model: gj.Decoder,
  recording: gj.Recording,
  again: jax.Array,
  start: jax.Array,
  *,
  rows: int,
  interventions: gj.Interventions,
  sites: Sequence[str],
  read: Read,
  found: Any,
) -> tuple[jax.Array, Any]:
  """Runs layers from `start` on, of the last T tokens of a prompt, in R rows.

  Pure. Under `jax.vmap` over prompts (PROMPT_AXES) `start` must be shared.

  Args:
    model: The model, stacked.
    recording: Recording of one prompt, without the axis of prompts; padded on
      the right, so that a column is a position.
    again: int32 [T], the positions that are run again, -1 for none.
    start: int32 scalar, the first layer to run; changes begin there or later.
    rows: R.
    interventions: Changes of R rows, of none but the T tokens.
    sites: Sites that `read` sees in every layer.
    read: Takes note of a layer.
    found: What it begins with, such as what was found where nothing changed:
      layers before `start` are not run.

  Returns:
    The stream that leaves the last layer, [R, T, D], and what was found.
  """
  config = model.config
  positions = jnp.broadcast_to(again, (rows, *again.shape))
  earlier = earlier_positions(recording, again)
  run = BlockContext(
    config=config,
    positions=positions,
    key_positions=positions,
    rotary=rotary_by_layer(config, positions),
    interventions=prepare(interventions, config, positions),
    capture=gj.Capture(sites=tuple(sites)),
    cache_length=None,
    cache_is_empty=False,
    prefix=gj.Cache(
      k=recording.k[:, None],
      v=recording.v[:, None],
      positions=earlier[None],
      length=jnp.int32(earlier.size),
    ),
    query_chunk=QUERY_CHUNK,
  )
  windows = jnp.asarray(config.windows)

  def body(layer, carry):
    x, found = carry
    weights = jax.tree.map(
      lambda a: lax.dynamic_index_in_dim(a, layer, keepdims=False), model.blocks
    )
    x, seen, _ = block(run, weights, layer, windows[layer], x, None)
    return x, read(weights, layer, seen, found)

  x = recording.stream[start][again]
  x = jnp.broadcast_to(x, (rows, *x.shape))
  return lax.fori_loop(start, config.num_layers, body, (x, found))
