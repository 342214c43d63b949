"""One layer of a decoder, with its sites in the order of computation.

To add a site, name it in `sites.py` and call `at('name', x)` where it is
computed.
"""

from collections.abc import Callable
import dataclasses

import jax
from jax import lax
import jax.numpy as jnp

from gemma_jax import layers
from gemma_jax import sites as sites_lib
from gemma_jax.cache import Cache, store
from gemma_jax.capture import Capture, find_positions, take_positions
from gemma_jax.config import ModelConfig
from gemma_jax.interventions import Change
from gemma_jax.sharding import constrain


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockContext:
  """Holds what is the same for all layers of one forward pass."""

  config: ModelConfig
  positions: jax.Array  # [B, T]
  key_positions: jax.Array  # [B, S], without the prefix
  rotary: Callable  # layer -> cos and sin, [B, T, 1, H/2], or None
  interventions: tuple[Change, ...]
  capture: Capture
  cache_length: jax.Array | None
  cache_is_empty: bool
  prefix: Cache | None
  query_chunk: int
  segments: jax.Array | None = None  # [B, T]; queries see keys of their own

  def changes(self, site: str) -> list[Change]:
    """Returns the changes of one site, in order."""
    return [change for change in self.interventions if change.site == site]


def block(run: BlockContext, w, layer, window, x, keys_values):
  """Runs one layer on x [B, T, D].

  Returns x, what was captured, and the cache's arrays.
  """
  config = run.config
  seen = {}

  def at(site, x):
    """Changes x at a site, then shows it to the capture."""
    for change in run.changes(site):
      x = change.apply(x, layer, run.positions, config)
    x = constrain(x, _ACTIVATION_LETTERS.get(site, 'BT.'))
    if site in run.capture.sites:
      seen[site] = x
      if run.capture.positions is not None:
        seen[site] = take_positions(x, run.positions, run.capture.positions)
    return x

  # Padding adds nothing to its stream, which stays the embedding.
  real = (run.positions >= 0)[:, :, None]
  x = at('resid_pre', x)
  y = layers.norm(config, x, w.pre_attn_norm, w.pre_attn_norm_b)
  z, keys_values = _attention(run, w, layer, window, y, keys_values, seen)
  B, T, N, H = z.shape
  z = at('z', z.reshape(B, T, N * H))
  a = layers.linear(z, w.wo[...].reshape(-1, N * H), w.bo)
  a = at('attn_out_raw', a)
  if config.post_norms:
    a = layers.norm(config, a, w.post_attn_norm)
  x = layers.add(x, at('attn_out', jnp.where(real, a, 0)))
  x = at('resid_mid', x)
  y = layers.norm(config, x, w.pre_mlp_norm, w.pre_mlp_norm_b)
  m = at('mlp_act', layers.mlp(config, y, w))
  m = at('mlp_out_raw', layers.linear(m, w.down[...], w.down_b))
  if config.post_norms:
    m = layers.norm(config, m, w.post_mlp_norm)
  x = layers.add(x, at('mlp_out', jnp.where(real, m, 0)))
  x = at('resid_post', x)
  return x, seen, keys_values


# Letters of a site's dimensions for sharding; others are [B, T, D], D whole.
_ACTIVATION_LETTERS = {'z': 'BTN', 'mlp_act': 'BTF'}


def _attention(run: BlockContext, w, layer, window, y, keys_values, seen):
  """Heads' outputs [B, T, N, H] of the normed stream y [B, T, D]."""
  config = run.config

  def heads(weight, bias):
    """y through a projection [n, H, D]: [B, T, n, H]."""
    n, H, D = weight.shape
    flat = layers.linear(y, weight[...].reshape(n * H, D), bias)
    return flat.reshape(*y.shape[:2], n, H)

  q, k, v = heads(w.wq, w.bq), heads(w.wk, w.bk), heads(w.wv, w.bv)
  if config.qk_norm:
    q, k = layers.norm(config, q, w.q_norm), layers.norm(config, k, w.k_norm)
  if (angles := run.rotary(layer)) is not None:
    q, k = layers.rotate(q, *angles), layers.rotate(k, *angles)
  q = constrain(q, 'BTNH')
  k = constrain(k.swapaxes(1, 2), 'BKTH')
  v = constrain(v.swapaxes(1, 2), 'BKTH')

  if keys_values is not None:
    k_stack, stored_k = store(keys_values[0], k, layer, run.cache_length)
    v_stack, stored_v = store(keys_values[1], v, layer, run.cache_length)
    keys_values = k_stack, v_stack
    if not run.cache_is_empty:
      k, v = stored_k, stored_v
  keys, values, key_positions = [k], [v], run.key_positions
  if run.prefix is not None:
    keys.insert(0, run.prefix.k[layer])
    values.insert(0, run.prefix.v[layer])
    shared = run.prefix.positions
    shared = jnp.broadcast_to(shared, (y.shape[0], shared.shape[1]))
    key_positions = jnp.concatenate([shared, key_positions], axis=1)

  def scores(q, query_positions, segments):
    allowed = layers.visible(query_positions, key_positions, window)
    if segments is not None:
      allowed &= segments[:, :, None] == run.segments[:, None, :]
    for knockout in run.changes('attn_logits'):
      cut = knockout.cuts(layer, query_positions, key_positions, config)
      allowed = (allowed if allowed.ndim == 4 else allowed[:, None]) & ~cut
    scale = config.query_pre_attn_scalar**-0.5
    return layers.attention_scores(q, keys, allowed, scale, config.attn_softcap)

  def attend(args):
    pattern = jax.nn.softmax(scores(*args), axis=-1)
    return layers.attention_values(pattern, values)

  wanted = [s for s in sites_lib.ATTENTION_SITES if s in run.capture.sites]
  if wanted:
    # Only the captured queries' scores are kept; the rest may be chunked away.
    query_positions, queries = run.positions, q
    if (at := run.capture.positions) is not None:
      B, T, N, H = q.shape
      queries = take_positions(q.reshape(B, T, N * H), run.positions, at)
      queries = queries.reshape(B, -1, N, H)
      found = find_positions(run.positions, at)[1]
      query_positions = jnp.where(found, at, -1)
    logits = scores(queries, query_positions, run.segments)
    here = (query_positions >= 0)[:, None, :, None]
    if 'attn_logits' in wanted:
      seen['attn_logits'] = jnp.where(here, logits, 0)
    if 'pattern' in wanted:
      seen['pattern'] = jnp.where(here, jax.nn.softmax(logits, axis=-1), 0)

  B, T, N, H = q.shape
  chunk = run.query_chunk
  if T <= chunk:
    return attend((q, run.positions, run.segments)), keys_values
  chunk = -(-T // -(-T // chunk))  # as even as possible
  pad = -T % chunk
  q = jnp.pad(q, ((0, 0), (0, pad), (0, 0), (0, 0)))
  q = q.reshape(B, -1, chunk, N, H).swapaxes(0, 1)

  def chunks(x):
    x = jnp.pad(x, ((0, 0), (0, pad)), constant_values=-1)
    return x.reshape(B, -1, chunk).swapaxes(0, 1)

  at = jax.tree.map(chunks, (run.positions, run.segments))
  z = lax.map(jax.checkpoint(attend), (q, *at))
  return z.swapaxes(0, 1).reshape(B, T + pad, N, H)[:, :T], keys_values
