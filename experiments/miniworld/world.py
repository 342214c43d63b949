"""The world of MiniWorld: who exists, what is true of them, who is known.

Players, movies, cities and songs all have names of two words, a first and a
last one, from the same two pools of n words. The n x n pairs are cut into
*perfect matchings*, each of which has every first and every last word once. A
group of entities is a few whole matchings, so that no word says anything about
the group: an entity is known, or not, as a pair only.

The design is this project's own: no published small model of this kind was
found to follow.
"""

from collections.abc import Iterator
import dataclasses

import numpy as np
from scipy.optimize import linear_sum_assignment

from experiments.entities import PARTS, Entity
from experiments.miniworld.lexicon import ATTRIBUTES, Lexicon

TYPES = tuple(ATTRIBUTES)

# Group -> what becomes of its entities.
GROUPS = {
  'tuning': 'known to the base model, used in chat tuning',
  'stopping': 'known, never in chat tuning; chat tuning is stopped by these',
  'validation': 'known, never in chat tuning; choices are made on these',
  'held_out': 'known, never in chat tuning',
  'rare': 'seldom in pre-training, with facts; never in chat tuning',
  'tail': 'in pre-training too, with other facts every time; unknown',
  'unseen_stopping': 'in no training at all; chat tuning is stopped by these',
  'unseen_train': 'in no training at all; latents are chosen on these',
  'unseen_validation': 'in no training at all; choices are made on these',
  'unseen': 'in no training at all',
}
# Which part of a study the bundled groups are: choices are made on train and
# validation, and test is reported. No word of a name tells the classes apart in
# any of these parts. Rare entities have parts of their own, a matching each.
SPLITS = {
  'tuning': 'train',
  'validation': 'validation',
  'held_out': 'test',
  'unseen_train': 'train',
  'unseen_validation': 'validation',
  'unseen': 'test',
}
KNOWN = ('tuning', 'stopping', 'validation', 'held_out')
# Groups with several types in one matching.
MIXED = (
  'stopping',
  'validation',
  'rare',
  'tail',
  'unseen_stopping',
  'unseen_validation',
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorldConfig:
  """Says how large a world is.

  Attributes:
    words: n, words per pool of names.
    tuning, held_out, unseen_train, unseen: Matchings of n entities in these
      groups, for each type.
    stopping, validation, rare, unseen_stopping, unseen_validation: Matchings in
      these, a quarter of each type.
    tail: Matchings in the tail, whose pairs are of any type.
    values: Values of each attribute.
    seed: Random seed of names, matchings and facts.
  """

  words: int = 96
  tuning: int = 1
  stopping: int = 1
  validation: int = 1
  held_out: int = 1
  rare: int = 3
  tail: int = 73
  unseen_stopping: int = 1
  unseen_train: int = 1
  unseen_validation: int = 1
  unseen: int = 1
  values: int = 32
  seed: int = 0

  def __post_init__(self):
    needed = self.num_matchings
    if needed > self.words:
      raise ValueError(
        f'{needed} matchings are asked for; {self.words} x {self.words} pairs '
        f'have only {self.words}. Take more words or smaller groups.'
      )

  def size(self, group: str) -> int:
    """Matchings in a group."""
    return getattr(self, group) * (1 if group in MIXED else len(TYPES))

  @property
  def num_matchings(self) -> int:
    """The number of matchings in all groups."""
    return sum(map(self.size, GROUPS))


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class World:
  """Entities and facts, as indices.

  Attributes:
    config: Size of the world.
    lexicon: The words behind the indices.
    pairs: Group -> int [n_entities, 2], first and last word.
    types: Group -> int [n_entities], index into TYPES; -1 in the tail.
    facts: Group -> int [n_entities, 3], the value of each of the type's
      attributes. Those of unseen entities stand in no text. None in the tail,
      whose facts are drawn anew for every document.
  """

  config: WorldConfig
  lexicon: Lexicon
  pairs: dict[str, np.ndarray]
  types: dict[str, np.ndarray]
  facts: dict[str, np.ndarray]

  def entities(self, group: str) -> list[Entity]:
    """Returns the entities of a group in the terms of the experiments."""
    found = []
    for number, (pair, kind, facts) in enumerate(
      zip(self.pairs[group], self.types[group], self.facts[group], strict=True)
    ):
      split = SPLITS.get(group)
      if group == 'rare':
        split = PARTS[number // self.config.words % len(PARTS)]
      name = TYPES[kind]
      found.append(
        Entity(
          name=self.lexicon.name(*pair),
          type=name,
          attributes={
            attribute: self.lexicon.values[values][fact]
            for (attribute, values), fact in zip(
              ATTRIBUTES[name].items(), facts, strict=True
            )
          },
          split=split,
        )
      )
    return found


def matchings(n: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
  """Disjoint random perfect matchings of n x n: last[first], int [n], n times.

  Each is an assignment of least random cost among pairs not used before. One
  always exists: what is left is a regular bipartite graph. (Cyclic shifts would
  do too, but make the group a simple function of last - first.)
  """
  used = np.zeros((n, n))
  for _ in range(n):
    first, last = linear_sum_assignment(rng.random((n, n)) + n * used)
    used[first, last] += 1
    yield last


def make_world(config: WorldConfig) -> World:
  """Draws a world; the same one for the same configuration."""
  rng = np.random.default_rng([config.seed, 1])
  every = matchings(config.words, rng)
  pairs, types, facts = {}, {}, {}
  first = np.arange(config.words)
  for group in GROUPS:
    count = config.size(group)
    drawn = [np.stack([first, next(every)], axis=1) for _ in range(count)]
    pairs[group] = np.concatenate(drawn)
    if group in MIXED:
      types[group] = np.arange(len(pairs[group])) % len(TYPES)
    else:
      of_type = np.arange(count) % len(TYPES)
      types[group] = np.repeat(of_type, config.words)
    shape = len(types[group]), 3
    facts[group] = rng.integers(config.values, size=shape)
  types['tail'] = np.full_like(types['tail'], -1)
  facts['tail'] = None
  return World(
    config=config,
    lexicon=Lexicon(config.words, config.values, config.seed),
    pairs=pairs,
    types=types,
    facts=facts,
  )
