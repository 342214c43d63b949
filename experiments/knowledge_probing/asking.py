"""Asks a model: greedy answers and samples, after one prompt or several.

A prompt is a set of demonstrations. A question's prompt is run once for all its
answers, and what the prompts of a relation begin with once for all questions. A
sample's seed is made of the plan's seed, the question's id, the numbers of
prompt and sample, so that it does not depend on what else is asked.

Letters: R answers to a question after each prompt, the greedy one first.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import math

import numpy as np
import tqdm

from experiments.entities.completions import line_break_ids
from experiments.entities.sampling import fast, seed_of
from experiments.knowledge_probing.formats import Format
from experiments.knowledge_probing.probe_records import Question, Said, Sampled
from experiments.knowledge_probing.prompt_batches import Shared, check_room
from experiments.knowledge_probing.shots import demonstrations
import gemma_jax as gj

Pools = Mapping[str | None, Sequence[Question]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class AskingPlan:
  """Says how a model is asked.

  Attributes:
    prompts: Sets of demonstrations, each of which makes a prompt.
    shots: Demonstrations in a set.
    samples: Sampled answers per prompt, besides the greedy one.
    temperature: Temperature of the samples.
    top_k: Samples only of so many likeliest tokens; None is no limit.
    top_p: Samples only of the likeliest tokens that reach this probability
      together; None is no limit.
    max_new_tokens: Most tokens of an answer.
    seed: Random seed of demonstrations and samples.
    rows_per_batch: Answers at once; bounds memory.
  """

  prompts: int = 1
  shots: int = 4
  samples: int = 16
  temperature: float = 1.0
  top_k: int | None = None
  top_p: float | None = None
  max_new_tokens: int = 32
  seed: int = 0
  rows_per_batch: int = 128

  def __post_init__(self):
    for name, least in (
      ('prompts', 1),
      ('shots', 0),
      ('samples', 0),
      ('top_k', 1),
      ('max_new_tokens', 1),
      ('seed', 0),
      ('rows_per_batch', 1),
    ):
      value = getattr(self, name)
      if value is not None and value < least:
        raise ValueError(f'{name}={value} must be at least {least}.')
    if not self.temperature > 0:
      raise ValueError(
        f'temperature={self.temperature} must be above 0; the greedy answer '
        'is there in any case. For that alone, samples=0.'
      )
    if self.top_p is not None and not 0 < self.top_p <= 1:
      raise ValueError(f'top_p={self.top_p} must be above 0, and at most 1.')
    if self.prompts > 1 and not self.shots:
      raise ValueError(
        f'prompts={self.prompts} without demonstrations are all the same. Use '
        'one prompt, or several shots.'
      )

  @classmethod
  def slick(cls, **changes) -> 'AskingPlan':
    """Returns the plan of SliCK (arXiv 2405.05904, section 3).

    After each of 10 random sets of 4 demonstrations, a greedy answer and 16
    samples at temperature 0.5 of the 40 likeliest tokens.
    """
    plan = cls(prompts=10, shots=4, samples=16, temperature=0.5, top_k=40)
    return dataclasses.replace(plan, **changes)


def ask(
  model: gj.Decoder,
  format: Format,
  questions: Sequence[Question],
  pools: Pools,
  plan: AskingPlan,
) -> Iterator[list[Sampled]]:
  """Asks all questions.

  Args:
    model: The model.
    format: How a question is put, and how an answer ends.
    questions: What to ask, with ids of their own.
    pools: Relation -> what can be demonstrated; may be empty without shots.
    plan: How to ask.

  Returns:
    An iterator over batches as they finish; every question is in one of them.

  Raises:
    ValueError: at once: a pool is missing, too small, or holds what is asked;
      or a prompt leaves no room for an answer.
  """
  relations: dict[str | None, list[Question]] = {}
  for question in questions:
    relations.setdefault(question.relation, []).append(question)
  asked = [
    _Relation(model, format, relation, group, pools, plan)
    for relation, group in relations.items()
  ]
  return _answers(model, format, asked, plan)


class _Relation:
  """Questions of one relation, with their prompts as tokens.

  Attributes:
    questions: n of them, from the longest prompts to the shortest.
    rows: [prompts][n] token ids.
    others: [prompts] lists of token ids of the pool's own questions. They begin
      as the rows do; with them, what is shared does not depend on which
      questions are left to ask.
  """

  def __init__(self, model, format, relation, questions, pools, plan):
    pool = pools.get(relation, ()) if plan.shots else ()
    if plan.shots and not pool:
      raise ValueError(
        f'There are no questions of relation {relation!r} to demonstrate; '
        f'shots={plan.shots} are asked for. Give some, or ask without.'
      )
    ids = {each.id for each in questions}
    if given := sorted(ids & {each.id for each in pool}):
      raise ValueError(
        f'Question {given[0]!r} is asked, and its answer is among the '
        'demonstrations. Take it out of either.'
      )
    sets = demonstrations(
      pool, prompts=plan.prompts, shots=plan.shots, seed=plan.seed
    )
    rows = [[format.prompt_ids(q.question, s) for q in questions] for s in sets]
    for prompt in rows:
      for question, row in zip(questions, prompt, strict=True):
        check_room(
          model, len(row), plan.max_new_tokens, f'Question {question.id!r}'
        )
    longest = [max(map(len, each)) for each in zip(*rows, strict=True)]
    order = sorted(range(len(questions)), key=lambda i: -longest[i])
    self.questions = [questions[i] for i in order]
    self.rows = [[prompt[i] for i in order] for prompt in rows]
    self.others = [
      [format.prompt_ids(each.question, shown) for each in pool]
      for shown in sets
    ]


def _answers(model, format, asked, plan) -> Iterator[list[Sampled]]:
  """Answers to the questions of all relations, batch by batch."""
  if not asked:
    return
  model = fast(model)
  most = max(len(each.questions) for each in asked)
  size = min(most, max(1, plan.rows_per_batch // (1 + plan.samples)))
  answering = _Answering(model, format, plan)
  total = sum(len(each.questions) for each in asked)
  with tqdm.tqdm(desc='Asking', total=total, unit='question') as bar:
    for relation in asked:
      prompts = [
        (rows, Shared.of(model, [*rows, *others]))
        for rows, others in zip(relation.rows, relation.others, strict=True)
      ]
      for start in range(0, len(relation.questions), size):
        batch = relation.questions[start : start + size]
        made = [
          answering(number, batch, rows[start : start + size], shared, size)
          for number, (rows, shared) in enumerate(prompts)
        ]
        yield [
          Sampled(
            id=question.id,
            greedy=tuple(said[0] for said in mine),
            samples=tuple(each for said in mine for each in said[1:]),
          )
          for question, *mine in zip(batch, *made, strict=True)
        ]
        bar.update(len(batch))


class _Answering:
  """Generates the answers to a batch of questions after one prompt."""

  def __init__(self, model, format, plan):
    self._model, self._plan = model, plan
    self._tokenizer = format.tokenizer
    self._lines = format.stops_at_line_break
    self._ends = format.ends | set(model.config.eos_ids)
    self._stops = sorted(
      self._ends | (line_break_ids(format.tokenizer) if self._lines else set())
    )

  def __call__(self, number, questions, rows, shared, size) -> list[list[Said]]:
    """R answers to each question.

    Args:
      number: Number of the prompt.
      questions: At most `size`.
      rows: Their prompts as tokens.
      shared: What the rows begin with.
      size: Questions that are run, the last one again where there are fewer.
    """
    plan = self._plan
    R = 1 + plan.samples
    fill = size - len(rows)
    ids = [each.id for each in questions]
    seeds = [
      seed_of(plan.seed, id, number, sample)
      for id in [*ids, *ids[-1:] * fill]
      for sample in range(R)
    ]
    temperatures = [0.0] + [plan.temperature] * plan.samples
    made = gj.generate(
      self._model,
      *shared.rest(self._tokenizer, [*rows, *rows[-1:] * fill]),
      max_new_tokens=plan.max_new_tokens,
      samples=R,
      sampling=gj.Sampling(
        temperature=np.tile(np.asarray(temperatures, np.float32), size),
        top_k=plan.top_k,
        top_p=plan.top_p,
      )
      if plan.samples
      else None,
      seeds=np.asarray(seeds),
      stop_ids=self._stops,
      prefix=shared.cache,
    )
    tokens, lengths = np.asarray(made.tokens), np.asarray(made.lengths)
    logprobs = np.asarray(made.logprobs, np.float64)
    found = [
      Said(
        text=self._text(tokens[row, : lengths[row]].tolist()),
        logprob=float(logprobs[row, : lengths[row]].sum()),
        ntok=int(lengths[row]),
        stop=int(tokens[row, lengths[row] - 1]) in self._stops,
        prompt=number,
        temperature=plan.temperature if row % R else 0.0,
        # The greedy answer's first token is the likeliest one.
        first_prob=math.exp(logprobs[row - row % R, 0]),
      )
      for row in range(len(questions) * R)
    ]
    return [found[k * R : (k + 1) * R] for k in range(len(questions))]

  def _text(self, ids) -> str:
    """Returns what tokens say, without what ended them.

    Rows of an embedding that are no token of the vocabulary say nothing.
    """
    ids = ids[:-1] if ids[-1] in self._ends else ids
    known = [i for i in ids if i < self._tokenizer.vocab_size]
    text = self._tokenizer.decode(known, skip_special=True)
    return (text.split('\n')[0] if self._lines else text).strip()
