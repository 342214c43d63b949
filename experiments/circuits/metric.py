"""The metric of effects: a refusal's logit less an answer's.

For each question two tokens are fixed before anything is changed: of those that
the model's own refusals begin with, and of those that its own other answers
begin with, the ones with the largest logit in the unedited run. The metric is
the difference of their logits *before the soft cap*, at the prompt's last
token: there it is linear in the stream but for one norm. The cap is monotonic,
so that it never changes which of the two is larger.
"""

from collections import Counter
from collections.abc import Sequence
import dataclasses

import numpy as np

import gemma_jax as gj


@dataclasses.dataclass(frozen=True, kw_only=True)
class Beginnings:
  """First tokens of a model's own answers.

  Attributes:
    refusals: Token -> how many refusals begin with it, if more than answers do.
    answers: Token -> how many other answers do, if more than refusals.
  """

  refusals: dict[int, int]
  answers: dict[int, int]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Pairs:
  """The two tokens of each question.

  Attributes:
    refusal: int [Q], tokens that refusals begin with.
    answer: int [Q], tokens that other answers begin with.
  """

  refusal: np.ndarray
  answer: np.ndarray


def find_beginnings(
  answers: Sequence[Sequence[int]], refused: Sequence[bool]
) -> Beginnings:
  """Sorts first tokens by what they begin more often.

  Args:
    answers: Token ids of each answer.
    refused: True if each of them is a refusal.

  Raises:
    ValueError: there is no refusal, or nothing else.
  """
  counts = {True: Counter(), False: Counter()}
  for ids, refusal in zip(answers, refused, strict=True):
    if ids:
      counts[bool(refusal)][int(ids[0])] += 1
  mine = {
    kind: {t: n for t, n in counter.items() if n > counts[not kind][t]}
    for kind, counter in counts.items()
  }
  for kind, what in ((True, 'a refusal'), (False, 'an answer')):
    if not mine[kind]:
      raise ValueError(
        f'No token tells {what} of this model by how it begins: of '
        f'{len(answers)} answers {sum(map(bool, refused))} are refusals. Ask '
        'more questions (--questions), about entities it knows and others.'
      )
  return Beginnings(refusals=mine[True], answers=mine[False])


def choose_pairs(logits: np.ndarray, beginnings: Beginnings) -> Pairs:
  """Returns the likeliest token of either kind, of unedited logits [Q, V]."""
  best = lambda tokens: np.array(sorted(tokens))[
    logits[:, sorted(tokens)].argmax(axis=1)
  ]
  return Pairs(
    refusal=best(beginnings.refusals), answer=best(beginnings.answers)
  )


def readout(model: gj.Decoder, pairs: Pairs) -> np.ndarray:
  """Returns what normed streams are multiplied with, float64 [Q, D].

  Raises:
    ValueError: the model has LayerNorm, or a bias on what heads add.
  """
  if model.config.norm != 'rms' or model.config.out_bias:
    raise ValueError(
      'Circuits are traced in models with RMSNorm whose heads add up to what '
      f'attention adds, without a bias; this is a {model.config.family} model.'
    )
  return gj.readout(model, pairs.refusal, pairs.answer)
