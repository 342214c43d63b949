"""Entities by what a model knows of them, in three parts each."""

from collections.abc import Mapping, Sequence
import dataclasses

from experiments.entities.entity import Entity
from experiments.entities.labels import Classes
from experiments.entities.splits import Split, split

_CLASSES = ('known', 'unknown')


@dataclasses.dataclass(frozen=True)
class People:
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


def split_classes(
  entities: Mapping[str, Sequence[Entity]], classes: Mapping[str, Classes]
) -> People:
  """Splits the known and the unknown entities of every type.

  Args:
    entities: Type -> entities.
    classes: Type -> names by class; those of no entity here are left out.

  Raises:
    ValueError: a class of a type is too small to split.
  """
  splits = {}
  for kind, found in entities.items():
    by_name = {entity.name: entity for entity in found}
    for label in _CLASSES:
      names = getattr(classes[kind], label)
      splits[kind, label] = split(
        [by_name[name] for name in names if name in by_name],
        what=f'{label} entities of type {kind!r}',
      )
  return People(splits)
