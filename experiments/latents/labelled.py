"""Entities with their labels, in the order of the rows of arrays about them."""

from collections.abc import Sequence
import dataclasses

import numpy as np

CLASSES = ('known', 'unknown')


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class LabelledEntities:
  """n entities of one split, each known or unknown.

  Attributes:
    types: E names of types, in the order of all tables.
    names: n names, as in the prompts.
    type_of: int [n], the index of each entity's type.
    known: bool [n].
  """

  types: tuple[str, ...]
  names: tuple[str, ...]
  type_of: np.ndarray
  known: np.ndarray

  def __post_init__(self):
    shape = (len(self.names),)
    if self.type_of.shape != shape or self.known.shape != shape:
      raise ValueError(
        f'There are {shape[0]} names, types of shape {self.type_of.shape} and '
        f'labels of shape {self.known.shape}; expected as many of each.'
      )
    if self.known.dtype != bool:
      raise ValueError(f'Labels must be bool, got {self.known.dtype}.')
    if shape[0] and not (
      0 <= self.type_of.min() and self.type_of.max() < len(self.types)
    ):
      raise ValueError(
        f'Types of entities must be 0 to {len(self.types) - 1}, got '
        f'{self.type_of.min()} to {self.type_of.max()}.'
      )

  def __len__(self) -> int:
    return len(self.names)

  def counts(self) -> np.ndarray:
    """int64 [E, 2], known and unknown entities of each type."""
    cells = self.type_of * 2 + ~self.known
    return np.bincount(cells, minlength=2 * len(self.types)).reshape(-1, 2)

  def balanced(self) -> np.ndarray:
    """float64 [n], weights by which all classes of all types weigh the same.

    They sum to n.
    """
    counts = self.counts()
    mine = counts[self.type_of, (~self.known).astype(int)]
    return len(self) / (mine * np.count_nonzero(counts))

  def take(self, which: np.ndarray) -> 'LabelledEntities':
    """Returns some of the entities, by indices or bool [n]."""
    numbers = np.arange(len(self))[which]
    return LabelledEntities(
      types=self.types,
      names=tuple(self.names[i] for i in numbers),
      type_of=self.type_of[numbers],
      known=self.known[numbers],
    )

  @classmethod
  def joined(cls, parts: Sequence['LabelledEntities']) -> 'LabelledEntities':
    """Returns several as one, in order; all have the same types."""
    if len({part.types for part in parts}) != 1:
      raise ValueError(f'Types differ: {[part.types for part in parts]}.')
    return cls(
      types=parts[0].types,
      names=tuple(name for part in parts for name in part.names),
      type_of=np.concatenate([part.type_of for part in parts]),
      known=np.concatenate([part.known for part in parts]),
    )


def check_classes(
  types: Sequence[str], counts: np.ndarray, split: str, at_least: int = 1
):
  """Raises ValueError unless every class of every type has enough entities.

  Args:
    types: E names.
    counts: int [E, 2], as of `LabelledEntities.counts`.
    split: What to call the data in the error.
    at_least: How many are enough.
  """
  for name, row in zip(types, counts, strict=True):
    for label, count in zip(CLASSES, row, strict=True):
      if count < at_least:
        said = 'no' if not count else f'only {count}'
        raise ValueError(
          f"Type '{name}' has {said} {label} entities in {split}; at least "
          f'{at_least} are needed for a score. Give more entities, labels of '
          'another model, or leave this type out.'
        )
