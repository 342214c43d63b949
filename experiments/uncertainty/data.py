"""Questions with their answers, and whether they are enough to study."""

from collections.abc import Sequence
import dataclasses

import numpy as np

from experiments.latents import SPLITS
from experiments.uncertainty.asked_questions import Asked
from experiments.uncertainty.begun_answers import Answer
from experiments.uncertainty.error_labels import Judged


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Data:
  """Holds questions, their answers, and which answers are errors.

  Attributes:
    asked: n questions.
    answers: The answers to them.
    judged: What the answers are.
    p_true: float64 [n, 2], what `answers.p_true` returned; None leaves it out.
    p_refusal: float64 [n], probability of beginning a refusal; None where the
      model begins no answer as it begins refusals.
  """

  asked: Sequence[Asked]
  answers: Sequence[Answer]
  judged: Judged
  p_true: np.ndarray | None = None
  p_refusal: np.ndarray | None = None


def counts_of(data: Data) -> dict:
  """Returns split -> type -> group -> number of answers."""
  found = {}
  for each, group in zip(data.asked, data.judged.group, strict=True):
    cell = found.setdefault(each.split, {}).setdefault(each.type, {})
    cell[group] = cell.get(group, 0) + 1
  return found


def types_to_use(data: Data, at_least: int) -> tuple[list[str], list[str]]:
  """Returns types with enough of both classes, and why others are left out.

  Raises:
    ValueError: there is no such type, or validation or test lacks a class.
  """
  types = np.array([each.type for each in data.asked])
  splits = np.array([each.split for each in data.asked])
  used, error = data.judged.used, data.judged.error
  kept, left_out = [], []
  for name in sorted(set(types)):
    few = []
    for split, least in zip(SPLITS, (at_least, 0, 1), strict=True):
      mine = used & (types == name) & (splits == split)
      sizes = {
        'errors': int((mine & error).sum()),
        'correct answers': int((mine & ~error).sum()),
      }
      few += [
        f'{count} {what} in {split}, expected {least} or more'
        for what, count in sizes.items()
        if count < least
      ]
    if few:
      left_out.append(f'{name}: {"; ".join(few)}')
    else:
      kept.append(name)
  remedy = (
    'The model declines or knows too much: ask more questions, ask about '
    'entities that it has seldom seen (--rare), or lower --at_least.'
  )
  if not kept:
    raise ValueError(
      f'No type has enough errors and correct answers. {". ".join(left_out)}. '
      f'{remedy}'
    )
  mine = used & np.isin(types, kept) & (splits == 'validation')
  for what, there in (
    ('errors', (mine & error).sum()),
    ('correct answers', (mine & ~error).sum()),
  ):
    if not there:
      raise ValueError(
        f'There are no {what} in validation, on which thresholds are chosen. '
        f'{remedy}'
      )
  return kept, left_out
