"""Examples of random tokens for the tiny models of `tests/tiny.py`."""

import numpy as np

from gemma_jax.training import Example


def random_examples(number: int, seed: int = 0, longest: int = 9):
  """Prompts of 1 to `longest` tokens, completions of 1 to 5."""
  rng = np.random.default_rng(seed)
  draw = lambda n: rng.integers(3, 97, n).tolist()
  return [
    Example(draw(rng.integers(1, longest + 1)), draw(rng.integers(1, 6)))
    for _ in range(number)
  ]
