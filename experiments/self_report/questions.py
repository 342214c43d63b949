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
  """One question about every entity, or about some drawn ones.

  Args:
    tokenizer: Of the chat model.
    known: Type -> entities of one split.
    unknown: Likewise.
    wording: Of the question.
    per_class: At most so many entities per type and class.
    seed: Of the draw.

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
  """As published: an entity once for each of its relations that is drawn.

  The question does not name the relation, so that the same prompt comes again.
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
