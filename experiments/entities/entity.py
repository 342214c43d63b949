"""An entity: something with a name, a type and attributes."""

from collections.abc import Mapping
import dataclasses

# Parts that entities are split into; choices are made on the first two.
PARTS = ('train', 'validation', 'test')


@dataclasses.dataclass(frozen=True)
class Entity:
  """Something that a model may or may not know.

  Attributes:
    name: As prompts write it.
    type: 'player', 'movie', 'city' or 'song'.
    attributes: Attribute -> value, always a text: 'country' -> 'Mexico'. Lists
      are joined by ', ', places are 'Point(longitude latitude)'.
    split: One of PARTS, where the file says so; else None.
  """

  name: str
  type: str
  attributes: Mapping[str, str] = dataclasses.field(hash=False)
  split: str | None = None

  def __post_init__(self):
    if self.split not in (None, *PARTS):
      raise ValueError(
        f"'split' of {self.name!r} is {self.split!r}, expected one of "
        f'{", ".join(PARTS)}, or no such field.'
      )
