"""Taking a direction out of everything that a model writes to its stream.

What a block adds is g * y / rms(y), with y its output before the post-norm and
g = 1 + w the norm's gain. So, for a direction d,

  exact       y is kept orthogonal to g * d, which makes what is added
              orthogonal to d
  reference   y is kept orthogonal to d, as in the code of arXiv 2411.14257;
              with a gain, some of d is still written

Both also take d out of the embeddings. The unembedding, which is the same
matrix, keeps it: so the matrix is left as it is, and the embeddings are
projected where they enter layer 0, which is the same thing.
"""

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

import gemma_jax as gj

WAYS = ('exact', 'reference')


def orthogonalise(
  model: gj.Decoder, direction: np.ndarray, way: str
) -> tuple[gj.Decoder, gj.Interventions]:
  """A model that cannot write a direction.

  Args:
    model: Stacked. Its embeddings and what reads the stream are shared.
    direction: [D]; its norm does not matter.
    way: 'exact' or 'reference'.

  Returns:
    The model, and the interventions to run it with, in every pass.

  Raises:
    ValueError: the direction is 0, or there is no such way.
  """
  if way not in WAYS:
    raise ValueError(f'A direction is taken out by one of {WAYS}, not {way!r}.')
  direction = jnp.asarray(direction, jnp.float32)
  embeddings = gj.ablate_direction(
    model.config, 'resid_pre', direction, layers=0
  )
  weights = model.weights()
  for matrix, norm in (('wo', 'post_attn_norm'), ('down', 'post_mlp_norm')):
    gain = 1 + weights[norm].astype(jnp.float32)  # [L, D]
    read = direction * (gain if way == 'exact' else jnp.ones_like(gain))
    weights[matrix] = _without(weights[matrix], read)
  edited = gj.Decoder(model.config, weights)
  return edited, {'resid_pre': (embeddings,)}


@jax.jit
def _without(weight, directions):
  """weight [L, D, ...] with its outputs orthogonal to directions [L, D]."""

  def of_layer(args):
    matrix, direction = args
    norm = jnp.linalg.norm(direction)
    # A norm with no gain along the direction writes none of it anyway.
    unit = direction / jnp.where(norm > 0, norm, 1)
    flat = matrix.reshape(matrix.shape[0], -1).astype(jnp.float32)
    along = jnp.einsum('D,DI->I', unit, flat, precision='highest')
    kept = flat - unit[:, None] * along
    return kept.reshape(matrix.shape).astype(matrix.dtype)

  # One layer at a time: in float32, all of them could be too much.
  return lax.map(of_layer, (weight, directions))
