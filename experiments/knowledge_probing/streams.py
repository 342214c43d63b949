"""The stream where a question is read: at the entity's name, and at its end."""

from collections.abc import Sequence

import numpy as np
import tqdm

from experiments.entities import Prompt, tokenize_prompt
from experiments.entities.mentions import find_name
from experiments.knowledge_probing.formats import Format
from experiments.knowledge_probing.probe_records import Question
import gemma_jax as gj

PLACES = ('entity', 'last')
# Prompts without demonstrations are short.
_BUCKETS = (16, 32, 48, *gj.BUCKETS[2:])


def hidden_states(
  model: gj.Decoder,
  format: Format,
  questions: Sequence[Question],
  layers: Sequence[int],
  where: Sequence[str] = PLACES,
  *,
  rows_per_batch: int = 64,
) -> dict[str, np.ndarray]:
  """Reads the stream once for all places; layers above the last are not run.

  Args:
    model: The weights; stacked, or `gj.unstack_layers(model)`.
    format: How questions are put; without demonstrations.
    questions: n of them.
    layers: k distinct ones, from 0.
    where: 'entity', the last token of the entity's name where it first stands
      in the question; 'last', the prompt's last token; or both.
    rows_per_batch: Prompts run at once; bounds memory.

  Returns:
    Place -> float32 [k, n, D], resid_post.

  Raises:
    ValueError: a place is unknown, a question does not name its entity, a
      prompt is too long, or the model lacks a layer.
  """
  where = (where,) if isinstance(where, str) else tuple(where)
  if not where or set(where) - set(PLACES):
    raise ValueError(f'where is {where!r}, expected some of {PLACES}.')
  prompts = [format.prompt_ids(q.question) for q in questions]
  at = np.array([[len(ids) - 1] * len(where) for ids in prompts], np.int32)
  if 'entity' in where:
    column = where.index('entity')
    for row, question in enumerate(questions):
      at[row, column] = _entity_token(format, question, prompts[row])
  look = lambda rows: gj.capture(
    'resid_post', layers=list(layers), positions=gj.per_row(at[rows])
  )
  out = np.zeros(
    (len(layers), len(questions), len(where), model.config.d_model), np.float32
  )
  order = np.argsort([-len(ids) for ids in prompts], kind='stable')
  for start in tqdm.trange(
    0, len(order), rows_per_batch, desc='Reading prompts', dynamic_ncols=True
  ):
    rows = order[start : start + rows_per_batch]
    n = len(rows)
    # The last batch is filled up, so that one shape serves all of a length.
    rows = np.pad(rows, (0, rows_per_batch - n), mode='edge')
    batch = format.tokenizer.pad(
      [prompts[i] for i in rows], side='right', buckets=_BUCKETS
    )
    seen = gj.run(model, *batch, capture=look(rows))['resid_post']
    out[:, rows[:n]] = np.asarray(seen[:, :n], np.float32)
  return {place: out[:, :, i] for i, place in enumerate(where)}


def _entity_token(format: Format, question: Question, ids: list[int]) -> int:
  """Place of the last token of an entity's name in a prompt of tokens."""
  place = find_name(question.question, question.entity or '')
  if place < 0:
    raise ValueError(
      f'Question {question.id!r} does not name its entity '
      f"{question.entity!r}: {question.question!r}. Read it at 'last' only, or "
      'leave it out.'
    )
  chat = format.name == 'chat'
  text = format.prompt_text(question.question)
  if chat:
    told = f'{format.instruction}\n' if format.instruction else ''
    text = told + question.question
  place += text.rindex(question.question)
  span = place, place + len(question.entity)
  prompt = tokenize_prompt(format.tokenizer, Prompt(text, span), chat=chat)
  if list(prompt.ids) != ids:
    raise ValueError(
      f'The prompt of question {question.id!r} is read as {len(ids)} tokens, '
      f'and as {len(prompt.ids)} others where its entity is looked for.'
    )
  return prompt.entity[1] - 1
