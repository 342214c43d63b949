"""A short name of the values of arrays, to tell weights and data apart.

It is no cryptographic digest: it tells other data by accident, not by intent.
It is computed where the arrays are, on a mesh too.
"""

import hashlib
import json

import jax
import jax.numpy as jnp


def fingerprint(tree, dtype=None) -> str:
  """Sixteen hexadecimal digits that depend on every bit of a pytree.

  Args:
    tree: A pytree of arrays; names, shapes and dtypes count too.
    dtype: Rounds floating-point arrays to it first, so that a model has one
      name whichever dtype it was loaded in.
  """
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  found = []
  for path, leaf in leaves:
    leaf = jnp.asarray(leaf)
    if dtype is not None and jnp.issubdtype(leaf.dtype, jnp.floating):
      leaf = leaf.astype(dtype)
    name = jax.tree_util.keystr(path)
    found.append([name, str(leaf.dtype), leaf.shape, int(_sum_of_bits(leaf))])
  return hashlib.sha256(json.dumps(found).encode()).hexdigest()[:16]


@jax.jit
def _sum_of_bits(array) -> jax.Array:
  """Returns the bits of the values, each times its odd place, modulo 2^32."""
  if jnp.issubdtype(array.dtype, jnp.floating):
    size = array.dtype.itemsize * 8
    array = jax.lax.bitcast_convert_type(array, f'uint{size}')
  places = jnp.arange(array.size, dtype=jnp.uint32).reshape(array.shape)
  return (array.astype(jnp.uint32) * (2 * places + 1)).sum(dtype=jnp.uint32)
