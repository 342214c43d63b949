"""Ranks of a few tokens among all, for many vectors and a large vocabulary.

It takes a rank only up to fifty to say whether a token is the likeliest, or
among the first fifty. So the vocabulary is read a piece at a time, and a vector
is done with once each of its tokens is known to be further down: most are after
the first piece. No array of all vectors and all tokens exists.
"""

import functools

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

# Vectors and tokens multiplied at once: 4 MB of products.
_VECTORS, _TOKENS = 128, 8192


def ranks(
  table: jax.Array, vectors: np.ndarray, tokens: np.ndarray, *, limit: int = 1
) -> np.ndarray:
  """Returns how many tokens have a larger product with a vector than these.

  0 is the likeliest. Of equal products the smaller token comes first, as with
  argmax.

  Args:
    table: [V, D], such as the embedding.
    vectors: float [m, D].
    tokens: int [m, k], those that are asked for; -1 fills up.
    limit: What is at least this is not counted further.

  Returns:
    int [m, k], at most the limit, which -1 has too.
  """
  tokens = np.asarray(tokens, np.int32)
  found = np.where(tokens >= 0, 0, limit)
  V, left = table.shape[0], np.arange(len(vectors))
  size = min(V, _TOKENS)
  for first in range(0, V, size):
    left = left[(found[left] < limit).any(1)]
    for start in range(0, len(left), _VECTORS):
      # Always as many, for one program: the last row fills up.
      rows = np.minimum(np.arange(start, start + _VECTORS), len(left) - 1)
      rows = left[rows]
      better = _better(
        table, vectors[rows], tokens[rows], jnp.int32(first), size=size
      )
      found[rows] = found[rows] + np.asarray(better)
  return np.minimum(found, limit)


@functools.partial(jax.jit, static_argnames='size')
def _better(table, vectors, tokens, first, *, size):
  """int32 [m, k]: tokens from `first` on, `size` at most, that come before."""
  start = jnp.minimum(first, table.shape[0] - size)
  piece = lax.dynamic_slice_in_dim(table, start, size).astype(jnp.float32)
  vectors = vectors.astype(jnp.float32)
  highest = lax.Precision.HIGHEST
  asked = table[jnp.maximum(tokens, 0)].astype(jnp.float32)  # [m, k, D]
  asked = jnp.einsum('mD,mkD->mk', vectors, asked, precision=highest)
  every = jnp.einsum('mD,VD->mV', vectors, piece, precision=highest)
  ids = start + jnp.arange(size)

  def one(token, score):  # [m]
    token, score = token[:, None], score[:, None]
    ahead = (every > score) | ((every == score) & (ids < token))
    return (ahead & (ids != token) & (ids >= first)).sum(1)

  found = [one(tokens[:, i], asked[:, i]) for i in range(tokens.shape[1])]
  return jnp.stack(found, axis=1)
