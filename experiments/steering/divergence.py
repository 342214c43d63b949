"""How far an arm moves the model from itself, whatever it answers.

Let y_1 ... y_n be the original model's greedy answer to a question x, up to its
first stop token, which counts, or all of it where it never stops. The
divergence of an arm at answer position i is

  KL_i = sum over tokens v of p(v) (log p(v) - log q(v)),
  p = original(. | x, y_1 ... y_i-1),  q = arm(. | x, y_1 ... y_i-1)

in nats: KL(original || arm), both teacher-forced along the original's answer,
with the arm's steering at the tokens at which it steers while answering. The
arm's own answer plays no part. Of a question there are three such numbers, and
a fourth that says how near a refusal is:

  kl           the mean of KL_1 ... KL_n, in nats per token
  kl_first     KL_1, where the answer is decided upon
  kl_rest      the mean of KL_2 ... KL_n, the first decision being the same; NaN
               for an answer of one token
  log_refusal  log of the arm's probability of the tokens that begin refusals,
               at answer position 1; NaN where none does

All logits are soft-capped as the model's are, and float32. KL is never
negative; what rounding leaves below 0 is set to 0. The original's is 0.

On ordinary text (`text_questions`) an arm steers as many tokens as in a
question, and the text that follows takes the answer's place.
"""

from collections.abc import Collection, Mapping, Sequence
import functools
import math
import os

import jax
import jax.numpy as jnp
import numpy as np

from experiments.runs.checksums import of_value
from experiments.runs.stages import Chunks
from experiments.steering.arm_batches import (
  identity_of,
  pad,
  run_rows,
  steering,
)
from experiments.steering.arms import Arm, steered_positions
from experiments.steering.questions import Question
import gemma_jax as gj

# The numbers of a question, in order.
MEASURES = ('kl', 'kl_first', 'kl_rest', 'log_refusal')


def text_questions(
  tokenizer: gj.Tokenizer,
  texts: Sequence[str],
  questions: Sequence[Question],
  arms: Sequence[Arm],
  *,
  window: int = 32,
  count: int = 32,
) -> tuple[list[Question], list[list[int]]]:
  """Returns ordinary text as questions, and what follows as their answers.

  Documents are joined by the end of text where they are shorter than a window.
  Each window is cut in halves: in the first its last tokens are steered, as
  many as in the median question; the second is what divergence is read on.

  Args:
    tokenizer: The model's tokenizer.
    texts: Documents.
    questions: Those that are steered.
    arms: Arms, which say where.
    window: Most tokens of a piece of text, BOS included.
    count: Most pieces.
  """
  modes = {arm.positions for arm in arms if arm.steers} or {'entity_last'}
  widths = [
    len(range(*steered_positions(mode, question)))
    for mode in modes
    for question in questions
  ]
  half = window // 2
  width = max(1, min(int(np.median(widths)), half - 1))
  ids, pieces = [], []
  for text in texts:
    ids += [*tokenizer.encode(text, bos=False), tokenizer.eos_id]
    while len(ids) >= window - 1 and len(pieces) < count:
      pieces.append([tokenizer.bos_id, *ids[: window - 1]])
      ids = ids[window - 1 :]
  made = [
    Question(
      entity=f'text {number}',
      type='text',
      entity_class='text',
      prompt_type='text',
      answer='',
      text='',
      ids=tuple(piece[:half]),
      span=(half - width, half - width + 1),
    )
    for number, piece in enumerate(pieces)
  ]
  return made, [piece[half:] for piece in pieces]


def measure_divergences(
  model: gj.Decoder,
  questions: Sequence[Question],
  arms: Sequence[Arm],
  answers: Sequence[Sequence[int]],
  *,
  stop_ids: Collection[int],
  refusal_ids: Sequence[int] = (),
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
    refusal_ids: Tokens that begin refusals.
    rows_per_batch: B: bounds memory.
    folder, identity, redo: As `generate_answers` has them.
    description: Text of the progress bar.

  Returns:
    float64 [A, Q, 4]: MEASURES, as at the top of this file.

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
    'refusal_ids': list(map(int, refusal_ids)),
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
    found = np.where(at >= 0, found, 0)
    n = (at >= 0).sum(1)
    with np.errstate(invalid='ignore'):
      rest = found[:, 1:].sum(1) / (n - 1)
    refusal = _log_probability(model, steered[:, 0], refusal_ids)
    every = np.stack([found.sum(1) / n, found[:, 0], rest, refusal], axis=1)
    return [
      [None if math.isnan(x) else x for x in row]
      for row in every[: len(batch.rows)].tolist()
    ]

  divergences = np.zeros((len(arms), len(questions), len(MEASURES)))
  unchanged = [i for i in range(len(arms)) if i not in measured]
  if unchanged:
    first = np.stack([stream[0] for stream in original()]) if refusal_ids else 0
    rest = np.where([len(answer) > 1 for answer in answers], 0.0, math.nan)
    divergences[unchanged, :, 2] = rest
    divergences[unchanged, :, 3] = (
      _log_probability(model, first, refusal_ids) if refusal_ids else math.nan
    )
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
    divergences[measured[arm], question] = [
      math.nan if x is None else x for x in found
    ]
  return divergences


def _log_probability(model, streams, ids: Sequence[int]) -> np.ndarray:
  """Returns the log of the probability of some tokens, from streams [B, D]."""
  if not len(ids):
    return np.full(len(streams), math.nan)
  logits = gj.unembed(model, jnp.asarray(streams)).astype(jnp.float32)
  logp = jax.nn.log_softmax(logits, axis=-1)[:, np.asarray(ids)]
  return np.asarray(jax.nn.logsumexp(logp, axis=-1), np.float64)


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
