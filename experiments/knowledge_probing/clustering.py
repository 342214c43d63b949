"""Which sampled answers mean the same: clusters, as for semantic entropy.

Clustering is greedy (Kuhn et al. 2302.09664, the code of Farquhar et al. 2024):
the first answer without a cluster begins one, and every later answer without
one that is alike to it joins. Answers are compared with the first of a cluster
only, so that the order of samples matters where likeness is not transitive; it
is the order of their numbers.
"""

from collections.abc import Callable, Sequence
import functools

from experiments.knowledge_probing.informative import declines
from experiments.knowledge_probing.normalising import words

Alike = Callable[[str, str], bool]


def clusters(texts: Sequence[str], alike: Alike) -> tuple[int, ...]:
  """Returns the number of each text's cluster, counting from 0 by first
  members.

  Args:
    texts: In the order of samples.
    alike: Called as alike(first, later), the first of a cluster and a text that
      has none yet; need be neither transitive nor symmetric.
  """
  found = [-1] * len(texts)
  count = 0
  for i, first in enumerate(texts):
    if found[i] >= 0:
      continue
    found[i] = count
    for j in range(i + 1, len(texts)):
      if found[j] < 0 and alike(first, texts[j]):
        found[j] = count
    count += 1
  return tuple(found)


def normal_alike(a: str, b: str) -> bool:
  """Returns True if two texts are equal after normalising, or both decline."""
  return _meaning(a) == _meaning(b)


@functools.lru_cache(maxsize=1 << 16)
def _meaning(text) -> tuple[str, ...] | None:
  return None if declines(text) else words(text)
