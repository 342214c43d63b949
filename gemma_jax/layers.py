"""The arithmetic of one block, as functions of arrays.

Norms, rotations, soft caps, masks and softmax are computed in float32 whatever
the dtype of the activations. Weights keep the orientation of the checkpoint,
[out, in]: nothing is transposed at load, and on CPU a product with few rows
runs up to 1.7 times faster than with [in, out] (tools/BENCHMARKS.md).
"""

import jax
from jax import lax
import jax.numpy as jnp

from gemma_jax.config import ModelConfig

# Finite, so that a row with no key at all stays finite (uniform attention).
K_MASK = -2.3819763e38


def rms_norm(
  x: jax.Array, weight: jax.Array, eps: float, offset: float
) -> jax.Array:
  """x [..., D] over its root mean square, times offset + weight [D].

  float32 throughout, the gain included, and one rounding to x.dtype at the
  end: rounding 1 + weight in bfloat16 doubles the error. The offset is 0 or 1.
  """
  y = x.astype(jnp.float32)
  y = y * lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + eps)
  # Not y * (1 + weight): a compiler may merge a last product into a sum that
  # follows, and an edit in between that adds 0 would change the rounding.
  gained = y * weight.astype(jnp.float32)
  return rounded(y + gained if offset else gained, x.dtype)


def layer_norm(
  x: jax.Array, weight: jax.Array, bias: jax.Array, eps: float
) -> jax.Array:
  """x [..., D] centred, over its deviation, times weight [D], plus bias [D].

  In float32, rounded once to x.dtype.
  """
  y = x.astype(jnp.float32)
  y = y - jnp.mean(y, axis=-1, keepdims=True)
  y = y * lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + eps)
  y = y * weight.astype(jnp.float32) + bias.astype(jnp.float32)
  return rounded(y, x.dtype)


def norm(config: ModelConfig, x: jax.Array, weight, bias=None) -> jax.Array:
  """Returns the model's norm of x [..., D]; bias None for RMS norms."""
  if config.norm == 'layer':
    return layer_norm(x, weight[...], bias[...], config.norm_eps)
  return rms_norm(x, weight[...], config.norm_eps, config.norm_offset)


def rounded(x: jax.Array, dtype) -> jax.Array:
  """float32 x in another dtype, rounded for good.

  XLA may keep the excess precision of a value that is only converted, so that
  results would depend on what else a program computes.
  """
  if dtype == jnp.bfloat16:
    x = lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7)
  return x.astype(dtype)


def add(x: jax.Array, y: jax.Array) -> jax.Array:
  """x + y, rounded once to their dtype."""
  return rounded(x.astype(jnp.float32) + y.astype(jnp.float32), x.dtype)


def soft_cap(x: jax.Array, cap: float | None) -> jax.Array:
  """cap * tanh(x / cap), in float32; x itself where cap is None.

  Infinity would become the cap, and what overflowed would look sound: it
  becomes NaN.
  """
  x = x.astype(jnp.float32)
  if cap is None:
    return x
  return jnp.where(jnp.isinf(x), jnp.nan, cap * jnp.tanh(x / cap))


def rotary_angles(positions: jax.Array, frequencies: jax.Array):
  """cos and sin, float32 [..., B, T, 1, H/2].

  Args:
    positions: int32 [B, T].
    frequencies: float32 [..., H/2], radians per position.
  """
  frequencies = jnp.asarray(frequencies)[..., None, None, None, :]
  angle = positions.astype(jnp.float32)[..., None, None] * frequencies
  return jnp.cos(angle), jnp.sin(angle)


def rotate(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
  """Rotary embedding of x [B, T, n, H], pairing feature i with i + H/2."""
  a, b = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  turned = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
  return rounded(turned, x.dtype)


def visible(
  query_positions: jax.Array, key_positions: jax.Array, window: jax.Array
) -> jax.Array:
  """bool [B, T, S]: key is no later than the query and inside its window.

  Positions are int32 [B, T] and [B, S]; -1 is an empty place, which no query
  sees. window, an int32 scalar, counts the query's own position.
  """
  distance = query_positions[:, :, None] - key_positions[:, None, :]
  return (
    (distance >= 0) & (distance < window) & (key_positions >= 0)[:, None, :]
  )


def attention_scores(
  q: jax.Array,
  keys: list[jax.Array],
  allowed: jax.Array,
  scale: float,
  cap: float | None,
) -> jax.Array:
  """Scores after soft cap and mask, float32 [B, N, T, S].

  Args:
    q: [B, T, N, H].
    keys: Segments [B or 1, K, S_i, H]; a segment with one row is shared by all
      rows. S is the sum of the S_i.
    allowed: bool [B, T, S] or [B, N, T, S]; elsewhere the score is K_MASK.
    scale: Multiplies the products.
    cap: Soft cap, applied before the mask.
  """
  B, T, N, H = q.shape
  K = keys[0].shape[1]
  # One matrix product per key/value head: its N / K query heads, times T, are
  # the rows X.
  q = q.swapaxes(1, 2).reshape(B, K, (N // K) * T, H)
  products = []
  for k in keys:
    if k.shape[0] == B:
      product = _product('BKXH,BKSH->BKXS', q, k)
    else:
      product = _product('BKXH,KSH->BKXS', q, k[0])
    products.append(product.reshape(B, N, T, k.shape[2]))
  scores = soft_cap(_joined(products) * scale, cap)
  allowed = allowed if allowed.ndim == 4 else allowed[:, None]
  return jnp.where(allowed, scores, K_MASK)


def attention_values(pattern: jax.Array, values: list[jax.Array]) -> jax.Array:
  """Heads' outputs [B, T, N, H] from pattern [B, N, T, S] and segments."""
  B, N, T, _ = pattern.shape
  K, H = values[0].shape[1], values[0].shape[3]
  start, z = 0, 0
  for v in values:
    stop = start + v.shape[2]
    p = pattern[..., start:stop].astype(v.dtype)
    p = p.reshape(B, K, (N // K) * T, v.shape[2])
    if v.shape[0] == B:
      z += _product('BKXS,BKSH->BKXH', p, v)
    else:
      z += _product('BKXS,KSH->BKXH', p, v[0])
    start = stop
  z = z.astype(values[0].dtype).reshape(B, N, T, H)
  return z.swapaxes(1, 2)


def linear(x: jax.Array, weight: jax.Array, bias=None) -> jax.Array:
  """x [..., I] times weight [O, I] transposed, plus bias [O]: [..., O]."""
  y = jnp.einsum('...I,OI->...O', x, weight)
  return y if bias is None else y + bias[...].reshape(-1)


def activation(name: str, x: jax.Array) -> jax.Array:
  """Returns one of config.ACTIVATIONS."""
  if name.startswith('gelu'):
    return jax.nn.gelu(x, approximate=name == 'gelu_tanh')
  return {'silu': jax.nn.silu, 'relu': jax.nn.relu}[name](x)


def mlp(config: ModelConfig, x: jax.Array, w) -> jax.Array:
  """Returns the MLP's hidden layer, [B, T, F], of its normed input."""
  up = linear(x, w.up[...], w.up_b)
  if not config.gated:
    return activation(config.activation, up)
  return activation(config.activation, linear(x, w.gate[...], w.gate_b)) * up


def _product(spec: str, a: jax.Array, b: jax.Array) -> jax.Array:
  return jnp.einsum(spec, a, b, preferred_element_type=jnp.float32)


def _joined(parts: list[jax.Array]) -> jax.Array:
  return parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=-1)
