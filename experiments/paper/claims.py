"""What was published, as data."""

from collections.abc import Mapping
import dataclasses
import pathlib

from gemma_jax import json_files

_FOLDER = pathlib.Path(__file__).parent / 'claims'
# MiniWorld's claims are what must hold there by construction, or was set as a
# goal before anything was measured.
FAMILIES = ('miniworld', 'gemma-2-2b', 'gemma-2-9b', 'gpt2')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Claim:
  """One number of the paper, or one bound.

  Attributes:
    section: Heading it is shown under.
    what: What it is of, in words, with site and layer.
    published: A number; a text such as a latent's name; or None if it is only
      bounded.
    low: Lower bound of ours; None for no bound. For a published number it
      allows for what cannot be equal, such as other samples.
    high: Upper bound of ours, likewise.
    source: Where the number is from.
    experiment: Name of the binary whose results have ours; '' if nothing here
      can make it, and `note` says why.
    at: Path of our number there, see `find`.
    scale: Factor by which ours is in the unit of the published number.
    note: What to know when reading the comparison.
  """

  section: str
  what: str
  source: str
  published: float | str | None = None
  low: float | None = None
  high: float | None = None
  experiment: str = ''
  at: str = ''
  scale: float = 1.0
  note: str = ''

  def __post_init__(self):
    if bool(self.experiment) != bool(self.at):
      raise ValueError(
        f'{self.what!r} needs both an experiment and a path, or neither.'
      )
    if not self.experiment and not self.note:
      raise ValueError(f'{self.what!r} is not made here and does not say why.')
    if (self.published, self.low, self.high) == (None, None, None):
      raise ValueError(f'{self.what!r} claims nothing.')


def read_claims(family: str) -> list[Claim]:
  """Reads the claims about a model family.

  Raises:
    ValueError: there is no such family, or its file is malformed.
  """
  if family not in FAMILIES:
    raise ValueError(
      f'There are no claims about {family!r}; there are some about '
      f'{", ".join(FAMILIES)}.'
    )
  file = _FOLDER / f'{family}.json'
  found = json_files.read_json(file, list)
  fields = {field.name for field in dataclasses.fields(Claim)}
  for number, one in enumerate(found):
    if not isinstance(one, Mapping) or not set(one) <= fields:
      raise ValueError(
        f'{file}, claim {number}: expected some of {sorted(fields)}, got {one}.'
      )
  return [Claim(**one) for one in found]
