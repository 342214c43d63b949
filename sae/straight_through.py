"""Straight-through gradients of the two jumps in a JumpReLU SAE.

Both are flat in the threshold almost everywhere, so their true derivative says
nothing. Their pseudo-derivative is a kernel estimate of the derivative of the
*expected* loss, with a rectangular kernel of width h, `bandwidth`, around
the threshold (arXiv 2407.14435; restated in arXiv 2408.05147, section 2):

                  with respect to z   with respect to the threshold t
  jumprelu(z, t)  1[z > t]            -(t / h) 1[|z - t| < h / 2]
  heaviside(z, t) 0                   -(1 / h) 1[|z - t| < h / 2]

The threshold broadcasts over z's leading axes; both have its last axis, F.
"""

import functools

import jax
import jax.numpy as jnp


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def jumprelu(z: jax.Array, threshold: jax.Array, bandwidth: float):
  """z where z > threshold, else 0: [..., F] from z [..., F], threshold [F]."""
  return jnp.where(z > threshold, z, 0)


def _jumprelu_fwd(z, threshold, bandwidth):
  return jumprelu(z, threshold, bandwidth), (z, threshold)


def _jumprelu_bwd(bandwidth, saved, g):
  z, threshold = saved
  dz = jnp.where(z > threshold, g, 0)
  near = jnp.where(_in_window(z, threshold, bandwidth), g, 0)
  return dz, _over_tokens(near, threshold.dtype) * -(threshold / bandwidth)


jumprelu.defvjp(_jumprelu_fwd, _jumprelu_bwd)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def heaviside(z: jax.Array, threshold: jax.Array, bandwidth: float):
  """1 where z > threshold, else 0; its sum over F is the L0 of a token.

  For losses of one's own; training takes `count_firings`, its sum over tokens.
  It returns z.dtype: JAX gives integer outputs no cotangent, and the gradient
  of the L0 term would vanish without a word.
  """
  return (z > threshold).astype(z.dtype)


def _heaviside_fwd(z, threshold, bandwidth):
  return heaviside(z, threshold, bandwidth), (z, threshold)


def _heaviside_bwd(bandwidth, saved, g):
  z, threshold = saved
  near = jnp.where(_in_window(z, threshold, bandwidth), g, 0)
  dthreshold = _over_tokens(near, threshold.dtype) * (-1 / bandwidth)
  return jnp.zeros_like(z), dthreshold


heaviside.defvjp(_heaviside_fwd, _heaviside_bwd)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def count_firings(z: jax.Array, threshold: jax.Array, bandwidth: float):
  """Counts the tokens on which each latent is active, and near its threshold.

  `active` is `heaviside` summed over tokens, in value and in gradient; that
  needs no second look at z, for `near` says all of it.

  Args:
    z: [..., F].
    threshold: [F].
    bandwidth: h.

  Returns:
    (active, near), float32 [F]: z above the threshold, and in the kernel's
    window, outside of which no threshold moves. `near` has no gradient.
  """
  count = lambda chosen: _over_tokens(chosen, jnp.int32).astype(jnp.float32)
  return count(z > threshold), count(_in_window(z, threshold, bandwidth))


def _count_firings_fwd(z, threshold, bandwidth):
  counts = count_firings(z, threshold, bandwidth)
  return counts, (z, threshold, counts[1])


def _count_firings_bwd(bandwidth, saved, g):
  z, threshold, near = saved
  dthreshold = g[0] * near * (-1 / bandwidth)
  return jnp.zeros_like(z), dthreshold.astype(threshold.dtype)


count_firings.defvjp(_count_firings_fwd, _count_firings_bwd)


def _in_window(z, threshold, bandwidth):
  """bool [..., F]: which entries are near enough to move their threshold."""
  return jnp.abs(z - threshold) < bandwidth / 2


def _over_tokens(x, dtype):
  """Returns the sum [F] of x [..., F], in that dtype."""
  return x.sum(axis=tuple(range(x.ndim - 1)), dtype=dtype)
