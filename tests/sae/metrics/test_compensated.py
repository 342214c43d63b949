"""Sums of pairs, against exact sums."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sae.metrics import compensated


@pytest.mark.parametrize('n', [1, 2, 3, 7, 64, 1001])
def test_a_sum_is_as_good_as_in_float64(n):
  rng = np.random.default_rng(n)
  x = rng.standard_normal((3, n)) * 10.0 ** rng.integers(-4, 5, (3, n))
  x = x.astype(np.float32)
  pair = jax.jit(lambda x: compensated.total(x, axis=-1))(x)
  want = [math.fsum(row) for row in x.astype(np.float64).tolist()]
  scale = np.abs(x).sum(axis=1)
  assert np.all(np.abs(compensated.value(pair) - want) < 1e-13 * scale)


def test_small_terms_survive_beside_a_large_sum():
  # In float32 each of these additions would be lost.
  def step(sum_so_far, x):
    return compensated.add(sum_so_far, compensated.pair(x)), None

  start = compensated.pair(jnp.float32(2**30))
  pair, _ = jax.jit(lambda: jax.lax.scan(step, start, jnp.full(10_001, 0.75)))()
  assert compensated.value(pair) == 2**30 + 10_001 * 0.75


def test_whole_numbers_are_exact_far_beyond_float32():
  big = compensated.pair(jnp.float32(2**24 - 1))
  for _ in range(20):
    big = compensated.add(big, big)
  big = compensated.add(big, compensated.pair(jnp.float32(1)))
  assert int(compensated.value(big)) == (2**24 - 1) * 2**20 + 1
