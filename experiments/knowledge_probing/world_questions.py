"""Questions about MiniWorld, whose truth is known.

Train, validation and test are the world's own groups: entities that the base
model's text holds, and pairs of names that it holds with other facts every
time, or not at all. No entity is in two of them.
"""

import pathlib

import numpy as np

from experiments.knowledge_probing.probe_records import Question
from experiments.miniworld.lexicon import ATTRIBUTES
from experiments.miniworld.sentences import QUESTIONS, spell
from experiments.miniworld.world import TYPES, World, WorldConfig, make_world
from experiments.stats.evenly import take_evenly
from gemma_jax import json_files

# Split -> groups of known and of unknown entities -> entities of each.
GROUPS = {
  'train': ('tuning', 'tail', 144),
  'validation': ('validation', 'unseen_validation', 48),
  'test': ('held_out', 'unseen', 96),
}


def bundled_world(folder: pathlib.Path) -> World:
  """Returns the world that a bundle's models were trained on."""
  recipe = json_files.read_json(folder / 'run.json')
  return make_world(WorldConfig(**recipe['world']))


def world_questions(world: World, seed: int = 0) -> list[Question]:
  """Questions about known and unknown entities in equal numbers.

  Every attribute of an entity is asked for. What text has about an unknown
  entity of 'train' changes from document to document, and nothing is said of
  those of 'validation' and 'test'; their answers are drawn at random, so that
  a right one is luck.

  Args:
    world: The world.
    seed: Random seed of the entities, of their types, and of such answers.
  """
  rng = np.random.default_rng([seed, 4])
  found = []
  for split, (known, unknown, count) in GROUPS.items():
    for group in (known, unknown):
      chosen = take_evenly(world.types[group].tolist(), count, rng)
      for number, i in enumerate(chosen):
        kind = world.types[group][i]
        kind = number % len(TYPES) if kind < 0 else kind
        facts = world.facts[group]
        if facts is None:
          facts = rng.integers(world.config.values, size=3)
        else:
          facts = facts[i]
        name = world.lexicon.name(*world.pairs[group][i])
        found += _about(world, name, kind, facts, split, group == known)
  return found


def _about(world, name, kind, facts, split, known) -> list[Question]:
  first, last = name.split()
  found = []
  for number, (attribute, pool) in enumerate(ATTRIBUTES[TYPES[kind]].items()):
    text = spell(QUESTIONS[0], TYPES[kind], number)
    found.append(
      Question(
        id=f'{name}/{attribute}',
        question=text.format(first=first, last=last),
        answers=(world.lexicon.values[pool][facts[number]],),
        relation=f'{TYPES[kind]}_{attribute}',
        entity=name,
        type=TYPES[kind],
        split=split,
        known=known,
      )
    )
  return found
