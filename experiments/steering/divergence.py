"""How far an arm moves the model from itself, whatever it answers.

Let y_1 ... y_n be the original model's greedy answer to a question x, up to its
first stop token, which counts, or all of it where it never stops. The
divergence of an arm at answer position i is

  KL_i = sum over tokens v of p(v) (log p(v) - log q(v)),
  p = original(. | x, y_1 ... y_i-1),  q = arm(. | x, y_1 ... y_i-1)

in nats: KL(original || arm), both teacher-forced along the original's answer,
with the arm's steering at the tokens at which it steers while answering. The
arm's own answer plays no part. Of a question there are two numbers:

  kl        the mean of KL_1 ... KL_n, in nats per token
  kl_first  KL_1, where the answer is decided upon

Both logits are soft-capped as the model's are, and float32. KL is never
negative; what rounding leaves below 0 is set to 0. The original's is 0.
"""

from collections.abc import Collection, Mapping, Sequence
import functools
import os

import numpy as np

from experiments.runs.checksums import of_value
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


def measure_divergences(
  model: gj.Decoder,
  questions: Sequence[Question],
  arms: Sequence[Arm],
  answers: Sequence[Sequence[int]],
  *,
  stop_ids: Collection[int],
  rows_per_batch: int = 256,
  folder: str | os.PathLike | None = None,
  identity: Mapping | None = None,
  redo: bool = False,
  description: str = 'Measuring divergence',
) -> np.ndarray:
  """KL of every arm from the original, along the original's answers.

  Args:
    model: The chat model, stacked.
    questions: Q of them.
    arms: A of them.
    answers: The original's: Q sequences of one token or more.
    stop_ids: An answer ends with the first of these.
    rows_per_batch: B: bounds memory.
    folder, identity, redo: As `generate_answers` has them.
    description: Text of the progress bar.

  Returns:
    float64 [A, Q, 2]: kl and kl_first, as at the top of this file.

  Raises:
    ValueError: the folder has divergences of something else.
  """
  answers = [_until_stop(answer, stop_ids) for answer in answers]
  # The last token of an answer is predicted, not read.
  rows = [
    (*question.ids, *answer[:-1])
    for question, answer in zip(questions, answers, strict=True)
  ]
  places = np.full((len(questions), max(map(len, answers))), -1)  # [Q, P]
  for at, question, answer in zip(places, questions, answers, strict=True):
    at[: len(answer)] = question.length - 1 + np.arange(len(answer))
  depends_on = {
    **identity_of(questions, arms),
    'answers': of_value(answers),
    'rows_per_batch': rows_per_batch,
    **(identity or {}),
  }

  # What does nothing needs no run.
  measured = [i for i, arm in enumerate(arms) if arm.direction is not None]
  changed = [arms[i] for i in measured]
  # Run when the first batch asks for it: a finished study asks for none.
  original = functools.cache(
    lambda: _original_streams(model, rows, places, rows_per_batch)
  )

  def run(ready, batch) -> list[list[float]]:
    asked = [question for _, question in batch.filled]
    at = places[asked]
    steered = gj.run(
      ready.model,
      *pad(model, [rows[question] for question in asked], batch),
      interventions=ready.everywhere or steering(questions, changed, batch),
      capture=_last_stream(model, at),
      prefix=ready.prefix,
    )['resid_post'][0]
    found = np.asarray(
      gj.kl_divergence(model, original()[asked], steered), np.float64
    )  # [B, P]
    there = at >= 0
    means = np.where(there, found, 0).sum(1) / there.sum(1)
    both = np.stack([means, found[:, 0]], axis=1)
    return both[: len(batch.rows)].tolist()

  divergences = np.zeros((len(arms), len(questions), 2))
  for arm, question, found in run_rows(
    model,
    questions,
    changed,
    list(map(len, rows)),
    run,
    rows_per_batch=rows_per_batch,
    kept=Chunks(folder, depends_on, redo=redo),
    description=description,
    unit='answer',
  ):
    divergences[measured[arm], question] = found
  return divergences


def _until_stop(answer, stop_ids) -> list[int]:
  """Returns the tokens up to the first that stops, which is one of them."""
  ends = [i for i, token in enumerate(answer) if token in stop_ids]
  return list(answer[: ends[0] + 1] if ends else answer)


def _last_stream(model, places) -> gj.Capture:
  """Returns what is unembedded, at places [B, P]."""
  return gj.capture(
    'resid_post',
    layers=model.config.num_layers - 1,
    positions=gj.per_row(places),
  )


def _original_streams(model, rows, places, rows_per_batch) -> np.ndarray:
  """Returns the last layer's stream [Q, P, D] of the model as it is."""
  found = []
  size, longest = min(rows_per_batch, len(rows)), max(map(len, rows))
  for start in range(0, len(rows), size):
    some = list(range(start, min(start + size, len(rows))))
    filled = some + some[-1:] * (size - len(some))
    padded = gj.pad_rows(
      [rows[q] for q in filled], model.config.fill_id, buckets=longest
    )
    out = gj.run(model, *padded, capture=_last_stream(model, places[filled]))
    found.append(np.asarray(out['resid_post'][0])[: len(some)])
  return np.concatenate(found)
