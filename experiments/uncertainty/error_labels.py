"""Which answers are right, which are errors, and which are none.

As in arXiv 2411.14257: a question whose greedy answer declines is left out; of
the others the answer is correct if at least 3 of 10 samples are, else it is an
error. Errors about entities that the base model knows have a group of their
own; the published code left them out where latents are chosen, here they are
errors like others (paper.md, 10.1 no. 13).
"""

from collections.abc import Collection, Sequence
import dataclasses

import numpy as np

from experiments.entities.modes import is_reference
from experiments.uncertainty.asked_questions import Asked
from experiments.uncertainty.begun_answers import Answer

# Right samples that make a question correct.
MIN_CORRECT = 3
REFUSAL, CORRECT = 'refusal', 'correct'
KNOWN_ERROR, UNKNOWN_ERROR = 'error (known)', 'error (unknown)'
RARE_ERROR = 'error (rare)'
ERROR = 'error'  # without an entity
ERRORS = (KNOWN_ERROR, UNKNOWN_ERROR, RARE_ERROR, ERROR)
GROUPS = (CORRECT, *ERRORS, REFUSAL)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Judged:
  """Says what n answers are.

  Attributes:
    group: The group of each [n], one of GROUPS.
    used: bool [n], True for answers that count; the others were declined, or
      are errors that the published code leaves out.
    error: bool [n], True for errors.
    right_samples: int [n], number of right samples.
  """

  group: np.ndarray
  used: np.ndarray
  error: np.ndarray
  right_samples: np.ndarray


def judge(
  asked: Sequence[Asked],
  answers: Sequence[Answer],
  mode: str = 'default',
  *,
  known_names: Collection[str] = (),
) -> Judged:
  """Labels answers.

  Args:
    asked: n questions.
    answers: The answers to them.
    mode: How answers are read. 'reference' also leaves errors out whose
      question has the name of a known entity in it, wherever it stands.
    known_names: Names of entities that the base model knows, for 'reference'.

  Raises:
    ValueError: there are fewer than 3 samples, or there is no such mode.
  """
  published = is_reference(mode)
  groups, right = [], []
  for each, one in zip(asked, answers, strict=True):
    if len(one.samples) < MIN_CORRECT:
      raise ValueError(
        f'{len(one.samples)} samples cannot have {MIN_CORRECT} right ones. '
        'Draw more.'
      )
    right.append(sum(each.label(text, mode) == CORRECT for text in one.samples))
    if each.declines(one.text, mode):
      groups.append(REFUSAL)
    elif right[-1] >= MIN_CORRECT:
      groups.append(CORRECT)
    elif not each.prompt_type:
      groups.append(ERROR)
    else:
      label = each.entity_class
      if published:
        known = any(name in each.text for name in known_names)
        label = 'known' if known else 'unknown'
      groups.append(f'error ({label})')
  group = np.array(groups, dtype=object)
  left_out = [REFUSAL, KNOWN_ERROR] if published else [REFUSAL]
  return Judged(
    group=group,
    used=~np.isin(group, left_out),
    error=np.isin(group, ERRORS),
    right_samples=np.array(right),
  )
