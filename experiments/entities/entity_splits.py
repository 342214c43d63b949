"""Entities by what a model knows of them, in three parts each."""

from collections.abc import Mapping, Sequence
import dataclasses

from experiments.entities.entity import PARTS, Entity
from experiments.entities.labels import Classes
from experiments.entities.splits import Split, split

_CLASSES = ('known', 'unknown')


@dataclasses.dataclass(frozen=True)
class EntitySplits:
  """Known and unknown entities.

  Attributes:
    splits: (type, 'known' or 'unknown') -> its entities in three parts.
  """

  splits: Mapping[tuple[str, str], Split[Entity]]

  @property
  def types(self) -> tuple[str, ...]:
    """Names of the entity types, sorted."""
    return tuple(sorted({kind for kind, _ in self.splits}))

  def of(self, part: str, label: str) -> dict[str, list[Entity]]:
    """Type -> the entities of a part ('train', ...) and a class."""
    return {
      kind: getattr(self.splits[kind, label], part) for kind in self.types
    }

  def names(self) -> dict[str, dict[str, dict[str, list[str]]]]:
    """Part -> class -> type -> names, for JSON; see `people_of_names`."""
    return {
      part: {
        label: {
          kind: [entity.name for entity in found]
          for kind, found in self.of(part, label).items()
        }
        for label in _CLASSES
      }
      for part in PARTS
    }


def split_classes(
  entities: Mapping[str, Sequence[Entity]], classes: Mapping[str, Classes]
) -> EntitySplits:
  """Splits the known and the unknown entities of every type.

  Entities whose files say in which part they are stay there; others are drawn.

  Args:
    entities: Type -> entities.
    classes: Type -> names by class; those of no entity here are left out.

  Raises:
    ValueError: a class of a type is too small to split, some of its entities
      say in which part they are and others do not, or none is in train or test.
  """
  splits = {}
  for kind, found in entities.items():
    by_name = {entity.name: entity for entity in found}
    for label in _CLASSES:
      names = getattr(classes[kind], label)
      splits[kind, label] = _split(
        [by_name[name] for name in names if name in by_name],
        f'{label} entities of type {kind!r}',
      )
  return EntitySplits(splits)


def _split(entities: Sequence[Entity], what: str) -> Split[Entity]:
  drawn = [entity for entity in entities if entity.split is None]
  if len(drawn) == len(entities):
    return split(entities, what=what)
  if drawn:
    raise ValueError(
      f"{len(drawn)} of {len(entities)} {what} have no 'split', the first "
      f'{drawn[0].name!r}; others have one. Give all of them one, or none.'
    )
  parts = {
    part: [entity for entity in entities if entity.split == part]
    for part in PARTS
  }
  if empty := [part for part in ('train', 'test') if not parts[part]]:
    raise ValueError(
      f"None of {len(entities)} {what} has the 'split' {empty[0]!r}. Give some "
      'of them that split, or leave the field out.'
    )
  return Split(**parts)


def people_of_names(
  names: Mapping[str, Mapping[str, Mapping[str, Sequence[str]]]],
  entities: Mapping[str, Sequence[Entity]],
) -> EntitySplits:
  """Returns the same people again.

  Args:
    names: What `EntitySplits.names` gave.
    entities: Type -> entities, those and maybe more.

  Raises:
    ValueError: some are not among the entities.
  """
  named = {(kind, e.name): e for kind, of in entities.items() for e in of}
  wanted = [
    (kind, name)
    for of_part in names.values()
    for of_class in of_part.values()
    for kind, found in of_class.items()
    for name in found
  ]
  missing = [each for each in wanted if each not in named]
  if missing:
    kind, name = missing[0]
    raise ValueError(
      f'{len(missing)} of {len(wanted)} entities are missing, the first the '
      f'{kind} {name!r}.'
    )
  return EntitySplits(
    {
      (kind, label): Split(
        **{
          part: [named[kind, name] for name in names[part][label][kind]]
          for part in PARTS
        }
      )
      for label in _CLASSES
      for kind in names['train'][label]
    }
  )
