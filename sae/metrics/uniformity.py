"""How evenly active latents share the effect on the next token.

The uniformity of active latent importance of Gemma Scope (arXiv 2408.05147,
appendix C.3, eqs. 12 to 14), on one token:

  y = f * (W_dec grad)          what each latent adds to the correct logit [F]
  p = |y| / sum |y|
  r = exp(entropy of p) / ||y||_0

r is the effective over the actual number of latents with an effect: 1 if all
of them have the same, 1 / ||y||_0 if one has it all.
"""

from collections.abc import Iterable
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from sae.jumprelu import JumpReLUSAE, Weights, encode


@dataclasses.dataclass(frozen=True, kw_only=True)
class Uniformity:
  """Holds the uniformity of an SAE over tokens.

  Attributes:
    mean: Mean of r over tokens where some latent has an effect; NaN if none.
    num_tokens: How many these are.
    num_skipped: Unmasked tokens where no latent has one.
  """

  mean: float
  num_tokens: int
  num_skipped: int

  def to_dict(self) -> dict:
    """Returns a dict for JSON: what is not finite is None."""
    mean = self.mean if np.isfinite(self.mean) else None
    return dataclasses.asdict(self) | {'mean': mean}


def uniformity(weights: Weights, x: jax.Array, grad: jax.Array) -> jax.Array:
  """r of each token; computed in float32.

  Args:
    weights: Weights of the SAE.
    x: [..., D], what it reads.
    grad: [..., D], gradient with respect to x of the logit of the correct next
      token less the mean of all logits; of the same token's own prediction.
      Its scale does not matter.

  Returns:
    float32 [...], in (0, 1]; NaN where no latent has an effect.

  Raises:
    ValueError: shapes do not fit.
  """
  D = weights.W_enc.shape[0]
  if x.shape != grad.shape or x.shape[-1:] != (D,):
    raise ValueError(
      f'Activations {x.shape} and gradients {grad.shape} must both be [..., D] '
      f'with D={D}.'
    )
  f = encode(weights, x.astype(jnp.float32))
  effect = jnp.einsum(
    '...D,FD->...F',
    grad.astype(jnp.float32),
    weights.W_dec,
    preferred_element_type=jnp.float32,
  )
  size = jnp.abs(f * effect)
  count = (size > 0).sum(axis=-1)
  p = size / size.sum(axis=-1, keepdims=True)
  entropy = jax.scipy.special.entr(p).sum(axis=-1)
  r = jnp.minimum(jnp.exp(entropy) / count, 1)
  return jnp.where(count > 0, r, jnp.nan)


def mean_uniformity(sae: JumpReLUSAE, batches: Iterable) -> Uniformity:
  """Returns the mean of `uniformity` over batches, summed in float64.

  Args:
    sae: Whose weights are measured.
    batches: Batches of tuples (x, grad) or (x, grad, mask), with the mask bool
      [...], False for tokens that do not count, whatever is there.

  Raises:
    ValueError: there is no batch or no unmasked token, shapes do not fit, or
      an x or gradient that counts is not finite. Batches are numbered from 0.
  """
  weights = sae.weights()
  sum_r, num_tokens, num_unmasked, number = 0.0, 0, 0, -1
  for number, (x, grad, *rest) in enumerate(batches):
    mask = rest[0] if rest else np.ones(x.shape[:-1], bool)
    if mask.shape != x.shape[:-1] or mask.dtype != bool:
      raise ValueError(
        f'Batch {number}: the mask is {mask.dtype} {mask.shape}, expected bool '
        f'{x.shape[:-1]}.'
      )
    r, finite = jax.device_get(_uniformity(weights, x, grad, mask))
    if not finite:
      raise ValueError(
        f'Batch {number} (from 0) holds an activation or gradient that is not '
        'finite where the mask is True. Mask it out, or look for where it '
        'arises.'
      )
    found = np.isfinite(r)
    sum_r += r[found].sum(dtype=np.float64)
    num_tokens += int(found.sum())
    num_unmasked += int(np.asarray(mask).sum())
  if not num_unmasked:
    raise ValueError(
      f'There is nothing to measure: no unmasked token in {number + 1} batches.'
    )
  return Uniformity(
    mean=float(sum_r / num_tokens) if num_tokens else float('nan'),
    num_tokens=num_tokens,
    num_skipped=num_unmasked - num_tokens,
  )


@jax.jit
def _uniformity(weights, x, grad, mask):
  """r, NaN where masked, and whether all else is finite."""
  x, grad = (jnp.where(mask[..., None], array, 0) for array in (x, grad))
  r = jnp.where(mask, uniformity(weights, x, grad), jnp.nan)
  return r, jnp.isfinite(x).all() & jnp.isfinite(grad).all()
