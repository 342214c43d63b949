"""What was published, as data."""

from collections.abc import Mapping
import dataclasses
import pathlib
import re

from gemma_jax import json_files

_FOLDER = pathlib.Path(__file__).parent / 'claims'
# MiniWorld's claims say when they were set: before or after the results of the
# world that is bundled now, WORLD, were seen. What was set for an earlier world
# is "before", even if that world's results were known.
WORLD = 'MiniWorld as of 2026-12-01'
# What stands for the commit of a change that is not committed yet.
PENDING = 'pending'
WHEN = ('before', 'after')
# Rows of the last two kinds are listed apart, and are not counted: an identity
# is true of any model, and the world was made so that what is true by
# construction holds.
RESULT, IDENTITY, CONSTRUCTION = 'result', 'identity', 'construction'
KINDS = (RESULT, IDENTITY, CONSTRUCTION)
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
    set: One of WHEN, for MiniWorld's; '' for published numbers.
    commit: Commit that last changed the bounds or `what`, in seven digits, or
      PENDING; likewise.
    kind: One of KINDS.
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
  set: str = ''
  commit: str = ''
  kind: str = RESULT

  def __post_init__(self):
    if bool(self.experiment) != bool(self.at):
      raise ValueError(
        f'{self.what!r} needs both an experiment and a path, or neither.'
      )
    if not self.experiment and not self.note:
      raise ValueError(f'{self.what!r} is not made here and does not say why.')
    if (self.published, self.low, self.high) == (None, None, None):
      raise ValueError(f'{self.what!r} claims nothing.')
    if self.kind not in KINDS:
      raise ValueError(
        f'{self.what!r} is of kind {self.kind!r}; expected one of '
        f'{", ".join(KINDS)}.'
      )


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
  claims = [Claim(**one) for one in found]
  for claim in claims if family == 'miniworld' else ():
    if claim.set not in WHEN or not re.fullmatch(
      f'[0-9a-f]{{7}}|{PENDING}', claim.commit
    ):
      raise ValueError(
        f'{file}, {claim.what!r}: expected "set" to be one of '
        f'{", ".join(WHEN)}, "commit" seven digits of a commit or '
        f'{PENDING!r}, got {claim.set!r} and {claim.commit!r}.'
      )
  return claims
