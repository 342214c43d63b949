"""Taking a direction out of everything that a model writes to its stream.

Where a block has post-norms, as in Gemma 2, it adds g * y / rms(y), with y its
output before the norm and g = 1 + w the norm's gain. So, for a direction d,

  exact       y is kept orthogonal to g * d, which makes what is added
              orthogonal to d
  reference   y is kept orthogonal to d, as in the code of arXiv 2411.14257;
              with a gain, some of d is still written

Without a post-norm y itself is added, and the two are the same.

Both also take d out of the embeddings. Where the unembedding is the same matrix
it keeps d: so the matrix is left as it is, and the embeddings are projected
where they enter layer 0, which is the same thing. An embedding of its own, and
a table of positions beside it, are projected themselves.
"""

from collections.abc import Mapping

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

import gemma_jax as gj

WAYS = ('exact', 'reference')


def ablate_weights(
  model: gj.Decoder, direction: np.ndarray, way: str
) -> tuple[gj.Decoder, gj.Interventions]:
  """Returns a model that cannot write a direction.

  Args:
    model: Stacked. What reads the stream is shared.
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
  if not direction.any():
    raise ValueError('A direction to take out has norm 0; it names none.')
  config, weights = model.config, model.weights()
  read = jnp.broadcast_to(direction, (config.num_layers, config.d_model))
  for norm, names in (
    ('post_attn_norm', ('wo', 'bo')),
    ('post_mlp_norm', ('down', 'down_b')),
  ):
    gain = 1.0
    if config.post_norms and way == 'exact':
      gain = config.norm_offset + weights[norm].astype(jnp.float32)  # [L, D]
    for name in names:
      if name in weights:
        weights[name] = _without(weights[name], gain * read)
  if not config.tied:
    weights |= written_at_first(weights, direction)
    return gj.Decoder(config, weights), []
  embeddings = gj.ablate_direction('resid_pre', direction, layers=0)
  return gj.Decoder(config, weights), [embeddings]


def written_at_first(
  weights: Mapping[str, jax.Array], direction: np.ndarray
) -> dict[str, jax.Array]:
  """Embedding and, if there is one, table of positions without a direction."""
  tables = [name for name in ('embed', 'positions') if name in weights]
  return {name: without_direction(weights[name], direction) for name in tables}


def without_direction(rows: jax.Array, direction: np.ndarray) -> jax.Array:
  """Rows [n, D] made orthogonal to a direction [D]."""
  unit = jnp.asarray(direction, jnp.float32)
  unit = unit / jnp.linalg.norm(unit)
  x = rows.astype(jnp.float32)
  along = jnp.einsum('nD,D->n', x, unit, precision='highest')
  return (x - along[:, None] * unit).astype(rows.dtype)


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
