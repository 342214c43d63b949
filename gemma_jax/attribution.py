"""From streams to tokens: the logit lens, direct logit attribution, losses.

The last stream is a sum: the embedding, and what every head and every MLP adds.
The final norm divides it by one number per token and multiplies by a gain; held
at the number of that run, it is linear, so a logit (before the soft cap) is the
sum of its parts, exactly:

  out = run(model, *batch, capture=capture(*PART_SITES, positions='last'))
  parts = direct_logit_attribution(model, out, answer, minus=other)
  parts.sum, parts.logit                        # equal, to float rounding
  parts.heads                                   # [B, P, L, N]

With post-norms (Gemma 2 and 3) a head's output is divided by the root mean
square of all heads' sum, held at its value too. Numbers are float64 on the
host, where sums of many parts are asked to be exact; losses and divergences
are float32 on the device, a few tokens at a time.
"""

import dataclasses
import functools

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from gemma_jax.config import ModelConfig
from gemma_jax.model import Output, unembed
from gemma_jax.weights import Decoder

# What `direct_logit_attribution` needs a run to have captured, in all layers.
PART_SITES = ('resid_pre', 'z', 'attn_out_raw', 'mlp_out', 'resid_post')
# Logits are made for so many bytes of tokens at a time.
LOGITS_BYTES = 1 << 28


def logit_lens(
  model: Decoder, stream: jax.Array, tokens: jax.Array | None = None
) -> jax.Array:
  """Logits float32 [..., V] that a stream [..., D] of any layer would give.

  The final norm, the unembedding and the soft cap, as after the last layer.

  Args:
    model: The weights.
    stream: resid_post of some layers.
    tokens: int32 [..., k], to have the logits of these alone, [..., k].
  """
  return unembed(model, stream, tokens)


def norm_scale(config: ModelConfig, x) -> np.ndarray:
  """float64 [...]: what a norm divides x [..., D] by.

  The root mean square, or with LayerNorm the deviation.
  """
  x = np.asarray(x, np.float64)
  if config.norm == 'layer':
    x = x - x.mean(-1, keepdims=True)
  return np.sqrt((x * x).mean(-1) + config.norm_eps)


def readout(model: Decoder, tokens, minus=None) -> np.ndarray:
  """Returns what a stream, over its norm's scale, is multiplied with for a
  logit.

  Args:
    model: The weights.
    tokens: int [...].
    minus: int [...]: the logit of a token less that of another one.

  Returns:
    float64 [..., D]: the rows of the unembedding times the final norm's gain;
    with LayerNorm less their mean, which is how it centres a stream.
  """
  rows = _rows(model, tokens) - (0 if minus is None else _rows(model, minus))
  return through_final_norm(model, rows)


def through_final_norm(model: Decoder, rows: np.ndarray) -> np.ndarray:
  """Rows of the unembedding [..., D] as they are read off a stream.

  Times the final norm's gain; with LayerNorm less their mean.
  """
  directions = rows * _gain(model.config, model.final_norm)
  if model.config.norm == 'layer':
    directions = directions - directions.mean(-1, keepdims=True)
  return directions


def readout_bias(model: Decoder, tokens, minus=None) -> np.ndarray:
  """float64 [...]: what the final norm's bias adds to those logits."""
  shape = np.shape(tokens)
  if model.final_norm_b is None:
    return np.zeros(shape)
  rows = _rows(model, tokens) - (0 if minus is None else _rows(model, minus))
  return rows @ np.asarray(model.final_norm_b[...], np.float64)


def read_logit(model: Decoder, stream, directions, bias=0.0) -> np.ndarray:
  """Logits before the soft cap, float64 [...], of last streams [..., D].

  Args:
    model: The weights.
    stream: resid_post of the last layer.
    directions: From `readout`, [..., D].
    bias: From `readout_bias`.
  """
  stream = np.asarray(stream, np.float64)
  scale = norm_scale(model.config, stream)
  return (stream * directions).sum(-1) / scale + bias


def head_outputs(
  model: Decoder, layer: int, z, attn_out_raw, *, post_norm: bool = True
) -> np.ndarray:
  """Returns what each head of a layer adds to the stream, float64 [..., N, D].

  The layer's bias, if it has one, is not part of any head.

  Args:
    model: The weights, stacked.
    layer: Which.
    z: [..., N * H], heads' outputs.
    attn_out_raw: [..., D], all heads together, before the post-norm, whose
      scale is taken from it.
    post_norm: Apply it, where the model has one.
  """
  config = model.config
  z = np.asarray(z, np.float64)
  z = z.reshape(*z.shape[:-1], config.num_heads, config.head_dim)
  wo = np.asarray(model.blocks.wo[layer], np.float64)  # [D, N, H]
  raw = np.einsum('...NH,DNH->...ND', z, wo, optimize=True)
  if not post_norm:
    return raw
  return after_post_norm(model, layer, raw, attn_out_raw)


def after_post_norm(
  model: Decoder, layer: int, heads: np.ndarray, attn_out_raw
) -> np.ndarray:
  """Heads' raw outputs as they are added to the stream, float64 [..., N, D].

  Args:
    model: The weights, stacked.
    layer: The heads' layer.
    heads: [..., N, D], before the post-norm; returned where there is none.
    attn_out_raw: [..., D], all heads together, which the norm's scale is of.
  """
  config = model.config
  if not config.post_norms:
    return heads
  scale = norm_scale(config, attn_out_raw)[..., None, None]
  return heads / scale * _gain(config, model.blocks.post_attn_norm, layer)


def through_post_norm(
  model: Decoder, layer: int, directions: np.ndarray, attn_out_raw
) -> np.ndarray:
  """Directions float64 [..., D] as they are read off heads' raw outputs.

  The transpose of `after_post_norm`: what a head writes, times a direction, is
  its raw output times the direction returned.

  Args:
    model: The weights, stacked.
    layer: The heads' layer.
    directions: [..., D]; returned where there is no post-norm.
    attn_out_raw: [..., D], all heads together, which the norm's scale is of.
  """
  config = model.config
  if not config.post_norms:
    return directions
  gain = _gain(config, model.blocks.post_attn_norm, layer)
  return directions * gain / norm_scale(config, attn_out_raw)[..., None]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Parts:
  """A logit, or a difference of two, taken apart; float64.

  Attributes:
    embedding: [B, P].
    heads: [B, P, L, N].
    mlps: [B, P, L].
    bias: [B, P], of attention's output biases and of the final norm's.
    logit: [B, P], of the stream itself, before the soft cap.
  """

  embedding: np.ndarray
  heads: np.ndarray
  mlps: np.ndarray
  bias: np.ndarray
  logit: np.ndarray

  @property
  def sum(self) -> np.ndarray:
    """[B, P], of all parts: the logit, to the rounding of the activations.

    What an edit added to the stream is no part; it is missing here.
    """
    parts = self.embedding + self.heads.sum((-1, -2)) + self.mlps.sum(-1)
    return parts + self.bias


def direct_logit_attribution(
  model: Decoder, out: Output, tokens, minus=None
) -> Parts:
  """Returns which part of the last stream a logit comes from, exactly.

  Args:
    model: The weights, stacked.
    out: A run that captured PART_SITES in all layers.
    tokens: int, [B] or [B, P]: whose logit.
    minus: int, [B] or [B, P]: another token, whose logit is subtracted.

  Raises:
    KeyError: a site was not captured.
    ValueError: not all layers were captured, or the model is truncated.
  """
  config = model.config
  L = config.num_layers
  if config.truncated_from is not None:
    raise ValueError(
      f'Logits need all {config.truncated_from} layers; this model has {L}.'
    )
  held = np.asarray(out.captured_layers)
  if held.tolist() != list(range(L)):
    raise ValueError(
      f'Attribution needs all {L} layers; captured are {held.tolist()}. Leave '
      '`layers` out of the capture.'
    )
  x = {site: np.asarray(out[site], np.float64) for site in PART_SITES}
  _, B, P, _ = x['resid_pre'].shape
  tokens, minus = (_per_place(each, B, P) for each in (tokens, minus))
  directions = readout(model, tokens, minus)  # [B, P, D]
  stream = x['resid_post'][-1]
  scaled = directions / norm_scale(config, stream)[..., None]
  heads, constant = [], readout_bias(model, tokens, minus)
  bias = constant
  for layer in range(L):
    added = through_post_norm(model, layer, scaled, x['attn_out_raw'][layer])
    wo = np.asarray(model.blocks.wo[layer], np.float64)
    z = x['z'][layer].reshape(B, P, config.num_heads, config.head_dim)
    heads.append(np.einsum('BPNH,DNH,BPD->BPN', z, wo, added, optimize=True))
    if config.out_bias:
      bias = bias + added @ np.asarray(model.blocks.bo[layer], np.float64)
  return Parts(
    embedding=np.einsum('BPD,BPD->BP', x['resid_pre'][0], scaled),
    heads=np.stack(heads, axis=2),
    mlps=np.einsum('LBPD,BPD->BPL', x['mlp_out'], scaled),
    bias=bias,
    logit=read_logit(model, stream, directions, constant),
  )


def to_vocabulary(
  model: Decoder, vectors, *, gain: bool = True, scale=None
) -> jax.Array:
  """Returns what vectors that are added to the stream add to logits, float32
  [..., V].

  A head's output, a row of W_dec, a steering vector. Before the soft cap.

  Args:
    model: The model whose unembedding and final norm are used.
    vectors: [..., D].
    gain: Multiply by the final norm's gain first (and centre, with LayerNorm),
      as on the way through the model. False is d @ W_U, which is what is shown
      for latents elsewhere.
    scale: float [...], what the final norm divides by in a run (`norm_scale`);
      None does not divide: a direction has no scale.

  Raises:
    ValueError: the vectors are not of the stream's width.
  """
  D = model.config.d_model
  vectors = np.asarray(vectors, np.float64)
  if vectors.shape[-1:] != (D,):
    raise ValueError(
      f'Vectors have shape {vectors.shape}, expected [..., {D}]: only what is '
      'written to the residual stream is read by the unembedding.'
    )
  if scale is not None:
    vectors = vectors / np.asarray(scale, np.float64)[..., None]
  if gain:
    if model.config.norm == 'layer':
      vectors = vectors - vectors.mean(-1, keepdims=True)
    vectors = vectors * _gain(model.config, model.final_norm)
  return _multiplied(model.unembedding, jnp.asarray(vectors, jnp.float32))


def token_losses(
  model: Decoder, stream: jax.Array, tokens: jax.Array
) -> jax.Array:
  """Cross-entropies in nats, float32 [B, T], of each row's next token.

  Args:
    model: Unembeds.
    stream: [B, T, D], resid_post of the last layer.
    tokens: int32 [B, T]; the last one's loss has no meaning.
  """
  tokens = jnp.asarray(tokens)
  return _losses(model, stream, tokens, _chunk(model, tokens.size))


def kl_divergence(
  model: Decoder,
  stream: jax.Array,
  other: jax.Array,
  other_model: Decoder | None = None,
) -> jax.Array:
  """KL(p || q) in nats, float32 [...], of two runs' next-token distributions.

  Args:
    model: Unembeds the first stream.
    stream: [..., D], last resid_post of the run that p is of.
    other: [..., D], of the run that q is of.
    other_model: Unembeds `other`; None is `model`.
  """
  other_model = model if other_model is None else other_model
  shape, D = stream.shape[:-1], stream.shape[-1]
  chunk = _chunk(model, stream.size // D)
  return _divergences(
    model, stream.reshape(-1, D), other.reshape(-1, D), other_model, chunk
  ).reshape(shape)


def _gain(config: ModelConfig, weight, layer: int | None = None) -> np.ndarray:
  """float64 [D]: what a norm multiplies by."""
  weight = weight[...] if layer is None else weight[layer]
  return config.norm_offset + np.asarray(weight, np.float64)


def _rows(model: Decoder, tokens) -> np.ndarray:
  return np.asarray(model.unembedding[jnp.asarray(tokens)], np.float64)


def _per_place(tokens, B: int, P: int):
  """int [B, P] from a token, [B] or [B, P]."""
  if tokens is None:
    return None
  tokens = np.asarray(tokens)
  if tokens.shape not in ((), (B,), (B, P)):
    raise ValueError(
      f'tokens have shape {tokens.shape}, expected a token, [{B}] or '
      f'[{B}, {P}].'
    )
  tokens = tokens[:, None] if tokens.ndim == 1 else tokens
  return np.broadcast_to(tokens, (B, P))


def _chunk(model: Decoder, count: int) -> int:
  """Returns how many tokens' logits are held at a time."""
  return max(1, min(LOGITS_BYTES // (4 * model.config.vocab_size), count))


def _in_chunks(function, chunk: int, *arrays):
  """function of [chunk, ...] pieces of arrays [n, ...], joined to [n]."""
  n = arrays[0].shape[0]
  pad = -n % chunk
  pieces = [
    jnp.pad(a, ((0, pad), *[(0, 0)] * (a.ndim - 1))).reshape(
      -1, chunk, *a.shape[1:]
    )
    for a in arrays
  ]
  return lax.map(lambda piece: function(*piece), tuple(pieces)).reshape(-1)[:n]


@functools.partial(jax.jit, static_argnums=3)
def _losses(model, stream, tokens, chunk):
  def one(x, target):
    logits = unembed(model, x)  # [chunk, V]
    correct = jnp.take_along_axis(logits, target[:, None], axis=1)[:, 0]
    return jax.nn.logsumexp(logits, axis=1) - correct

  targets = jnp.roll(tokens, -1, axis=1).reshape(-1)
  stream = stream.reshape(-1, stream.shape[-1])
  return _in_chunks(one, chunk, stream, targets).reshape(tokens.shape)


@functools.partial(jax.jit, static_argnums=4)
def _divergences(model, x, y, other_model, chunk):
  def one(x, y):
    p = jax.nn.log_softmax(unembed(model, x))
    q = jax.nn.log_softmax(unembed(other_model, y))
    return jnp.maximum((jnp.exp(p) * (p - q)).sum(-1), 0)

  return _in_chunks(one, chunk, x, y)


@jax.jit
def _multiplied(table, vectors):
  with jax.default_matmul_precision('highest'):
    return jnp.einsum(
      '...D,VD->...V', vectors, table, preferred_element_type=jnp.float32
    )
