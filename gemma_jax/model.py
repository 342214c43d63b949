"""The forward pass of a decoder.

`forward` is one `lax.scan` over layers, whose body is `block` of `block.py`.

Masks come from positions alone (-1 is padding), so the padding side is free.
Interventions, the layers and positions to capture, and the positions whose
logits are wanted are arrays: changing them does not recompile.
"""

from collections.abc import Callable
import dataclasses
import math

from flax import nnx
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from gemma_jax import interventions as iv
from gemma_jax import layers, where
from gemma_jax import sites as sites_lib
from gemma_jax.block import BlockContext, block
from gemma_jax.cache import Cache
from gemma_jax.capture import Capture, resolve_last, take_positions
from gemma_jax.capture import prepare as prepare_capture
from gemma_jax.config import ModelConfig
from gemma_jax.sharding import constrain
from gemma_jax.weights import Decoder

# Longer contexts are attended to in chunks of queries, so that no array of
# size T x S is held.
QUERY_CHUNK = 512


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Output:
  """Holds what `forward` returns.

  `out['resid_post', 12]` is one layer of a site, [B, P, W], and
  `out['resid_post']` all layers that were captured, [k, B, P, W].

  Attributes:
    logits: float32 [B, P, V], soft-capped; None unless asked for.
    activations: Site -> [k, B, P, W], or [k, B, N, P, S] for attention sites,
      S being the slots attended to. k follows Capture.layers. On a mesh B is
      split over 'data', and W of z and mlp_act and N over 'model'.
    captured_layers: int32 [k].
    captured_at: int32 [B or 1, P], absolute positions; -1 is padding.
    cache: The cache with this call's tokens added, or None.
    config: The model's, by which names of sites are read.
  """

  logits: jax.Array | None
  activations: dict[str, jax.Array]
  captured_layers: jax.Array
  captured_at: jax.Array
  cache: Cache | None
  config: ModelConfig = dataclasses.field(metadata={'static': True})

  def __getitem__(self, key: str | tuple[str, int]) -> jax.Array:
    """Returns a captured site: of all captured layers, or of one.

    Raises:
      KeyError: it was not captured, or not at that layer.
    """
    name, layer = (key, None) if isinstance(key, str) else key
    site, named = sites_lib.parse_site(name, self.config)
    layer = named if layer is None else layer
    if site not in self.activations:
      raise KeyError(
        f'{name!r} was not captured; what was is '
        f'{", ".join(self.activations) or "nothing"}.'
      )
    if layer is None:
      return self.activations[site]
    held = np.asarray(self.captured_layers).tolist()
    if layer not in held:
      raise KeyError(f'{site} was captured at layers {held}, not {layer}.')
    return self.activations[site][held.index(layer)]


def forward(
  model: Decoder,
  tokens: jax.Array,
  positions: jax.Array | None = None,
  *,
  segments: jax.Array | None = None,
  interventions: iv.Interventions | None = None,
  capture: Capture | None = None,
  logits_at: jax.Array | str | None = None,
  cache: Cache | None = None,
  cache_is_empty: bool = False,
  prefix: Cache | None = None,
  num_layers: int | jax.Array | None = None,
  query_chunk: int = QUERY_CHUNK,
  remat: bool | Callable[..., bool] = False,
) -> Output:
  """Runs the model. Pure: use it under `jit`, `vmap` and `grad`.

  Args:
    model: The weights; bfloat16 or float32.
    tokens: int32 [B, T]. Ids at padding do not matter but must be valid.
    positions: int32 [B, T], -1 at padding; None counts from 0 with no padding.
    segments: int32 [B, T], for rows that hold several texts: a token sees
      those of its own number only. Positions count within each text, so that
      none of them names one place of a row: logits at 'all' places or none,
      captures of all, no interventions, no cache and no prefix.
    interventions: A list of changes, see `interventions.py`.
    capture: Activations to return, as they are after the changes made there.
    logits_at: int32 [B or 1, P] absolute positions, LAST (where.py) being each
      row's last; 'all' for every place; 'last'; None (nothing) skips the
      unembedding. A position that a row does not have, -1 too, gives logits 0.
    cache: Keys and values of earlier tokens; this call's are added to it. It
      must have room: a full cache is overwritten from its end.
    cache_is_empty: Static promise that `cache` holds nothing yet, so that this
      call attends to its own tokens only.
    prefix: A cache with one row that all rows see and nobody writes; its
      length is static, every slot is attended to.
    num_layers: Run only the first so many layers. An int is static; an array
      is data, which one program serves, but not under `grad`, and only where
      Capture.layers says what to keep.
    query_chunk: Static; more queries than this are attended in chunks.
    remat: Recompute blocks in the backward pass instead of storing what is
      inside them: True, or a policy of `jax.checkpoint_policies` that says
      what to keep.

  Raises:
    KeyError, ValueError: a site, shape or combination that does not fit.
  """
  config = model.config
  if tokens.ndim != 2:
    raise ValueError(f'tokens must be [B, T], got shape {tokens.shape}.')
  if positions is None:
    if prefix is not None or (cache is not None and not cache_is_empty):
      raise ValueError(
        'With tokens before these, in a prefix or a cache, positions must be '
        'given: they count on from those.'
      )
    columns = jnp.arange(tokens.shape[1], dtype=jnp.int32)
    positions = jnp.broadcast_to(columns, tokens.shape)
  if positions.shape != tokens.shape:
    raise ValueError(
      f'positions have shape {positions.shape}, tokens {tokens.shape}.'
    )
  if segments is not None:
    _check_segments(
      segments, tokens, interventions, capture, logits_at, cache, prefix
    )
  if prefix is not None and prefix.positions.shape[0] != 1:
    raise ValueError(
      f'A prefix has one row, which all rows share; this one has '
      f'{prefix.positions.shape[0]}.'
    )
  num_layers = config.num_layers if num_layers is None else num_layers
  whole = config.truncated_from or config.num_layers
  static = isinstance(num_layers, int)
  if logits_at is not None and (not static or num_layers != whole):
    raise ValueError(
      f'Logits need all {whole} layers, not {num_layers}. For the '
      'logit lens, capture resid_post and call `unembed`.'
    )
  if static:
    config.truncated(num_layers)  # raises unless there are so many
  interventions = iv.prepare(interventions, config, positions)
  capture = prepare_capture(capture, config, positions)

  x = embed(model, tokens, positions)
  # No one sees padding, but 0 times infinity is NaN.
  x = jnp.where((positions >= 0)[:, :, None] | jnp.isfinite(x), x, 0)
  x, activations, cache = run_blocks(
    model,
    x,
    positions,
    segments=segments,
    interventions=interventions,
    capture=capture,
    cache=cache,
    cache_is_empty=cache_is_empty,
    prefix=prefix,
    num_layers=num_layers,
    query_chunk=query_chunk,
    remat=remat,
  )
  logits = None
  if isinstance(logits_at, str) and logits_at == 'all':
    logits = unembed(model, x)
  elif logits_at is not None:
    if isinstance(logits_at, str):
      logits_at = where.absolute(logits_at, 'logits_at')
    at = resolve_last(logits_at, positions)
    logits = unembed(model, take_positions(x, positions, at))
  layers_seen, at_seen = capture.layers, capture.positions
  return Output(
    logits=logits,
    activations=activations,
    captured_layers=jnp.arange(num_layers if static else 0, dtype=jnp.int32)
    if layers_seen is None
    else jnp.asarray(layers_seen),
    captured_at=positions if at_seen is None else jnp.asarray(at_seen),
    cache=cache,
    config=config,
  )


def _check_segments(
  segments, tokens, interventions, capture, logits_at, cache, prefix
):
  """Raises ValueError for what segments do not go with; see `forward`."""
  if segments.shape != tokens.shape:
    raise ValueError(
      f'segments have shape {segments.shape}, tokens {tokens.shape}.'
    )
  everywhere = isinstance(logits_at, str) and logits_at == 'all'
  refused = {
    'a cache': cache is not None,
    'a prefix': prefix is not None,
    'interventions': bool(interventions),
    'captured positions': capture is not None and capture.positions is not None,
    "logits_at other than 'all'": logits_at is not None and not everywhere,
  }
  if wrong := [name for name, is_there in refused.items() if is_there]:
    raise ValueError(
      f'Rows of several texts do not go with {wrong[0]}: a position is no one '
      'place of such a row. Run each text in its own row, without segments.'
    )


def embed(
  model: Decoder, tokens: jax.Array, positions: jax.Array | None = None
) -> jax.Array:
  """Token ids [B, T] to the stream entering layer 0, [B, T, D].

  Args:
    model: The weights. Where embeddings are scaled, by sqrt(D), the scale is
      rounded to their dtype, as HF does.
    tokens: int32 [B, T].
    positions: int32 [B, T], for learned positions; None counts from 0. Padding
      gets those of position 0, which nothing sees.
  """
  config = model.config
  x = model.embed[...][tokens]
  if config.scale_embedding:
    x = x * jnp.asarray(math.sqrt(config.d_model), model.dtype)
  if config.position_rows:
    if positions is None:
      positions = jnp.arange(tokens.shape[1])
    rows = jnp.maximum(positions, 0) + config.position_offset
    x = layers.add(x, model.positions[...][rows])
  return constrain(x, 'BT.')


def unembed(
  model: Decoder, x: jax.Array, tokens: jax.Array | None = None
) -> jax.Array:
  """Final norm, unembedding and soft cap: [..., D] to float32 [..., V].

  Applied to another layer's resid_post, this is the logit lens.

  Args:
    model: The weights.
    x: The stream, [..., D].
    tokens: int32 [..., k], to have the logits of these alone, [..., k].
  """
  x = layers.norm(model.config, x, model.final_norm, model.final_norm_b)
  rows = model.unembedding
  logits = jnp.einsum(
    '...D,VD->...V' if tokens is None else '...D,...kD->...k',
    x,
    rows if tokens is None else rows[tokens],
    preferred_element_type=jnp.float32,
  )
  return layers.soft_cap(logits, model.config.final_softcap)


def run_blocks(
  model: Decoder,
  x: jax.Array,
  positions: jax.Array,
  *,
  segments: jax.Array | None = None,
  interventions: tuple[iv.Change, ...] = (),
  capture: Capture,
  cache: Cache | None = None,
  cache_is_empty: bool = False,
  prefix: Cache | None = None,
  first_layer: int | jax.Array | None = None,
  num_layers: int | jax.Array,
  query_chunk: int = QUERY_CHUNK,
  remat: bool | Callable[..., bool] = False,
):
  """Returns the layers: x [B, T, D] at the first one to the stream after the
  last.

  Arguments are those of `forward`, changes and capture as their `prepare` made
  them; the prefix may have B rows here, a row's own each; and `first_layer`, an
  int32 scalar: x enters this layer, and those below are not run. It is data,
  as `num_layers` may be: one program serves all of them.

  Returns x, the activations, the cache.
  """
  config = model.config
  for site in capture.sites:
    if site not in sites_lib.SITES:
      raise KeyError(f'Cannot capture {site!r}; sites are {sites_lib.SITES}.')
  some = first_layer is not None or not isinstance(num_layers, int)
  if some and not model.is_stacked:
    raise ValueError(
      'Layers are run from or up to a given one in a stack; keep the model '
      'that `unstack_layers` was given.'
    )
  if some and capture.sites and capture.layers is None:
    raise ValueError(
      'From or up to a given layer, say which to capture: Capture.layers.'
    )
  B, T, _ = x.shape
  if cache is not None:
    key_positions = lax.dynamic_update_slice_in_dim(
      cache.positions, positions, cache.length, axis=1
    )
  run = BlockContext(
    config=config,
    positions=positions,
    key_positions=(
      positions if cache is None or cache_is_empty else key_positions
    ),
    rotary=rotary_by_layer(config, positions),
    interventions=interventions,
    capture=capture,
    cache_length=None if cache is None else cache.length,
    cache_is_empty=cache_is_empty,
    prefix=prefix,
    query_chunk=query_chunk,
    segments=segments,
  )
  keys_values = None if cache is None else (cache.k, cache.v)
  slots = None
  if capture.layers is not None:
    # A layer that is not wanted writes to slot k, which does not exist; -1
    # would write the last one.
    wanted = capture.layers[None, :] == jnp.arange(config.num_layers)[:, None]
    k = capture.layers.shape[0]
    slots = jnp.where(wanted.any(1), wanted.argmax(1), k)

  def body(carry, scanned):
    x, keys_values, buffers = carry
    weights, layer, window = scanned
    x, seen, keys_values = block(run, weights, layer, window, x, keys_values)
    if slots is None:
      return (x, keys_values, buffers), seen
    buffers = {
      site: buffers[site].at[slots[layer]].set(value, mode='drop')
      for site, value in seen.items()
    }
    return (x, keys_values, buffers), {}

  if remat:
    policy = None if remat is True else remat
    body = jax.checkpoint(body, policy=policy)

  buffers = {}
  if slots is not None:
    shapes = jax.eval_shape(
      lambda: block(
        run,
        _layer_weights(model.blocks, 0),
        0,
        jnp.int32(0),
        x,
        keys_values,
      )[1]
    )
    buffers = {
      site: jnp.zeros((capture.layers.shape[0], *s.shape), s.dtype)
      for site, s in shapes.items()
    }

  carry = (x, keys_values, buffers)
  carry, seen = _over_layers(body, carry, model, num_layers, first_layer)
  x, keys_values, buffers = carry
  if cache is not None:
    cache = Cache(
      k=keys_values[0],
      v=keys_values[1],
      positions=key_positions,
      length=cache.length + T,
    )
  return x, (seen if slots is None else buffers), cache


def rotary_by_layer(config: ModelConfig, positions: jax.Array):
  """Returns a function of the layer: cos and sin there, or None without
  rotation.

  Angles are computed once for each kind of layer that the model has.
  """
  if config.position_rows:
    return lambda layer: None
  kinds, kind = np.unique(config.frequencies, axis=0, return_inverse=True)
  cos, sin = layers.rotary_angles(positions, kinds)
  if len(kinds) == 1:
    return lambda layer: (cos[0], sin[0])
  kind = jnp.asarray(kind.reshape(-1), jnp.int32)
  return lambda layer: (cos[kind[layer]], sin[kind[layer]])


def _over_layers(body, carry, model: Decoder, num_layers, first_layer):
  """`lax.scan` of body over the first layers; a loop if they are unstacked.

  With a `first_layer`, or `num_layers` as data, a loop that collects nothing.
  """
  windows = jnp.asarray(model.config.windows)
  if first_layer is not None or not isinstance(num_layers, int):
    first_layer = 0 if first_layer is None else first_layer

    def step(layer, carry):
      weights = _layer_weights(model.blocks, layer)
      return body(carry, (weights, layer, windows[layer]))[0]

    # int32 also where jax_enable_x64 would make an int an int64.
    bounds = [
      np.int32(i) if isinstance(i, int) else i.astype(np.int32)
      for i in (first_layer, num_layers)
    ]
    return lax.fori_loop(*bounds, step, carry), {}
  if not model.is_stacked:
    collected = []
    for layer in range(num_layers):
      scanned = (model.blocks[layer], layer, windows[layer])
      carry, seen = body(carry, scanned)
      collected.append(seen)
    return carry, jax.tree.map(lambda *a: jnp.stack(a), *collected)

  windows = windows[:num_layers]
  numbers = jnp.arange(num_layers, dtype=jnp.int32)
  if num_layers == model.config.num_layers:
    return lax.scan(body, carry, (model.blocks, numbers, windows))

  # Indexing, not slicing: a slice of the stack would be a copy of it.
  def indexed(carry, scanned):
    layer, window = scanned
    return body(carry, (_layer_weights(model.blocks, layer), layer, window))

  return lax.scan(indexed, carry, (numbers, windows))


def _layer_weights(blocks, layer):
  """Returns the blocks' weights at one layer, without the L axis."""
  if isinstance(blocks, nnx.List):
    return blocks[layer]
  return jax.tree.map(
    lambda a: lax.dynamic_index_in_dim(a, layer, keepdims=False), blocks
  )
