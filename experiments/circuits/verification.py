"""Is a set of components the circuit? Held, it must take the effect with it;
all others held, it must keep it.

Components are ranked, and the size of the set chosen, on some questions; what
is reported is of other questions, beside random sets of as many heads and MLPs.
"""

from collections.abc import Hashable, Sequence
import dataclasses

import numpy as np

from experiments.circuits.components import CLEAN, FREE, Component
from experiments.circuits.effects import set_effects
from experiments.circuits.tracing import Tracer
from experiments.stats.intervals import (
  cluster_bootstrap_mean,
  cluster_bootstrap_ratio,
)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Found:
  """A set, and how it was chosen.

  Attributes:
    components: The set, best first.
    reached: True if it reaches the goal; if not, it is all candidates.
    curve: A dict per size that was tried: 'size', and the shares of the effect
      that are 'kept' with all others held and 'left' with the set held.
  """

  components: list[Component]
  reached: bool
  curve: list[dict]


def ranked(
  components: Sequence[Component], effects: dict[str, np.ndarray]
) -> tuple[list[Component], np.ndarray]:
  """Returns components by size of their part in the effect; and that part [C].

  It is the mean of 'carried' and 'lost': what is redundant loses nothing when
  held, what needs others carries nothing alone.
  """
  part = (effects['carried'].mean(axis=1) + effects['lost'].mean(axis=1)) / 2
  order = np.argsort(-np.abs(part), kind='stable')
  return [components[i] for i in order], part[order]


def sizes(count: int) -> list[int]:
  """Returns sizes of sets to try: all small ones, then fewer and fewer."""
  tried = [0]
  while tried[-1] < count:
    tried.append(min(count, tried[-1] + max(1, tried[-1] // 4)))
  return tried


def find_set(tracer: Tracer, order: Sequence[Component], goal: float) -> Found:
  """Finds the smallest set that keeps, and takes away, a share of the effect.

  Args:
    tracer: The edit's tracer, with the questions to choose on.
    order: Candidates, best first.
    goal: The share, in (0, 1).
  """
  tried = sizes(len(order))
  sets = [order[:size] for size in tried]
  kept = share(set_effects(tracer, sets, CLEAN, 'Sets kept'), tracer.total)
  left = share(set_effects(tracer, sets, FREE, 'Sets held'), tracer.total)
  curve = [
    dict(zip(('size', 'kept', 'left'), point, strict=True))
    for point in zip(tried, kept, left, strict=True)
  ]
  for some, point in zip(sets, curve, strict=True):
    if point['kept'] >= goal and point['left'] <= 1 - goal:
      return Found(components=list(some), reached=True, curve=curve)
  return Found(components=list(order), reached=False, curve=curve)


def share(effects: np.ndarray, total: np.ndarray) -> list[float]:
  """Returns mean effects [n, Q] over the mean total [Q]."""
  return (effects.mean(axis=1) / total.mean()).tolist()


def random_sets(
  found: Sequence[Component],
  candidates: Sequence[Component],
  count: int,
  seed: int,
) -> list[list[Component]]:
  """Draws sets of as many heads and MLPs as `found` from all candidates."""
  rng = np.random.default_rng(seed)
  made = []
  for _ in range(count):
    some = []
    for is_mlp in (False, True):
      pool = [c for c in candidates if (c.head is None) == is_mlp]
      needed = sum((c.head is None) == is_mlp for c in found)
      some += [pool[i] for i in rng.permutation(len(pool))[:needed]]
    made.append(some)
  return made


def verify(
  tracer: Tracer,
  found: Sequence[Component],
  candidates: Sequence[Component],
  clusters: Sequence[Hashable],
  *,
  num_random: int = 20,
  seed: int = 0,
) -> tuple[dict, dict[str, np.ndarray]]:
  """Measures the set, its complement and random sets, on a tracer's questions.

  Args:
    tracer: The edit's tracer, with questions the set was not chosen on.
    found: The set.
    candidates: All components that the edit changes.
    clusters: [Q], the entity of each question.
    num_random: Number of random sets.
    seed: Random seed of the draws.

  Returns:
    'total', 'left' (the set held) and 'kept' (all others held) in logits,
    'share_left' and 'share_kept' of the total; 'random', the shares of random
    sets and p, how often one is as good as the set. And effects by name,
    [Q] or [n, Q].
  """
  random = random_sets(found, candidates, num_random, seed)
  left = set_effects(tracer, [found, *random], FREE, 'Verifying, held')
  kept = set_effects(tracer, [found, *random], CLEAN, 'Verifying, kept')
  estimate = lambda x: cluster_bootstrap_mean(x, clusters, seed).to_dict()
  ratio = lambda x: cluster_bootstrap_ratio(
    x, tracer.total, clusters, seed
  ).to_dict()
  others = {
    'left': share(left[1:], tracer.total),
    'kept': share(kept[1:], tracer.total),
  }
  mine = {
    'left': share(left[:1], tracer.total)[0],
    'kept': share(kept[:1], tracer.total)[0],
  }
  as_good = {
    'left': sum(x <= mine['left'] for x in others['left']),
    'kept': sum(x >= mine['kept'] for x in others['kept']),
  }
  results = {
    'size': len(found),
    'candidates': len(candidates),
    'total': estimate(tracer.total),
    'left': estimate(left[0]),
    'kept': estimate(kept[0]),
    'share_left': ratio(left[0]),
    'share_kept': ratio(kept[0]),
    'random': {
      name: {
        'n': num_random,
        'mean': float(np.mean(others[name])) if num_random else None,
        'low': min(others[name], default=None),
        'high': max(others[name], default=None),
        'p': (1 + as_good[name]) / (1 + num_random),
      }
      for name in ('left', 'kept')
    },
  }
  return results, {
    'left': left[0],
    'kept': kept[0],
    'random_left': left[1:],
    'random_kept': kept[1:],
  }
