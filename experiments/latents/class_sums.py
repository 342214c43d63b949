"""Sums over the entities of each type and class, for one SAE.

Harvesting sums over numbered groups of rows; here they get their names.
Letters: E entity types, 2 classes (known, unknown), F latents, D width of the
site.
"""

from collections.abc import Sequence
import dataclasses

import numpy as np

from experiments.activations import GroupSums
from experiments.latents.labelled import CLASSES

SPLITS = ('train', 'validation', 'test')


@dataclasses.dataclass(frozen=True)
class Groups:
  """Says which number harvesting gives to which rows.

  (split * E + type) * 2 + class; after all of these, plain text.

  Attributes:
    types: E names.
    splits: Names; one for rows that are harvested split by split.
  """

  types: tuple[str, ...]
  splits: tuple[str, ...] = SPLITS

  def number(self, type: str, label: str, split: str | None = None) -> int:
    """Returns the group of known or unknown entities of a type."""
    split = self.splits[0] if split is None else split
    cell = self.splits.index(split) * len(self.types) + self.types.index(type)
    return cell * 2 + CLASSES.index(label)

  @property
  def text(self) -> int:
    """Returns the group of plain text."""
    return 2 * len(self.types) * len(self.splits)

  @property
  def count(self) -> int:
    """Returns how many groups there are, plain text included."""
    return self.text + 1


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class ClassSums:
  """Holds what one SAE's latents do on entities of E types and two classes.

  Attributes:
    site, layer: What the SAE reads.
    types: E names.
    n: int64 [E, 2], entities.
    active: int64 [E, 2, F], on how many of them a latent fires.
    total: float64 [E, 2, F], sums of latents.
    squares: float64 [E, 2, F], sums of their squares.
    stream_total: float64 [E, 2, D], sums of the site's vectors.
    norm_total: float64 [E, 2], sums of their L2 norms.
    text_n: Positions of plain text; 0 if there is none.
    text_active: int64 [F], on how many of these a latent fires.
  """

  site: str
  layer: int
  types: tuple[str, ...]
  n: np.ndarray
  active: np.ndarray
  total: np.ndarray
  squares: np.ndarray
  stream_total: np.ndarray
  norm_total: np.ndarray
  text_n: int
  text_active: np.ndarray

  @property
  def width(self) -> int:
    """F."""
    return self.active.shape[-1]

  @property
  def where(self) -> tuple[str, int]:
    """Site and layer."""
    return self.site, self.layer

  @property
  def frequency(self) -> np.ndarray:
    """float64 [E, 2, F], shares of entities; NaN for an empty class."""
    return _share(self.active, self.n[..., None])

  @property
  def mean(self) -> np.ndarray:
    """float64 [E, 2, F], mean latents; NaN for an empty class."""
    return _share(self.total, self.n[..., None])

  @property
  def stream_mean(self) -> np.ndarray:
    """float64 [E, 2, D], mean vectors; NaN for an empty class."""
    return _share(self.stream_total, self.n[..., None])

  @property
  def text_frequency(self) -> np.ndarray:
    """float64 [F], the share of plain text's positions; NaN without any."""
    return _share(self.text_active, np.asarray(self.text_n))


def class_sums(
  sums: GroupSums,
  groups: Groups,
  splits: Sequence[str] | None = None,
  *,
  text: GroupSums | None = None,
  text_n: int | None = None,
) -> ClassSums:
  """Names the groups of an SAE's sums, and adds up splits.

  Args:
    sums: Sums of harvesting, with or without a group of plain text.
    groups: How its groups were numbered.
    splits: Which to add up; None is all of them.
    text: Text of one group, for plain text that was harvested by itself.
    text_n: What shares of plain text are of, if not the positions that were
      read: `HarvestRows.denominator` (paper.md, 10.1 no. 3).

  Raises:
    ValueError: the sums have another number of groups, plain text twice, or
      more positions of it than `text_n`.
  """
  if len(sums.n) not in (groups.text, groups.count):
    raise ValueError(
      f'Sums of {sums.site} of layer {sums.layer} have {len(sums.n)} groups; '
      f'{len(groups.types)} types in {len(groups.splits)} splits make '
      f'{groups.text}, and one more with plain text.'
    )
  own_text = len(sums.n) == groups.count and sums.n[groups.text] > 0
  if own_text and text is not None:
    raise ValueError('Plain text is given twice: as a group, and by itself.')
  chosen = [
    groups.splits.index(split)
    for split in (groups.splits if splits is None else splits)
  ]

  def of_classes(array):
    cells = array[: groups.text]
    cells = cells.reshape(len(groups.splits), -1, 2, *array.shape[1:])
    return cells[chosen].sum(axis=0)

  active = of_classes(sums.active)
  read, text_active = 0, np.zeros(active.shape[-1], np.int64)
  if text is not None:
    read, text_active = int(text.n.sum()), text.active.sum(axis=0)
  elif own_text:
    read, text_active = int(sums.n[groups.text]), sums.active[groups.text]
  if text_n is not None and text_n < read:
    raise ValueError(
      f'{read} positions of plain text were read, which is more than '
      f'text_n={text_n}.'
    )
  return ClassSums(
    site=sums.site,
    layer=sums.layer,
    types=groups.types,
    n=of_classes(sums.n),
    active=active,
    total=of_classes(sums.total),
    squares=of_classes(sums.squares),
    stream_total=of_classes(sums.stream_total),
    norm_total=of_classes(sums.norm_total),
    text_n=text_n if read and text_n is not None else read,
    text_active=text_active,
  )


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
  part, whole = np.broadcast_arrays(part, whole)
  share = np.full(part.shape, np.nan)
  return np.divide(part, whole, out=share, where=whole > 0)
