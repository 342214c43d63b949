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
  near = jnp.where(in_window(z, threshold, bandwidth), g, 0)
  return dz, _over_tokens(near, threshold) * -(threshold / bandwidth)


jumprelu.defvjp(_jumprelu_fwd, _jumprelu_bwd)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def heaviside(z: jax.Array, threshold: jax.Array, bandwidth: float):
  """1 where z > threshold, else 0; its sum over F is the L0 of a token.

  It returns z.dtype: JAX gives integer outputs no cotangent, and the gradient
  of the L0 term would vanish without a word.
  """
  return (z > threshold).astype(z.dtype)


def _heaviside_fwd(z, threshold, bandwidth):
  return heaviside(z, threshold, bandwidth), (z, threshold)


def _heaviside_bwd(bandwidth, saved, g):
  z, threshold = saved
  near = jnp.where(in_window(z, threshold, bandwidth), g, 0)
  return jnp.zeros_like(z), _over_tokens(near, threshold) * (-1 / bandwidth)


heaviside.defvjp(_heaviside_fwd, _heaviside_bwd)


def in_window(z, threshold, bandwidth):
  """bool [..., F]: which entries are near enough to move their threshold."""
  return jnp.abs(z - threshold) < bandwidth / 2


def _over_tokens(g, threshold):
  """[F] from [..., F], in the threshold's dtype."""
  return g.sum(axis=tuple(range(g.ndim - 1)), dtype=threshold.dtype)
