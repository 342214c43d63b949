"""Keys and values of tokens already seen."""

import dataclasses

import jax
import jax.numpy as jnp

from gemma_jax import sharding
from gemma_jax.config import Gemma2Config


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Cache:
  """Key/value cache; every layer keeps all positions.

  Attributes:
    k: [L, B, K, S, H], rotated keys. The heads come before the slots, so that
      the products of attention need no transposition.
    v: [L, B, K, S, H].
    positions: int32 [B, S]; -1 marks an empty slot, which no query sees.
    length: int32 scalar, slots written so far; the same for all rows, a row's
      padding takes slots too.
  """

  k: jax.Array
  v: jax.Array
  positions: jax.Array
  length: jax.Array

  @classmethod
  def empty(
    cls, config: Gemma2Config, batch: int, size: int, dtype=jnp.float32
  ) -> 'Cache':
    """A cache with `size` free slots for each of `batch` rows."""
    shape = (
      config.num_layers,
      batch,
      config.num_kv_heads,
      size,
      config.head_dim,
    )
    # Two buffers: one could not be donated as both.
    k, v = (
      sharding.constrain(jnp.zeros(shape, dtype), 'LBKSH') for _ in range(2)
    )
    return cls(
      k=k,
      v=v,
      positions=jnp.full((batch, size), -1, jnp.int32),
      length=jnp.zeros((), jnp.int32),
    )
