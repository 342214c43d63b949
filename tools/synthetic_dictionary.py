"""Activations whose true dictionary is known, to see what an SAE recovers.

Each activation is a sparse, positive combination of unit directions:

  x = sum_i s_i a_i d_i + noise,   s_i ~ Bernoulli(p_i),  a_i > 0

Frequencies p_i follow Zipf's law, as those of features of a language model
roughly do, scaled such that a given number of directions is active on average.
"""

import numpy as np


class SyntheticDictionary:
  """A random dictionary and samples from it; the same for the same seed.

  Attributes:
    directions: float32 [F, D], of norm 1.
    frequencies: float64 [F], falling; their sum is the mean L0.
  """

  def __init__(
    self,
    d_in: int = 64,
    num_latents: int = 256,
    *,
    mean_l0: float = 5.0,
    zipf_exponent: float = 1.0,
    noise: float = 0.01,
    seed: int = 0,
  ):
    """Draws the dictionary.

    Args:
      d_in: D.
      num_latents: F, true directions.
      mean_l0: Directions active per sample, on average.
      zipf_exponent: Direction i is active in proportion to i to this power,
        negated; at most half of the time.
      noise: Standard deviation of what is added to each of the D numbers.
      seed: Random seed of the dictionary; samples have their own.
    """
    rng = np.random.default_rng([seed, 0])
    directions = rng.standard_normal((num_latents, d_in))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    self.directions = directions.astype(np.float32)
    weights = np.arange(1, num_latents + 1) ** -float(zipf_exponent)
    self.frequencies = _capped(weights, mean_l0, 0.5)
    self._noise, self._seed = noise, seed

  def batches(self, batch_size: int, *, first_row: int = 0):
    """Endless float32 [batch_size, D]; `first_row` is a multiple of it."""
    F, D = self.directions.shape
    number = first_row // batch_size
    while True:
      rng = np.random.default_rng([self._seed, 1, number])
      active = rng.random((batch_size, F)) < self.frequencies
      sizes = rng.uniform(0.5, 1.5, (batch_size, F)).astype(np.float32)
      x = (active * sizes).astype(np.float32) @ self.directions
      noise = rng.standard_normal((batch_size, D), np.float32)
      yield x + np.float32(self._noise) * noise
      number += 1

  def recovered(self, decoder: np.ndarray) -> np.ndarray:
    """[F]: per true direction, the largest cosine with a row of `decoder`."""
    rows = decoder / np.linalg.norm(decoder, axis=1, keepdims=True)
    return (self.directions @ rows.T).max(axis=1)


def _capped(weights, total, most):
  """Numbers in proportion to weights, each at most `most`, of that sum."""
  capped = np.zeros(len(weights), bool)
  for _ in range(len(weights)):
    rest = total - most * capped.sum()
    values = np.where(capped, most, weights * rest / weights[~capped].sum())
    if (values <= most).all():
      return values
    capped |= values > most
  raise ValueError(
    f'{len(weights)} directions cannot have a mean L0 of {total}.'
  )
