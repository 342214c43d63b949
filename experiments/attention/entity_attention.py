"""How much a prompt's last token attends to the entity, per head.

Three measures of one edge: the attention a itself; |a v|, the length of what
the key's value adds to the head's output; and |a v W_O|, the length of what
that adds to the layer's output before its post-norm. Each is summed over the
entity's last token alone, or over all of its tokens.

Nothing but these sums leaves the device: no attention pattern does.
"""

from collections.abc import Sequence
import functools

import jax
import jax.numpy as jnp
import numpy as np

from experiments.attention.resuming import (
  PROMPT_AXES,
  earlier_positions,
  resume,
)
import gemma_jax as gj
from gemma_jax import layers

MEASURES = ('attention', 'value_weighted', 'output_weighted')
KEYS = ('entity_last', 'entity')


@functools.partial(jax.jit, static_argnames='site')
def attention_to_entity(
  model: gj.Decoder,
  recording: gj.Recording,
  again: jax.Array,
  keys: jax.Array,
  steered: jax.Array,
  start: jax.Array,
  directions: jax.Array,
  coefficients: jax.Array,
  *,
  site: str = 'resid_post',
) -> jax.Array:
  """Measures the last token's attention with directions added from a layer on.

  Directions are rows of one program; their layer, and the tokens where they are
  added, are data. A coefficient of 0 leaves the model as it is.

  Args:
    model: The model, stacked.
    recording: Recording of P prompts.
    again: int32 [P, T], positions from the first steered token on, -1 for none.
    keys: bool [A, P, S], sets of keys whose sums are taken, by position.
    steered: bool [P, S], positions where directions are added.
    start: int32 scalar, the layer where they are added.
    directions: float32 [R, W], what is added.
    coefficients: float32 [R], times this.
    site: The site where they are added.

  Returns:
    float32 [P, R, L, M, A, N], M being MEASURES; 0 in layers before `start`.
  """
  config = model.config
  L, N, R = config.num_layers, config.num_heads, len(directions)
  A = len(keys)

  def one(recording, again, keys, steered):
    edit = gj.steer(
      site,
      directions,
      layers=start,
      coefficient=coefficients,
      positions=steered,
    )
    slots = jnp.concatenate([earlier_positions(recording, again), again])
    masks = keys[:, jnp.clip(slots, 0)] & (slots >= 0)  # [A, slots]

    def read(weights, layer, seen, found):
      row = seen['pattern'][:, :, -1]  # [R, N, slots]
      lengths = _lengths(config, weights, recording.v[layer], seen['resid_pre'])
      weighted = jnp.stack([row, *(row * each for each in lengths)], axis=1)
      sums = jnp.einsum(
        'RMNs,As->RMAN',
        weighted,
        masks.astype(jnp.float32),
        precision=jax.lax.Precision.HIGHEST,
      )
      return found.at[:, layer].set(sums)

    nothing = jnp.zeros((R, L, len(MEASURES), A, N))
    return resume(
      model,
      recording,
      again,
      start,
      rows=R,
      interventions=[edit],
      sites=('resid_pre', 'pattern'),
      read=read,
      found=nothing,
    )[1]

  return jax.vmap(one, in_axes=(PROMPT_AXES, 0, 1, 0))(
    recording, again, keys, steered
  )


def unsteered_attention(
  model: gj.Decoder, recording: gj.Recording, again: jax.Array, keys: jax.Array
) -> jax.Array:
  """Returns the same of all layers, nothing being added: [P, L, M, A, N]."""
  nothing = jnp.zeros((1, model.config.d_model))
  P, S = keys.shape[1:]
  everywhere = attention_to_entity(
    model,
    recording,
    again,
    keys,
    np.zeros((P, S), bool),
    jnp.int32(0),
    nothing,
    jnp.zeros(1),
  )
  return everywhere[:, 0]


def key_masks(spans: Sequence[tuple[int, int]], size: int) -> np.ndarray:
  """Returns KEYS of entities at tokens [start, stop), bool [A, P, S]."""
  masks = np.zeros((len(KEYS), len(spans), size), bool)
  for row, (start, stop) in enumerate(spans):
    masks[0, row, stop - 1] = True
    masks[1, row, start:stop] = True
  return masks


def _lengths(config, weights, recorded, stream):
  """Returns |v| and |v W_O| of each key by query head, 2 of [R, N, S + T].

  Args:
    config: The model's config.
    weights: The layer's weights.
    recorded: [K, S, H], values of all tokens in the recording.
    stream: [R, T, D], where the tokens that are run again enter the layer.
  """
  group = config.num_heads // config.num_kv_heads
  y = layers.norm(
    config, stream, weights.pre_attn_norm, weights.pre_attn_norm_b
  )
  new = jnp.einsum('RTD,KHD->RKTH', y, weights.wv[...])
  if weights.bv is not None:
    new = new + weights.bv[...][:, None]
  wo = weights.wo[...].astype(jnp.float32)  # [D, N, H]
  grams = jnp.einsum('DNH,DNI->NHI', wo, wo)  # |v W_O|^2 = v gram v

  def lengths(values):
    values = jnp.repeat(values.astype(jnp.float32), group, axis=1)
    squares = jnp.einsum('RNTH,NHI,RNTI->RNT', values, grams, values)
    return (
      jnp.linalg.norm(values, axis=-1),
      jnp.sqrt(jnp.maximum(squares, 0)),
    )

  def joined(old, new):
    old = jnp.broadcast_to(old, (len(new), *old.shape[1:]))
    return jnp.concatenate([old, new], axis=2)

  return [
    joined(*pair)
    for pair in zip(lengths(recorded[None]), lengths(new), strict=True)
  ]
