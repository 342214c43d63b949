"""Which entities a model is asked about."""

from collections.abc import Mapping, Sequence
import zlib

import numpy as np

from experiments.entities import Entity, tokenize_prompt
from experiments.latents import CLASSES
from experiments.self_report.wording import Wording
from experiments.steering import Question, make_questions
import gemma_jax as gj

# In place of the attribute that other questions ask for.
SELF_REPORT = 'self_report'


def ask_about(
  tokenizer: gj.Tokenizer,
  known: Mapping[str, Sequence[Entity]],
  unknown: Mapping[str, Sequence[Entity]],
  wording: Wording,
  *,
  per_class: int = 100,
  seed: int = 0,
) -> list[Question]:
  """Returns one question about every entity, or about some drawn ones.

  Args:
    tokenizer: The chat model's tokenizer.
    known: Type -> known entities of one split.
    unknown: Type -> unknown entities of that split.
    wording: How the question is put.
    per_class: Most entities per type and class.
    seed: Random seed of the draw.

  Raises:
    ValueError: there is no known or no unknown entity.
  """
  questions = []
  for label, group in zip(CLASSES, (known, unknown), strict=True):
    before = len(questions)
    for kind, entities in sorted(group.items()):
      rng = np.random.default_rng(
        [seed, zlib.crc32(f'{kind}/{label}'.encode())]
      )
      order = rng.permutation(len(entities))[:per_class]
      questions += [
        _question(tokenizer, entities[i], label, wording) for i in sorted(order)
      ]
    if len(questions) == before:
      raise ValueError(f'There are no {label} entities to ask about.')
  return questions


def ask_per_relation(
  tokenizer: gj.Tokenizer,
  known: Mapping[str, Sequence[Entity]],
  unknown: Mapping[str, Sequence[Entity]],
  wording: Wording,
  *,
  per_class: int = 100,
) -> list[Question]:
  """Returns a question for each relation of an entity, as published.

  The question does not name the relation, so the same prompt comes again.
  Arguments and errors are those of `ask_about`.
  """
  by_name = {
    (entity.type, entity.name): entity
    for group in (known, unknown)
    for entities in group.values()
    for entity in entities
  }
  return [
    _question(tokenizer, by_name[q.type, q.entity], q.entity_class, wording)
    for q in make_questions(tokenizer, known, unknown, per_class=per_class)
  ]


def ask_ordinary(
  tokenizer: gj.Tokenizer,
  known: Mapping[str, Sequence[Entity]],
  unknown: Mapping[str, Sequence[Entity]],
  questions: Sequence[Question],
) -> list[Question]:
  """Returns an ordinary question about each entity that is asked about.

  The first that there is for it; nothing is put into the model's mouth.

  Args:
    tokenizer: The chat model's tokenizer.
    known, unknown: As for `ask_about`.
    questions: Questions about themselves, one entity of which may come again.
  """
  asked = {(q.type, q.entity) for q in questions}
  first = {}
  for question in make_questions(tokenizer, known, unknown, per_class=10**9):
    key = question.type, question.entity
    if key in asked:
      first.setdefault(key, question)
  return list(first.values())


def _question(tokenizer, entity, label, wording) -> Question:
  prompt = wording.about(entity)
  tokens = tokenize_prompt(tokenizer, prompt, chat=True, stub=wording.prefix)
  return Question(
    entity=entity.name,
    type=entity.type,
    entity_class=label,
    prompt_type=SELF_REPORT,
    answer=wording.yes if label == CLASSES[0] else wording.no,
    text=prompt.text,
    ids=tuple(tokens.ids),
    span=tokens.entity,
  )
