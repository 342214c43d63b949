"""Keys and values of tokens already seen."""

import dataclasses

import jax
from jax import lax
import jax.numpy as jnp

from gemma_jax import sharding
from gemma_jax.config import ModelConfig

Stack = jax.Array | tuple[jax.Array, ...]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Cache:
  """Key/value cache; every layer keeps all positions.

  Attributes:
    k: [L, B, K, S, H], rotated keys. The heads come before the slots, so that
      the products of attention need no transposition. For unstacked layers, L
      arrays [B, K, S, H].
    v: Values, in the same layout.
    positions: int32 [B, S]; -1 marks an empty slot, which no query sees.
    length: int32 scalar, slots written so far; the same for all rows, a row's
      padding takes slots too.
  """

  k: Stack
  v: Stack
  positions: jax.Array
  length: jax.Array

  @classmethod
  def empty(
    cls,
    config: ModelConfig,
    batch: int,
    size: int,
    dtype=jnp.float32,
    stacked: bool = True,
  ) -> 'Cache':
    """Returns a cache with `size` free slots for each of `batch` rows."""
    shape = (batch, config.num_kv_heads, size, config.head_dim)
    L = config.num_layers

    # Every array a buffer of its own: a shared one could not be donated.
    def zeros():
      if stacked:
        return sharding.constrain(jnp.zeros((L, *shape), dtype), 'LBKSH')
      return tuple(
        sharding.constrain(jnp.zeros(shape, dtype), 'BKSH') for _ in range(L)
      )

    return cls(
      k=zeros(),
      v=zeros(),
      positions=jnp.full((batch, size), -1, jnp.int32),
      length=jnp.zeros((), jnp.int32),
    )


def store(stack: Stack, new: jax.Array, layer, start: jax.Array):
  """Writes keys or values of one layer in place, at slots from `start`.

  Args:
    stack: Cache.k or Cache.v.
    new: [B, K, T, H].
    layer: Which layer; a Python int if `stack` is a tuple.
    start: int32 scalar.

  Returns:
    The stack with them, and that layer's array [B, K, S, H].
  """
  if isinstance(stack, tuple):
    new = new.astype(stack[layer].dtype)
    stored = lax.dynamic_update_slice_in_dim(stack[layer], new, start, axis=2)
    return (*stack[:layer], stored, *stack[layer + 1 :]), stored
  new = new[None].astype(stack.dtype)
  at = [jnp.asarray(i, jnp.int32) for i in (layer, 0, 0, start, 0)]
  stack = lax.dynamic_update_slice(stack, new, at)
  return stack, lax.dynamic_index_in_dim(stack, layer, keepdims=False)
