"""Which latents say "known" and which say "unknown", on every type at once.

A latent's score is the lowest over entity types of a difference between the
classes, by one of `criteria.CRITERIA`; the best of all latents of all SAEs are
chosen ("MaxMin", arXiv 2411.14257), after those that fire often on plain text
have been left out. Choose on train, and report on test (`held_out_rates.py`).
"""

from collections.abc import Sequence
import dataclasses

import numpy as np

from experiments.latents.class_sums import ClassSums
from experiments.latents.labelled import CLASSES, check_classes
from experiments.latents.ranking import LatentId, Ranked, rank
from experiments.latents.scores import mean_ranks, separation

MAX_TEXT_FREQUENCY = 0.02


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chosen:
  """A latent that was chosen, and why.

  Attributes:
    id: LatentId.
    label: 'known' or 'unknown'.
    score: The lowest over types, which it was ranked by.
    scores: Type -> score.
    mean_score: Mean over types.
    mean_rank: Mean over types of its rank among all latents, from 1.
    text_frequency: On plain text; None without any.
    tied: How many other candidates have the same score.
  """

  id: LatentId
  label: str
  score: float
  scores: dict[str, float]
  mean_score: float
  mean_rank: float
  text_frequency: float | None
  tied: int

  def to_dict(self) -> dict:
    """Returns a dict for JSON."""
    return {
      **dataclasses.asdict(self),
      'id': str(self.id),
      **self.id._asdict(),
    }


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextFilter:
  """Holds what the filter of plain text did.

  Attributes:
    applied: True if latents were left out by it.
    below: Candidates fire on a smaller share of positions than this.
    n: Positions of plain text.
    removed: How many latents it left out, of all.
    num_latents: How many there are.
    note: In words.
  """

  applied: bool
  below: float | None
  n: int
  removed: int
  num_latents: int
  note: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Selection:
  """The latents that were chosen.

  Attributes:
    split: On which entities.
    criterion: One of criteria.CRITERIA.
    known, unknown: The best latents of each label, best first.
    text_filter: TextFilter.
    unfiltered: Label -> the best without the filter.
    n: Type -> label -> entities.
    warnings: What to say beside them.
  """

  split: str
  criterion: str
  known: tuple[Chosen, ...]
  unknown: tuple[Chosen, ...]
  text_filter: TextFilter
  unfiltered: dict[str, Ranked]
  n: dict[str, dict[str, int]]
  warnings: tuple[str, ...]

  def of(self, label: str) -> tuple[Chosen, ...]:
    """Returns the latents of a label."""
    return {'known': self.known, 'unknown': self.unknown}[label]

  @property
  def best(self) -> dict[str, LatentId]:
    """Label -> its best latent."""
    return {label: self.of(label)[0].id for label in CLASSES}


def text_filter(
  sums: Sequence[ClassSums], below: float | None = MAX_TEXT_FREQUENCY
) -> tuple[TextFilter, list[np.ndarray]]:
  """Returns which latents are rare enough on plain text.

  Args:
    sums: Sums of each SAE.
    below: Keep latents that fire on a smaller share of positions; None keeps
      all of them.

  Returns:
    What was done, and bool [F] for each SAE: which latents are kept.

  Raises:
    ValueError: some SAEs have plain text, others none.
  """
  n = {one.text_n for one in sums}
  if len(n) > 1:
    raise ValueError(
      f'SAEs have {sorted(n)} positions of plain text; harvest the same text '
      'for all of them.'
    )
  (n,) = n
  keep = [np.ones(one.width, bool) for one in sums]
  applied = below is not None and n > 0
  if applied:
    keep = [one.text_frequency < below for one in sums]
    note = (
      f'Latents that fire on {100 * below:.3g} % of plain text or more were '
      'left out.'
    )
  elif below is None:
    note = 'The filter of plain text is switched off.'
  else:
    note = (
      'No plain text was given, so latents were not filtered by how often '
      'they fire on it: chosen ones may be general.'
    )
  return TextFilter(
    applied=applied,
    below=below,
    n=n,
    removed=sum(int((~kept).sum()) for kept in keep),
    num_latents=sum(one.width for one in sums),
    note=note,
  ), keep


def select(
  sums: Sequence[ClassSums],
  scores: Sequence[np.ndarray] | None = None,
  *,
  criterion: str = 'frequency',
  split: str = 'train',
  k: int = 10,
  max_text_frequency: float | None = MAX_TEXT_FREQUENCY,
  at_least: int = 5,
) -> Selection:
  """Chooses k latents for known and k for unknown entities.

  Args:
    sums: Sums of each SAE, over the entities to select on: train, or all of
      them where the published numbers are reproduced (paper.md, 10.1 no. 2).
    scores: Score of each SAE's latents by the criterion, float [E, F], above 0
      for known entities (`criteria.scores_of`); None is that of the firing
      frequencies in the sums.
    criterion: What the scores are, one of criteria.CRITERIA.
    split: What these entities are called.
    k: How many latents of each label.
    max_text_frequency: See `text_filter`.
    at_least: Entities that every class of every type must have.

  Raises:
    ValueError: there is no SAE, they were summed over different entities, a
      class has too few of them, no latent is rare enough on plain text, or see
      `rank`.
  """
  if not sums:
    raise ValueError('There is no SAE to select latents of.')
  first = sums[0]
  for one in sums:
    if one.types != first.types or not np.array_equal(one.n, first.n):
      raise ValueError(
        f'Sums of {one.site} of layer {one.layer} are over other entities than '
        f'those of {first.site} of layer {first.layer}: {one.n.tolist()} of '
        f'{one.types}, {first.n.tolist()} of {first.types}.'
      )
  check_classes(first.types, first.n, split, at_least)
  if scores is None:
    scores = [separation(one) for one in sums]
  filtered, keep = text_filter(sums, max_text_frequency)
  if filtered.removed == filtered.num_latents:
    raise ValueError(
      f'None of {filtered.num_latents:,} latents fires on less than '
      f'{max_text_frequency:.3g} of {filtered.n:,} positions of plain text. '
      'Raise the limit, switch the filter off, or take sparser SAEs.'
    )
  where = [one.where for one in sums]
  by_place = dict(zip(where, range(len(sums)), strict=True))
  chosen, unfiltered = {}, {}
  for label in CLASSES:
    sign = 1 if label == CLASSES[0] else -1
    own = [sign * score for score in scores]
    ranks = mean_ranks(own)
    lowest = [score.min(axis=0) for score in own]
    unfiltered[label] = rank(where, lowest, 1)[0]
    chosen[label] = []
    for found in rank(where, lowest, k, keep):
      s, j = by_place[found.id[:2]], found.id.latent
      mine = own[s][:, j]
      chosen[label].append(
        Chosen(
          id=found.id,
          label=label,
          score=found.score,
          scores=dict(zip(sums[s].types, mine.tolist(), strict=True)),
          mean_score=float(mine.mean()),
          mean_rank=float(ranks[s][j]),
          text_frequency=(
            float(sums[s].text_frequency[j]) if filtered.n else None
          ),
          tied=found.tied,
        )
      )
  n = {
    name: dict(zip(CLASSES, row.tolist(), strict=True))
    for name, row in zip(first.types, first.n, strict=True)
  }
  return Selection(
    split=split,
    criterion=criterion,
    known=tuple(chosen['known']),
    unknown=tuple(chosen['unknown']),
    text_filter=filtered,
    unfiltered=unfiltered,
    n=n,
    warnings=tuple(_warnings(chosen)),
  )


def _warnings(chosen):
  for label in CLASSES:
    best = chosen[label][0]
    if best.score <= 0:
      yield (
        f'No latent tells {label} entities on every type: the best, {best.id}, '
        f'has a lowest score of {best.score:.3g}.'
      )
    if best.tied:
      yield (
        f'{best.tied} other latents have the same score as {best.id}, the best '
        f'for {label} entities; the first by layer and index was taken.'
      )
