"""The model's own answers: one greedy, some sampled, with their probabilities.

Batches go from the longest prompts to the shortest and are kept one by one, so
that a killed run loses one at most. A sample's seed is made of the run's seed,
the question's id and the sample's number.

Letters: n questions, R answers to each, B rows, T tokens.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import json
import os
from typing import Annotated

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from experiments.entities import refusal_tokens
from experiments.entities.sampling import PROMPT_BUCKETS, fast, seed_of
from experiments.runs import Count, Few, Seed, check_numbers, real
from experiments.runs.checksums import of_value
from experiments.runs.stages import Chunks
from experiments.self_report import next_tokens, single_token
from experiments.uncertainty.asked_questions import Asked
import gemma_jax as gj

# Asked about the greedy answer (Kadavath et al. 2022, P(True)), zero-shot.
P_TRUE = (
  '{question}\nPossible answer: {answer}\n'
  'Is the possible answer right? Answer yes or no.'
)
P_TRUE_PREFIX = 'Answer:'
_ROWS = 64  # answers that are asked about at once


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnswerOptions:
  """Says how answers are made. Defaults are those of arXiv 2411.14257.

  Attributes:
    prefix: Beginning of every answer, put into the model's mouth: a model that
      declines what it does not know makes few errors unless it has to answer.
    num_samples: Number of sampled answers, besides the greedy one.
    temperature: Temperature of the samples.
    max_new_tokens: Most tokens of an answer.
    seed: Random seed of the samples.
  """

  prefix: str = ''
  num_samples: Few = 10
  temperature: Annotated[float, real(0, 100)] = 1.0
  max_new_tokens: Count = 32
  seed: Seed = 0

  def __post_init__(self):
    check_numbers(self)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
  """Holds the answers to one question.

  Attributes:
    text: The greedy answer, without the prefix.
    logprob: Log-probability of the greedy answer, its end included.
    num_tokens: Number of tokens of the greedy answer, its end included.
    samples: Sampled answers.
    sample_logprobs: Mean log-probability of each sample's tokens.
    entropy: Entropy of the first token, in nats.
  """

  text: str
  logprob: float
  num_tokens: int
  samples: Sequence[str]
  sample_logprobs: Sequence[float]
  entropy: float


def answer(
  model: gj.Decoder,
  tokenizer: gj.Tokenizer,
  asked: Sequence[Asked],
  options: AnswerOptions,
  *,
  folder: str | os.PathLike | None = None,
  identity: Mapping | None = None,
  rows_per_batch: int = 512,
  description: str = 'Answering',
) -> list[Answer]:
  """Returns answers in the order of the questions.

  Args:
    model: The chat model, stacked.
    tokenizer: The model's tokenizer.
    asked: n questions.
    options: How they are answered.
    folder: Where answers are kept as they come, to go on from.
    identity: What tells the model apart, so that answers of another one are
      not taken for its own.
    rows_per_batch: Answers that are generated at once, at least R.
    description: Text of the progress bar.

  Raises:
    ValueError: the folder has answers of another model, to other questions or
      made with other options; or a prompt leaves no room for an answer.
  """
  prompts = [_ids(tokenizer, each.text, options.prefix) for each in asked]
  longest = max(map(len, prompts), default=0) + options.max_new_tokens
  if longest >= model.config.max_positions:
    raise ValueError(
      f'A question and its answer need {longest} positions; the model has '
      f'{model.config.max_positions}. Lower max_new_tokens.'
    )
  R = 1 + options.num_samples
  size = min(len(prompts), max(1, rows_per_batch // R))
  order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
  questions = json.dumps([[each.id for each in asked], prompts])
  kept = Chunks(
    folder,
    {
      **(identity or {}),
      **dataclasses.asdict(options),
      'rows_per_batch': rows_per_batch,
      'questions': of_value(questions),
    },
  )
  runner = _Answering(model, tokenizer, options)
  found: list = [None] * len(asked)
  with tqdm.tqdm(total=len(asked), desc=description, unit='question') as bar:
    for start in range(0, len(order), size):
      batch = order[start : start + size]
      made = kept.read(f'{start:08d}')
      if made is None:
        made = runner(batch, prompts, asked, size)
        kept.write(f'{start:08d}', made)
      for i, one in zip(batch, made, strict=True):
        found[i] = Answer(**one)
      bar.update(len(batch))
  return found


def p_refusal(
  model: gj.Decoder,
  tokenizer: gj.Tokenizer,
  asked: Sequence[Asked],
  answers: Sequence[Answer],
  *,
  prefix: str = '',
  mode: str = 'default',
) -> np.ndarray | None:
  """Returns how likely the model is to begin a refusal, for each question.

  It is read from one run of the prompt, and is what a model that may decline
  says of its own uncertainty before it answers.

  Args:
    model: The chat model.
    tokenizer: The model's tokenizer.
    asked: n questions.
    answers: Greedy answers, which say what tokens begin refusals.
    prefix: Beginning of every answer.
    mode: How refusals are read.

  Returns:
    float64 [n]; None if no token begins refusals more often than other answers.
  """
  prompts = [_ids(tokenizer, each.text, prefix) for each in asked]
  order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))

  def read(of):
    found = [None] * len(prompts)
    for batch, rows in _batches(order, min(_ROWS, len(order))):
      padded = tokenizer.pad([prompts[i] for i in rows], buckets=PROMPT_BUCKETS)
      logits = gj.run(model, *padded, logits_at='last').logits[:, 0]
      for i, value in zip(batch, np.asarray(of(logits)), strict=False):
        found[i] = value
    return found

  ids = refusal_tokens(
    read(lambda logits: logits.argmax(-1)),
    [
      each.declines(one.text, mode)
      for each, one in zip(asked, answers, strict=True)
    ],
  )
  if not ids:
    return None
  of_ids = lambda logits: jax.nn.softmax(logits, axis=-1)[
    :, np.asarray(ids)
  ].sum(-1)
  return np.array(read(of_ids), np.float64)


def p_true(
  model: gj.Decoder,
  tokenizer: gj.Tokenizer,
  asked: Sequence[Asked],
  answers: Sequence[Answer],
  *,
  yes: str = ' Yes',
  no: str = ' No',
) -> np.ndarray:
  """Asks the model whether its greedy answers are right.

  Returns:
    float64 [n, 2]: the probability of yes among yes and no, and that of both
    words among all tokens.

  Raises:
    ValueError: a word is not one token.
  """
  ids = jnp.asarray([single_token(tokenizer, word) for word in (yes, no)])
  prompts = [
    _ids(
      tokenizer,
      P_TRUE.format(question=each.text, answer=one.text.strip()),
      P_TRUE_PREFIX,
    )
    for each, one in zip(asked, answers, strict=True)
  ]
  found = np.zeros((len(prompts), 2))
  order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
  with tqdm.tqdm(total=len(order), desc='P(True)', unit='answer') as bar:
    for batch, rows in _batches(order, min(_ROWS, len(order))):
      padded = tokenizer.pad([prompts[i] for i in rows], buckets=PROMPT_BUCKETS)
      out = _after(model, padded, ids)
      logp = np.asarray(out['logits'], np.float64) - np.asarray(
        out['log_sum'], np.float64
      ).reshape(-1, 1)
      p = np.exp(logp)
      share = 1 / (1 + np.exp(logp[:, 1] - logp[:, 0]))
      found[batch] = np.stack([share, p.sum(1)], axis=1)[: len(batch)]
      bar.update(len(batch))
  return found


class _Answering:
  """Generates the answers of a batch."""

  def __init__(self, model, tokenizer, options):
    self._tokenizer, self._options = tokenizer, options
    self._model, self._fast = model, None
    self._ends = {*model.config.eos_ids, *tokenizer.stop_ids}

  def __call__(self, batch, prompts, asked, size) -> list[dict]:
    """Returns the fields of `Answer` for the questions of a batch."""
    options, tokenizer = self._options, self._tokenizer
    if self._fast is None:
      self._fast = fast(self._model)
    R = 1 + options.num_samples
    rows = batch + batch[-1:] * (size - len(batch))  # filled up
    padded = tokenizer.pad([prompts[i] for i in rows], buckets=PROMPT_BUCKETS)
    first = _after(self._fast, padded, jnp.zeros(1, jnp.int32))
    entropy = np.asarray(first['entropy'])
    temperatures = [0.0] + [options.temperature] * options.num_samples
    made = gj.generate(
      self._fast,
      *padded,
      max_new_tokens=options.max_new_tokens,
      samples=R,
      sampling=gj.Sampling(
        temperature=np.tile(np.asarray(temperatures, np.float32), size)
      ),
      seeds=np.array(
        [seed_of(options.seed, asked[i].id, r) for i in rows for r in range(R)]
      ),
      stop_ids=sorted(self._ends),
    )
    tokens, lengths = np.asarray(made.tokens), np.asarray(made.lengths)
    totals = np.asarray(made.logprobs, np.float64).sum(axis=1)
    texts = [
      self._text(row[:length].tolist())
      for row, length in zip(tokens, lengths, strict=True)
    ]
    found = []
    for k in range(len(batch)):
      mine = slice(k * R + 1, (k + 1) * R)
      found.append(
        {
          'text': texts[k * R],
          'logprob': float(totals[k * R]),
          'num_tokens': int(lengths[k * R]),
          'samples': texts[mine],
          'sample_logprobs': (totals[mine] / lengths[mine]).tolist(),
          'entropy': float(entropy[k]),
        }
      )
    return found

  def _text(self, ids) -> str:
    """Returns the text of ids, without an end that may be the last."""
    ids = ids[:-1] if ids[-1] in self._ends else ids
    known = [i for i in ids if i < self._tokenizer.vocab_size]
    return self._tokenizer.decode(known, skip_special=True)


def _ids(tokenizer, said, prefix) -> list[int]:
  """Returns the ids of a chat up to where the model goes on."""
  ids = list(tokenizer.tokenize_chat(said, parse_special=False).ids)
  if prefix:
    ids += tokenizer.encode(prefix, bos=False, parse_special=False)
  return ids


def _after(model, padded, ids) -> dict[str, jax.Array]:
  """Returns `next_tokens` after padded prompts."""
  out = gj.run(model, *padded, logits_at='last')
  return next_tokens(out.logits[:, 0], ids)


def _batches(order, size) -> Iterator[tuple[list[int], list[int]]]:
  """Yields the numbers of a batch, and the same filled up to `size`."""
  for start in range(0, len(order), size):
    batch = order[start : start + size]
    yield batch, batch + batch[-1:] * (size - len(batch))
