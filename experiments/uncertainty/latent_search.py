"""Latents that fire on questions that the model will get wrong, or right.

A latent's score is the lowest over types of Welch's t between errors and
correct answers (arXiv 2411.14257, section 7). No filter of plain text.
"""

from collections.abc import Sequence
import dataclasses

import numpy as np

from experiments.latents import ClassSums, LatentId, rank, separation

# Which class of `latents.CLASSES` stands for which kind of answer, so that
# sums and scores of known and unknown entities serve here.
CLASS_OF = {'error': 'unknown', 'correct': 'known'}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Found:
  """Holds a latent and how it was ranked.

  Attributes:
    id: The latent.
    label: What it fires on: 'error' or 'correct'.
    score: The lowest t over types.
    scores: Type -> t.
    tied: Number of other latents with the same score.
  """

  id: LatentId
  label: str
  score: float
  scores: dict[str, float]
  tied: int

  def to_dict(self) -> dict:
    """Returns its fields, for JSON."""
    return {**dataclasses.asdict(self), 'id': str(self.id)}


def choose(
  sums: Sequence[ClassSums],
  label: str,
  k: int,
  *,
  without: str | None = None,
) -> list[Found]:
  """Returns the k best latents of a label.

  Args:
    sums: Sums of each SAE over the questions of train, with correct answers in
      place of known entities and errors in place of unknown ones.
    label: 'error' or 'correct'.
    k: Number of latents.
    without: A type that does not count, to be tested on.

  Raises:
    ValueError: a class of a type is empty, or there is no other type.
  """
  types = sums[0].types
  kept = [e for e, name in enumerate(types) if name != without]
  if not kept:
    raise ValueError(f'There is no type besides {without!r} to choose on.')
  scores = [separation(one, CLASS_OF[label], 't_test')[kept] for one in sums]
  lowest = [each.min(axis=0) for each in scores]
  # Never firing is a t of 0, and two constants that differ one of infinity.
  lowest = [np.clip(each, -1e9, 1e9) for each in lowest]
  where = [one.where for one in sums]
  found = []
  for one in rank(where, lowest, k):
    mine = scores[where.index(one.id[:2])][:, one.id.latent]
    found.append(
      Found(
        id=one.id,
        label=label,
        score=one.score,
        scores={types[e]: float(t) for e, t in zip(kept, mine, strict=True)},
        tied=one.tied,
      )
    )
  return found
