"""Runs the end of prompts again, on what their first run left behind.

A change that begins at some layer and token leaves all before both as it was.
So prompts are run once, keeping keys and values of all tokens, and the stream
of the last T tokens where it enters each layer. A rerun is those T tokens from
one layer on: for a change at a prompt's last token, a single token. Changes are
rows, and rows of one prompt share what it kept. The layer that a rerun starts
at is data, as everything in an intervention is.
"""

from collections.abc import Callable, Sequence
import dataclasses
import functools
from typing import Any

import jax
from jax import lax
import jax.numpy as jnp

import gemma_jax as gj
from gemma_jax.block import BlockContext, block
from gemma_jax.interventions import prepare
from gemma_jax.model import QUERY_CHUNK, rotary_by_layer


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Kept:
  """What the first run of P prompts left behind.

  Attributes:
    k, v: [L, P, K, S, H], keys and values of all tokens.
    slots: int32 [P, S], their positions; -1 at those that are run again.
    stream: [L, P, T, D], resid_pre at the tokens that are run again.
    positions: int32 [P, T], theirs; -1 before the first.
  """

  k: jax.Array
  v: jax.Array
  slots: jax.Array
  stream: jax.Array
  positions: jax.Array


# Which axis of each is the prompts', for `jax.vmap`.
PROMPT_AXES = Kept(k=1, v=1, slots=0, stream=1, positions=0)

# (weights of a layer, layer, site -> [R, T, W], found) -> found
Read = Callable[[Any, jax.Array, dict[str, jax.Array], Any], Any]


@functools.partial(jax.jit, static_argnames='count')
def keep(
  model: gj.Decoder,
  tokens: jax.Array,
  positions: jax.Array,
  first: jax.Array,
  *,
  count: int,
) -> Kept:
  """Runs prompts.

  Args:
    model: Stacked.
    tokens: int32 [P, S].
    positions: int32 [P, S], -1 at padding.
    first: int32 [P], the first token that will be run again.
    count: T; no prompt may have more tokens from its first to its last.
  """
  last = positions.max(axis=1, keepdims=True)
  again = last + jnp.arange(1 - count, 1)
  again = jnp.where(again >= first[:, None], again, -1)
  out = gj.forward(
    model,
    tokens,
    positions,
    capture=gj.Capture(sites=('resid_pre',), positions=again),
    cache=gj.Cache.empty(model.config, *tokens.shape, dtype=model.dtype),
    cache_is_empty=True,
  )
  return Kept(
    k=out.cache.k,
    v=out.cache.v,
    slots=jnp.where(positions < first[:, None], positions, -1),
    stream=out['resid_pre'],
    positions=again,
  )


def rerun(
  model: gj.Decoder,
  kept: Kept,
  start: jax.Array,
  *,
  rows: int,
  interventions: gj.Interventions,
  sites: Sequence[str],
  read: Read,
  found: Any,
):
  """Layers from `start` on, of the last T tokens of one prompt, in R rows.

  Pure. Under `jax.vmap` over prompts (PROMPT_AXES) `start` must be shared.

  Args:
    model: Stacked.
    kept: Of one prompt: without the axis P.
    start: int32 scalar, the first layer to run; changes begin there or later.
    rows: R.
    interventions: For R rows; they touch no token before the T.
    sites: What `read` sees of every layer.
    read: Takes note of a layer.
    found: What it begins with, such as what was found where nothing changed:
      layers before `start` are not run.

  Returns:
    The stream that leaves the last layer, [R, T, D], and what was found.
  """
  config = model.config
  positions = jnp.broadcast_to(kept.positions, (rows, *kept.positions.shape))
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
      k=kept.k[:, None],
      v=kept.v[:, None],
      positions=kept.slots[None],
      length=jnp.int32(kept.slots.size),
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

  x = kept.stream[start]
  x = jnp.broadcast_to(x, (rows, *x.shape))
  return lax.fori_loop(start, config.num_layers, body, (x, found))


def layer_flops(config: gj.ModelConfig) -> int:
  """Floating-point operations of a layer per token, in matrix products.

  Attention's scores are left out: below 1 % at the length of a prompt.
  """
  heads = (2 * config.num_heads + 2 * config.num_kv_heads) * config.head_dim
  return 2 * config.d_model * (heads + (2 + config.gated) * config.d_ff)


def unembed_flops(config: gj.ModelConfig) -> int:
  """Those of one position's logits."""
  return 2 * config.d_model * config.vocab_size
