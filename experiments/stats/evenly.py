"""Some of many items, as many of each kind as there is room for."""

from collections.abc import Hashable, Sequence

import numpy as np


def take_evenly(
  kinds: Sequence[Hashable], most: int, rng: np.random.Generator
) -> np.ndarray:
  """Chooses items at random, one of each kind before a second of any.

  Args:
    kinds: The kind of each of n items.
    most: How many to choose; all of them if there are no more.
    rng: Decides which of a kind, and in which order kinds come.

  Returns:
    int [min(n, most)], numbers of items in the order in which they were taken.
  """
  order = rng.permutation(len(kinds))
  seen: dict[Hashable, int] = {}
  turns = []
  for item in order:
    seen[kinds[item]] = turn = seen.get(kinds[item], -1) + 1
    turns.append(turn)
  return order[np.argsort(turns, kind='stable')][:most]
