"""Prompts about entities: as they are, and changed so that little else changes.

  test          as the latents were found: "The player 'Michael Jordan'"
  mixed         first part of one known name, last word of another of its type
  reversed      last word first
  typo          one letter doubled in the last word
  wrong type    a known name as something it is not
  no type       "The 'Michael Jordan'"
  familiar      names that text has, and of which nothing can be known

A changed prompt remembers which entity of test it was made from, so that both
can be compared in pairs. What was changed must be made of ordinary tokens: a
tokenizer that spells it in single bytes has never seen it in training.
"""

from collections.abc import Collection, Mapping, Sequence
import dataclasses
import re
import zlib

import numpy as np

from experiments.entities import (
  Entity,
  EntitySplits,
  Prompt,
  activation_prompt,
  tokenize_prompt,
)
from experiments.latents import CLASSES, LabelledEntities
import gemma_jax as gj

TEST, FAMILIAR = 'test', 'familiar'
ALTERED = ('mixed', 'reversed', 'typo', 'wrong type', 'no type')
_BYTE = re.compile(r'<0x[0-9A-Fa-f]{2}>')


@dataclasses.dataclass(frozen=True, kw_only=True)
class PromptVariant:
  """Holds one prompt.

  Attributes:
    kind: TEST, FAMILIAR or one of ALTERED.
    entity: The entity with the name and type of the prompt.
    label: 'known' or 'unknown', of the entity of test it was made from.
    of: Number of that entity among those of test; -1 for FAMILIAR.
    prompt: The prompt.
  """

  kind: str
  entity: Entity
  label: str
  of: int
  prompt: Prompt


def labelled(
  people: EntitySplits, part: str
) -> tuple[list[Entity], LabelledEntities]:
  """Returns the entities of a part, known ones first, and their labels."""
  found = [
    (entity, label == 'known')
    for label in CLASSES
    for of_type in people.of(part, label).values()
    for entity in of_type
  ]
  types = people.types
  return [entity for entity, _ in found], LabelledEntities(
    types=types,
    names=tuple(entity.name for entity, _ in found),
    type_of=np.array([types.index(entity.type) for entity, _ in found]),
    known=np.array([known for _, known in found]),
  )


def make_prompts(
  people: EntitySplits,
  tokenizer: gj.Tokenizer,
  *,
  taken: Collection[str] = (),
  familiar: Sequence[Entity] = (),
  seed: int = 0,
) -> tuple[list[PromptVariant], dict[str, str]]:
  """Makes all prompts: those of test first, in the order of `labelled`.

  Args:
    people: The entities.
    tokenizer: The model's tokenizer.
    taken: Names that no changed name may be, because they are somebody's.
    familiar: Entities whose names text has; see the top of this file.
    seed: Random seed of the draws.

  Returns:
    The prompts; and kind -> how many could not be made, and why, in words.
  """
  entities, labels = labelled(people, TEST)
  shown = [
    PromptVariant(
      kind=TEST,
      entity=entity,
      label=CLASSES[0 if known else 1],
      of=i,
      prompt=activation_prompt(entity),
    )
    for i, (entity, known) in enumerate(
      zip(entities, labels.known, strict=True)
    )
  ]
  known = people.of(TEST, 'known')
  taken = set(taken) | _names(people)
  skipped = {}
  for kind in ALTERED:
    failed = {}
    for one in shown[: int(labels.known.sum())]:
      rng = np.random.default_rng([seed, zlib.crc32(kind.encode()), one.of])
      changed, why = _change(kind, one.entity, known, taken, tokenizer, rng)
      if why:
        failed[why] = failed.get(why, 0) + 1
        continue
      shown.append(
        PromptVariant(
          kind=kind,
          entity=changed,
          label='known',
          of=one.of,
          prompt=activation_prompt(changed, with_type=kind != 'no type'),
        )
      )
    if failed:
      skipped[kind] = '; '.join(f'{n} {why}' for why, n in failed.items())
  shown += [
    PromptVariant(
      kind=FAMILIAR,
      entity=entity,
      label='unknown',
      of=-1,
      prompt=activation_prompt(entity),
    )
    for entity in familiar
  ]
  return shown, skipped


def _names(people: EntitySplits) -> set[str]:
  return {
    entity.name
    for parts in people.splits.values()
    for part in (parts.train, parts.validation, parts.test)
    for entity in part
  }


def _change(kind, entity, known, taken, tokenizer, rng):
  """Returns the entity as `kind` has it, or None; and why not, or ''."""
  if kind == 'no type':
    return entity, ''
  if kind == 'wrong type':
    others = [each for each in known if each != entity.type]
    if not others:
      return None, 'there is only one type'
    other = others[rng.integers(len(others))]
    return dataclasses.replace(entity, type=other), ''
  first, _, last = entity.name.rpartition(' ')
  if kind == 'typo':
    return _typo(entity, tokenizer, taken, rng)
  if not first:
    return None, 'have one word'
  if kind == 'reversed':
    name = f'{last} {first}'
    if name in taken:
      return None, "are somebody else's, reversed"
    return dataclasses.replace(entity, name=name), ''
  lasts = [
    other.name.rpartition(' ')[2]
    for other in known[entity.type]
    if ' ' in other.name
  ]
  for i in rng.permutation(len(lasts)):
    name = f'{first} {lasts[i]}'
    if lasts[i] != last and name not in taken:
      return dataclasses.replace(entity, name=name), ''
  return None, 'could only be mixed to names of somebody'


def _typo(entity, tokenizer, taken, rng):
  """Doubles one inner letter of the last word: Jordan, Joordan."""
  name = entity.name
  start = name.rfind(' ') + 1
  places = [i for i in range(start, len(name)) if name[i].isalpha()]
  for place in rng.permutation(places[1:] or places):
    changed = name[:place] + name[place] + name[place:]
    renamed = dataclasses.replace(entity, name=changed)
    if changed not in taken and not in_bytes(tokenizer, renamed):
      return renamed, ''
  return None, 'have no typo made of ordinary tokens'


def in_bytes(tokenizer: gj.Tokenizer, entity: Entity) -> bool:
  """Returns True if any of the name is spelled in single bytes."""
  found = tokenize_prompt(tokenizer, activation_prompt(entity))
  spelled = tokenizer.token_strings(found.ids[slice(*found.entity)])
  return any(_BYTE.fullmatch(piece) for piece in spelled)


def by_kind(shown: Sequence[PromptVariant]) -> Mapping[str, np.ndarray]:
  """Returns kind -> the numbers of its prompts."""
  found = {}
  for i, one in enumerate(shown):
    found.setdefault(one.kind, []).append(i)
  return {kind: np.array(numbers) for kind, numbers in found.items()}
