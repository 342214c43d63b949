"""The likeliest of some answers: a judge where the possible ones are known.

The probed model itself ranks the candidate answers of a question's relation.
It is right if a right one is the likeliest, and its probability among them is
a graded score. Nothing is sampled.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import functools

import jax
import numpy as np
import tqdm

from experiments.knowledge_probing.formats import Format, Shot
from experiments.knowledge_probing.normalising import words
from experiments.knowledge_probing.probe_records import Question
import gemma_jax as gj

_PROMPTS = 16  # run at once
_ROWS = 64  # candidates scored at once
_BUCKETS = (4, 8, *gj.BUCKETS)  # lengths of candidates


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Ranked:
  """Says how probable a model finds the candidate answers to a question.

  Attributes:
    logprobs: float64 [C], log P(candidate, and no more | prompt), in nats.
    right: bool [C], which are names of the right answer.
  """

  logprobs: np.ndarray
  right: np.ndarray

  @property
  def correct(self) -> bool:
    """Returns True if a right one is likelier than all others; a tie is not."""
    others = self.logprobs[~self.right]
    return bool(self.logprobs[self.right].max() > others.max(initial=-np.inf))

  @property
  def p_right(self) -> float:
    """P(right answer | candidates), all its names together."""
    p = np.exp(self.logprobs - self.logprobs.max())
    return float(p[self.right].sum() / p.sum())


def rank_candidates(
  model: gj.Decoder,
  format: Format,
  questions: Sequence[Question],
  candidates: Mapping[str | None, Sequence[str]],
  shots: Sequence[Shot] = (),
) -> list[Ranked]:
  """Returns the probability of every candidate answer to every question.

  A prompt is run once, and its candidates attend to what it left.

  Args:
    model: The probed model.
    format: How questions are put.
    questions: n of them.
    candidates: Relation -> its C different answers, to which those of its
      questions belong.
    shots: Demonstrations before every question.

  Raises:
    ValueError: no name of a question's answer is among its candidates.
  """
  right = []
  for each in questions:
    own = set(map(words, each.answers))
    named = [words(name) in own for name in candidates.get(each.relation, ())]
    if not any(named):
      raise ValueError(
        f'Question {each.id!r} has the answers {each.answers!r}, of which none '
        f'is a candidate of the relation {each.relation!r}. Add it to the '
        'candidates.'
      )
    right.append(np.array(named))
  answers = {
    relation: [format.answer_ids(name) for name in names]
    for relation, names in candidates.items()
  }
  prompts = [format.prompt_ids(each.question, shots) for each in questions]
  found: list[np.ndarray | None] = [None] * len(questions)
  order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
  size = min(_PROMPTS, len(prompts))
  for start in tqdm.trange(0, len(order), size or 1, desc='Ranking', delay=5):
    batch = order[start : start + size]
    rows = batch + batch[-1:] * (size - len(batch))  # filled up
    padded = format.tokenizer.pad([prompts[i] for i in rows])
    first, cache = _prefill(model, *padded)
    gj.check_finite(first, model.dtype, 'Log-probabilities')
    for row, i in enumerate(batch):
      found[i] = _score(
        model,
        format.tokenizer,
        _row_of(cache, row),
        np.asarray(first[row]),
        answers[questions[i].relation],
      )
  return [
    Ranked(logprobs=logprobs, right=which)
    for logprobs, which in zip(found, right, strict=True)
  ]


def _score(model, tokenizer, prefix, first, answers) -> np.ndarray:
  """float64 [C]: log-probabilities of answers after a prompt.

  Args:
    model: The model.
    tokenizer: Pads.
    prefix: What the prompt left in the cache, one row.
    first: float32 [V], log-probabilities of the token after it.
    answers: C rows of ids.
  """
  logprobs = np.array([first[ids[0]] for ids in answers], np.float64)
  longer = [c for c, ids in enumerate(answers) if len(ids) > 1]
  begin = int(np.max(np.asarray(prefix.positions))) + 1
  for start in range(0, len(longer), _ROWS):
    part = longer[start : start + _ROWS]
    rows = [answers[c] for c in part] + [[answers[part[0]][0]]] * (
      _ROWS - len(part)
    )
    tokens, positions = tokenizer.pad(rows, side='right', buckets=_BUCKETS)
    at = np.where(positions >= 0, positions + begin, -1)
    stream = gj.run(
      model,
      tokens,
      at,
      capture=gj.capture('resid_post', layers=model.config.num_layers - 1),
      prefix=prefix,
    )['resid_post'][0]
    losses = np.asarray(gj.token_losses(model, stream, tokens), np.float64)
    sizes = (positions >= 0).sum(1)  # the last token's loss has no meaning
    counted = np.arange(tokens.shape[1]) < sizes[:, None] - 1
    logprobs[part] -= (losses * counted).sum(1)[: len(part)]
  return logprobs


@jax.jit
def _prefill(model, tokens, positions):
  """Log-probabilities [B, V] after prompts, and their cache."""
  B, T = tokens.shape
  empty = gj.Cache.empty(model.config, B, T, model.dtype, model.is_stacked)
  out = gj.forward(
    model,
    tokens,
    positions,
    logits_at='last',
    cache=empty,
    cache_is_empty=True,
  )
  return jax.nn.log_softmax(out.logits[:, 0]), out.cache


@jax.jit
def _row_of(cache, row):
  """Returns one row of a cache, as a cache."""
  stacked = isinstance(cache.k, jax.Array)
  take = functools.partial(
    jax.lax.dynamic_slice_in_dim,
    start_index=row,
    slice_size=1,
    axis=1 if stacked else 0,
  )
  return dataclasses.replace(
    cache,
    k=jax.tree.map(take, cache.k),
    v=jax.tree.map(take, cache.v),
    positions=jax.lax.dynamic_slice_in_dim(cache.positions, row, 1),
  )
