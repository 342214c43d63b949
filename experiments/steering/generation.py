"""Answers of all arms to all questions, in the batches of `arm_batches.py`."""

from collections.abc import Mapping, Sequence
import os

import numpy as np

from experiments.runs.stages import Chunks
from experiments.steering.arm_batches import (
  identity_of,
  pad,
  run_rows,
  steering,
)
from experiments.steering.arms import Arm
from experiments.steering.questions import Question
import gemma_jax as gj


def generate_answers(
  model: gj.Decoder,
  questions: Sequence[Question],
  arms: Sequence[Arm],
  *,
  stop_ids: Sequence[int],
  max_new_tokens: int = 30,
  rows_per_batch: int = 256,
  folder: str | os.PathLike | None = None,
  identity: Mapping | None = None,
  redo: bool = False,
  description: str = 'Answering',
) -> list[list[list[int]]]:
  """Greedy answers of every arm to every question.

  Args:
    model: The chat model, stacked.
    questions: Q of them.
    arms: A of them.
    stop_ids: An answer ends with one of these; [] goes on to the last token.
    max_new_tokens: At most so many tokens per answer.
    rows_per_batch: B: bounds memory.
    folder: Where answers are kept batch by batch. Called again with the same
      arguments, those that are there are not made anew.
    identity: What answers depend on besides the other arguments: the model.
    redo: True if answers that are there to other questions or of other arms are
      thrown away.
    description: Text of the progress bar.

  Returns:
    Token ids of the answers, [A][Q], stop token included.

  Raises:
    ValueError: the folder has such answers and they are not thrown away, or
      an arm does not fit the model.
  """

  def run(ready, batch) -> list[list[int]]:
    padded = pad(model, [questions[q].ids for _, q in batch.filled], batch)
    made = gj.generate(
      ready.model,
      *padded,
      max_new_tokens=max_new_tokens,
      stop_ids=stop_ids,
      interventions=ready.everywhere
      or steering(questions, arms, batch, max_new_tokens),
      prefix=ready.prefix,
    )
    tokens, lengths = np.asarray(made.tokens), np.asarray(made.lengths)
    return [
      tokens[row, : lengths[row]].tolist() for row in range(len(batch.rows))
    ]

  depends_on = {
    **identity_of(questions, arms),
    'stop_ids': list(map(int, stop_ids)),
    'max_new_tokens': max_new_tokens,
    'rows_per_batch': rows_per_batch,
    **(identity or {}),
  }
  answers = [[None] * len(questions) for _ in arms]
  for arm, question, ids in run_rows(
    model,
    questions,
    arms,
    [question.length for question in questions],
    run,
    rows_per_batch=rows_per_batch,
    kept=Chunks(folder, depends_on, redo=redo),
    description=description,
    unit='answer',
  ):
    answers[arm][question] = ids
  return answers
