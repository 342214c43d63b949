"""What tuning cost elsewhere: plain text, known facts, ordinary requests.

A model that declines what it does not know must still read text as well, answer
what it knew, and do what has nothing to do with knowing. Letters: R rows of T
tokens, m requests, G tokens of an answer.
"""

from collections.abc import Callable, Hashable, Sequence
import pathlib

import numpy as np

from experiments.factual_recall import batches
from experiments.knowledge_probing import Format
from experiments.refusal_tuning.answer_metrics import OUTCOMES, Outcome
from experiments.refusal_tuning.asked import check_pair
from experiments.stats.intervals import (
  Estimate,
  cluster_bootstrap_ratio,
  wilson,
  wilson_by_cluster,
)
from experiments.stats.paired import mcnemar, paired_difference
from experiments.stats.resampling import bounds, draw
import gemma_jax as gj
from gemma_jax import json_files

ORDINARY = pathlib.Path(__file__).parent / 'ordinary.json'


def perplexity(
  before: gj.Decoder,
  after: gj.Decoder,
  rows: np.ndarray,
  *,
  rows_per_batch: int = 8,
  seed: int = 0,
) -> dict:
  """Returns how well two models predict plain text.

  Args:
    before: The untuned model.
    after: The tuned one.
    rows: int32 [R, T], text without padding.
    rows_per_batch: Rows run at once; bounds memory.
    seed: Random seed of the resamples of rows, shared by both models.

  Returns:
    'rows', 'context'; 'before' and 'after', perplexities; 'ratio', after over
    before; 'loss_change', in nats per token. n counts predicted tokens.

  Raises:
    ValueError: rows have fewer than two tokens, or the models do not match.
  """
  check_pair(before, after)
  rows = np.asarray(rows, np.int32)
  if rows.ndim != 2 or not len(rows) or rows.shape[1] < 2:
    raise ValueError(
      f'Rows have shape {rows.shape}, expected [R, T] with T of at least 2.'
    )
  losses = [_losses(model, rows, rows_per_batch) for model in (before, after)]
  counts = draw(len(rows), np.random.default_rng(seed)) / len(rows)
  n = rows.shape[0] * (rows.shape[1] - 1)

  def over_rows(values, through=lambda x: x):
    low = high = np.nan
    if len(rows) > 1:
      low, high = bounds(through(counts @ values))
    value = float(through(values.mean()))
    found = Estimate(value=value, low=float(low), high=float(high), n=n)
    return found.to_dict()

  change = losses[1] - losses[0]
  return {
    'rows': len(rows),
    'context': rows.shape[1],
    'before': over_rows(losses[0], np.exp),
    'after': over_rows(losses[1], np.exp),
    'ratio': over_rows(change, np.exp),
    'loss_change': over_rows(change),
  }


def facts_kept(
  before: Sequence[Outcome],
  after: Sequence[Outcome],
  clusters: Sequence[Hashable],
) -> dict:
  """Returns what became of the questions that were answered correctly.

  Args:
    before, after: One of OUTCOMES for each of n questions.
    clusters: The entity of each question.

  Returns:
    Outcome after -> its share, with Wilson's interval by entity.
  """
  before, after = np.asarray(before), np.asarray(after)
  mine = np.flatnonzero(before == 'correct')
  own = [clusters[row] for row in mine]
  return {
    outcome: wilson_by_cluster(after[mine] == outcome, own).to_dict()
    for outcome in OUTCOMES
  }


def read_ordinary() -> list[dict[str, str]]:
  """Returns ordinary requests, written for this project: id, kind, request."""
  return json_files.read_json(ORDINARY, list)


def ordinary_prompts(
  format: Format, requests: Sequence[dict[str, str]]
) -> list[list[int]]:
  """Returns the requests as prompts, token ids."""
  return [format.prompt_ids(each['request']) for each in requests]


def ordinary_answers(
  before: gj.Decoder,
  after: gj.Decoder,
  prompts: Sequence[Sequence[int]],
  *,
  stop_ids: Sequence[int],
  decode: Callable[[Sequence[int]], str],
  refuses: Callable[[str], bool],
  max_new_tokens: int = 32,
  rows_per_batch: int = 64,
  generators: tuple[gj.Decoder, gj.Decoder] | None = None,
) -> dict:
  """Returns how a tuned model answers what it should go on answering.

  Args:
    before: The untuned model.
    after: The tuned one.
    prompts: Token ids of m requests; or of any text, to be continued.
    stop_ids: Tokens that end an answer.
    decode: Tokens to text.
    refuses: Says of a text if it declines.
    max_new_tokens: G.
    rows_per_batch: Prompts run at once; bounds memory.
    generators: The two models as they generate fastest, such as
      `gj.unstack_layers` of them.

  Returns:
    'n'; 'refusal_rate', of greedy answers, with 'before', 'after', 'change'
    and McNemar's test, 'flips'; of the untuned model's greedy answers 'same',
    the share that the tuned one gives word for word, 'log_prob' per token, in
    nats, 'before', 'after' and 'change'; and 'kl', of their first token,
    KL(untuned || tuned). 'answers' has both texts of each prompt. Intervals
    resample requests.

  Raises:
    ValueError: there are no prompts, or the models do not match.
  """
  check_pair(before, after)
  if not len(prompts):
    raise ValueError('There are no ordinary requests; give one or more.')
  said = [
    _greedy(model, prompts, stop_ids, max_new_tokens, rows_per_batch)
    for model in (generators or (before, after))
  ]
  ends = set(stop_ids)
  texts = [
    [decode([t for t in answer if t not in ends]) for answer in answers]
    for answers in said
  ]
  declined = [np.array([refuses(text) for text in each]) for each in texts]
  sums, kl = _scored(before, after, prompts, said[0], rows_per_batch)
  sizes = np.array([len(answer) for answer in said[0]])
  m, units = len(prompts), range(len(prompts))

  def per_token(values):
    return cluster_bootstrap_ratio(values, sizes, units).to_dict()

  return {
    'n': m,
    'refusal_rate': {
      'before': wilson(int(declined[0].sum()), m).to_dict(),
      'after': wilson(int(declined[1].sum()), m).to_dict(),
      'change': paired_difference(*declined).to_dict(),
      'flips': mcnemar(*declined).to_dict(),
    },
    'same': wilson(
      sum(a == b for a, b in zip(*said, strict=True)), m
    ).to_dict(),
    'log_prob': {
      'before': per_token(sums[0]),
      'after': per_token(sums[1]),
      'change': per_token(sums[1] - sums[0]),
    },
    'kl': cluster_bootstrap_ratio(kl, np.ones(m), units).to_dict(),
    'answers': [{'before': a, 'after': b} for a, b in zip(*texts, strict=True)],
  }


def _losses(model, rows, size) -> np.ndarray:
  """float64 [R], mean loss of each row."""
  last, found = model.config.num_layers - 1, []
  for some in batches(len(rows), size):
    out = gj.run(
      model, rows[some], capture=gj.capture('resid_post', layers=last)
    )
    losses = gj.token_losses(model, out['resid_post', last], rows[some])
    found.append(np.asarray(losses[:, :-1], np.float64).mean(1))
  return np.concatenate(found)[: len(rows)]


def _greedy(model, prompts, stop_ids, new, size) -> list[list[int]]:
  """Answers, the token that ends them included."""
  longest, answers = max(map(len, prompts)), []
  for some in batches(len(prompts), size):
    batch = gj.pad_rows(
      [prompts[i] for i in some], model.config.fill_id, buckets=longest
    )
    made = gj.generate(
      model, *batch, max_new_tokens=new, stop_ids=list(stop_ids)
    )
    answers += [
      tokens[:length].tolist()
      for tokens, length in zip(
        np.asarray(made.tokens), np.asarray(made.lengths), strict=True
      )
    ]
  return answers[: len(prompts)]


def _scored(before, after, prompts, answers, size):
  """Log-probabilities of answers [2, m] under both, and KL [m] at the first."""
  rows = [
    [*prompt, *answer[:-1]]
    for prompt, answer in zip(prompts, answers, strict=True)
  ]
  G, longest = max(map(len, answers)), max(map(len, rows))
  last = before.config.num_layers - 1
  sums, kls = [], []
  for some in batches(len(rows), size):
    at, targets = np.full((2, len(some), G), -1)
    for row, i in enumerate(some):
      k = len(answers[i])
      at[row, :k] = len(prompts[i]) - 1 + np.arange(k)
      targets[row, :k] = answers[i]
    batch = gj.pad_rows(
      [rows[i] for i in some], before.config.fill_id, buckets=longest
    )
    x = [
      gj.run(
        model,
        *batch,
        capture=gj.capture('resid_post', layers=last, positions=gj.per_row(at)),
      )['resid_post', last]
      for model in (before, after)
    ]  # [B, G, D] each
    there = at >= 0
    # Losses are of the next token in a row: the targets, moved on by one.
    moved = np.roll(np.where(there, targets, 0), 1, axis=1)
    sums.append(
      [
        -np.where(there, gj.token_losses(model, stream, moved), 0).sum(1)
        for model, stream in zip((before, after), x, strict=True)
      ]
    )
    first = [stream[:, 0] for stream in x]
    kls.append(gj.kl_divergence(before, *first, after))
  m = len(prompts)
  kl = np.concatenate(kls)[:m].astype(np.float64)
  return np.concatenate(sums, axis=1)[:, :m].astype(np.float64), kl
