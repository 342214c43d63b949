"""Sums in float32 that lose nothing that matters: pairs of numbers.

A pair is a value `high + low` of about 48 bits. Sums are kept so on the device,
where float64 is slow or absent, and become float64 when they are read. The
error of every float32 addition is found exactly and carried (Knuth, The Art of
Computer Programming, vol. 2, section 4.2.2, theorem B).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Pair(NamedTuple):
  """high + low, float32 arrays of one shape; |low| is at most an ulp of high.

  Whole numbers are exact up to 2**48.
  """

  high: jax.Array
  low: jax.Array


def pair(x: jax.Array) -> Pair:
  """x as a pair; whole numbers must be below 2**24, as in float32."""
  high = x.astype(jnp.float32)
  return Pair(high, jnp.zeros_like(high))


def add(a: Pair, b: Pair) -> Pair:
  """a + b."""
  high, low = _two_sum(a.high, b.high)
  return Pair(*_two_sum(high, low + (a.low + b.low)))


def scale(a: Pair, factor: jax.Array) -> Pair:
  """a * factor, rounded as float32 is."""
  return Pair(*_two_sum(a.high * factor, a.low * factor))


def total(x: jax.Array | Pair, axis: int) -> Pair:
  """Returns the sum over an axis, in additions of pairs.

  Args:
    x: float32, or a pair.
    axis: Summed over.
  """
  x = x if isinstance(x, Pair) else pair(x)
  zero = np.float32(0)
  sums = jax.lax.reduce(
    tuple(x),
    (zero, zero),
    lambda a, b: tuple(add(Pair(*a), Pair(*b))),
    dimensions=(axis % x.high.ndim,),
  )
  return Pair(*sums)


def value(a: Pair) -> np.ndarray:
  """float64, on the host."""
  high, low = jax.device_get(a)
  return np.asarray(high, np.float64) + np.asarray(low, np.float64)


def _two_sum(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns the rounded sum, and what the rounding lost."""
  s = a + b
  b_used = s - a
  return s, (a - (s - b_used)) + (b - b_used)
