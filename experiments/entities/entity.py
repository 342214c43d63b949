"""An entity: something with a name, a type and attributes."""

from collections.abc import Mapping
import dataclasses


@dataclasses.dataclass(frozen=True)
class Entity:
  """Something that a model may or may not know.

  Attributes:
    name: As prompts write it.
    type: 'player', 'movie', 'city' or 'song'.
    attributes: Attribute -> value, always a text: 'country' -> 'Mexico'. Lists
      are joined by ', ', places are 'Point(longitude latitude)'.
  """

  name: str
  type: str
  attributes: Mapping[str, str] = dataclasses.field(hash=False)
