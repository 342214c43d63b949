"""From the units an SAE was trained in to those of raw activations.

Trainers scale activations (so that one learning rate fits all sites), and some
subtract the decoder's bias before encoding:

  z = (s * x - b_dec) @ W_enc + b_enc
  y = (jump(z, threshold) @ W_dec + b_dec) / s

Folding gives arrays that do the same to raw x without either. Latents come out
in raw units, f / s, so that decoder rows keep their norm; that is how Gemma
Scope was released (arXiv 2408.05147, appendix B).
"""

import jax
import jax.numpy as jnp
import numpy as np

from sae.jumprelu import Weights


def fold(
  weights: Weights, *, input_scale=1.0, subtract_b_dec: bool = False
) -> Weights:
  """Weights that act on raw activations.

  Args:
    weights: As trained. NumPy arrays are folded in float64 and stay NumPy;
      JAX arrays are folded in float32 where they are.
    input_scale: s, what raw activations were multiplied by.
    subtract_b_dec: True if b_dec was subtracted before encoding.
  """
  on_host = not isinstance(weights.W_enc, jax.Array)
  xp, wide = (np, np.float64) if on_host else (jnp, jnp.float32)
  b_enc, b_dec, threshold = (
    xp.asarray(array, wide)
    for array in (weights.b_enc, weights.b_dec, weights.threshold)
  )
  if subtract_b_dec and on_host:
    # Column blocks, so that W_enc is not copied whole in float64.
    b_enc = b_enc - np.concatenate(
      [
        b_dec @ weights.W_enc[:, at : at + 4096].astype(wide)
        for at in range(0, weights.W_enc.shape[1], 4096)
      ]
    )
  elif subtract_b_dec:
    W_enc = weights.W_enc.astype(wide)
    b_enc = b_enc - jnp.matmul(b_dec, W_enc, precision='highest')
  return weights._replace(
    b_enc=(b_enc / input_scale).astype(weights.b_enc.dtype),
    b_dec=(b_dec / input_scale).astype(weights.b_dec.dtype),
    threshold=(threshold / input_scale).astype(xp.float32),
  )


def normalise_decoder(weights: Weights) -> Weights:
  """Equal weights whose decoder rows have norm 1; latents take the norms on.

  A row of zeros stays; its latent writes nothing.
  """
  on_host = not isinstance(weights.W_enc, jax.Array)
  xp = np if on_host else jnp
  W_dec = xp.asarray(weights.W_dec, xp.float32)
  norms = xp.sqrt((W_dec**2).sum(axis=1))
  norms = xp.where(norms > 0, norms, 1).astype(xp.float32)
  return weights._replace(
    W_enc=(weights.W_enc * norms).astype(weights.W_enc.dtype),
    W_dec=(W_dec / norms[:, None]).astype(weights.W_dec.dtype),
    b_enc=(weights.b_enc * norms).astype(weights.b_enc.dtype),
    threshold=(weights.threshold * norms).astype(xp.float32),
  )
