"""Gradients of an SAE's update: dense, and from active latents alone."""

import jax
import jax.numpy as jnp

from sae.training import update as up


def dense_gradients(x, W_enc, W_dec, threshold):
  """Returns gradients of the squared error: W_enc's [D, F], W_dec's [F, D]."""
  (D, F), dtype = W_enc.shape, 'float32'

  def loss(W_enc, W_dec):
    z = up._encode(dtype, x, W_enc, jnp.zeros(F), jnp.zeros(D))
    f = jnp.where(z > threshold, z, 0)
    y = up._decode(dtype, f, W_dec, jnp.zeros(D))
    return ((y - x) ** 2).sum(-1).mean()

  return jax.grad(loss, argnums=(0, 1))(W_enc, W_dec)


def sparse_gradients(x, W_enc, W_dec, threshold, *, capacity):
  """Returns gradients, if no token has more than `capacity` active latents."""
  z, ids = jax.lax.top_k(x @ W_enc, capacity)
  active = z > threshold
  f = jnp.where(active, z, 0)

  B, D = x.shape

  def token(given):
    x, f, ids = given
    rows = W_dec[ids]  # [capacity, D]
    error = (f @ rows - x) * (2 / B)
    return error, rows @ error

  error, df = jax.lax.map(token, (x, f, ids), batch_size=16)
  dz = jnp.where(active, df, 0)
  add_up = lambda values, vectors: (
    jnp.zeros_like(W_dec)
    .at[ids.reshape(-1)]
    .add((values[..., None] * vectors[:, None]).reshape(-1, D))
  )
  return add_up(dz, x).T, add_up(f, error)
