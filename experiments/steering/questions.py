"""Questions to a chat model about entities that it does and does not know."""

from collections.abc import Mapping, Sequence
import dataclasses
import zlib

import numpy as np

from experiments import entities as entities_lib
from experiments.latents import CLASSES
import gemma_jax as gj

# What makes an attribute's values a closed set.
MOST_VALUES, REPEATS = 300, 3


@dataclasses.dataclass(frozen=True, kw_only=True)
class Question:
  """One question, as the model gets it.

  Attributes:
    entity: Name.
    type: Type of the entity.
    entity_class: 'known' or 'unknown', by the base model's answers.
    prompt_type: Name of what is asked.
    answer: The correct one.
    text: What the user says.
    ids: The chat's tokens, up to where the model's answer begins.
    span: The entity's tokens [start, stop).
    values: All values of what is asked for, where they are few and come again;
      None where anything may be one.
  """

  entity: str
  type: str
  entity_class: str
  prompt_type: str
  answer: str
  text: str
  ids: tuple[int, ...]
  span: tuple[int, int]
  values: tuple[str, ...] | None = None

  @property
  def length(self) -> int:
    """Number of tokens."""
    return len(self.ids)


def make_questions(
  tokenizer: gj.Tokenizer,
  known: Mapping[str, Sequence[entities_lib.Entity]],
  unknown: Mapping[str, Sequence[entities_lib.Entity]],
  *,
  per_class: int = 100,
  seed: int = 42,
) -> list[Question]:
  """Returns the questions of arXiv 2411.14257, section 5.

  As many known as unknown entities of each type are taken, the first ones;
  all pairs of an entity and something asked about its type are shuffled, and
  the first `per_class` are kept. Types do not depend on each other.

  Args:
    tokenizer: Tokenizer of the chat model.
    known: Type -> entities of one split.
    unknown: Type -> entities of the same split.
    per_class: At most so many questions per type and class.
    seed: Random seed of the shuffles.

  Raises:
    ValueError: a type has no known or no unknown entity, or none of its
      questions can be asked.
  """
  questions = []
  for kind in sorted(known.keys() | unknown.keys()):
    classes = dict(
      zip(CLASSES, (known.get(kind, ()), unknown.get(kind, ())), strict=True)
    )
    values = closed_values([*classes['known'], *classes['unknown']])
    n = min(map(len, classes.values()))
    if n == 0:
      raise ValueError(
        f'Of type {kind!r} there are {len(classes["known"])} known and '
        f'{len(classes["unknown"])} unknown entities to ask about; both are '
        'needed. Label more entities, or leave the type out.'
      )
    for name in CLASSES:
      pairs = [
        (entity, prompt_type)
        for entity in classes[name][:n]
        for prompt_type in entities_lib.prompt_types_of(entity)
        if prompt_type.relation
      ]
      if not pairs:
        raise ValueError(
          f'The {name} entities of type {kind!r} have no attribute that is '
          'asked for. Give attributes, or leave the type out.'
        )
      rng = np.random.default_rng([seed, zlib.crc32(f'{kind}/{name}'.encode())])
      questions += [
        _render(tokenizer, *pairs[i], name, values)
        for i in rng.permutation(len(pairs))[:per_class]
      ]
  return questions


def closed_values(
  entities: Sequence[entities_lib.Entity],
) -> dict[str, tuple[str, ...]]:
  """Returns the values of attributes that are few, by attribute.

  Those of which each comes REPEATS times or more on average, and which are
  MOST_VALUES at most.

  Args:
    entities: Entities of one type.
  """
  said = {}
  for entity in entities:
    for attribute, value in entity.attributes.items():
      said.setdefault(attribute, []).append(value)
  return {
    attribute: tuple(sorted(set(values)))
    for attribute, values in said.items()
    if len(set(values)) <= min(MOST_VALUES, len(values) / REPEATS)
  }


def _render(tokenizer, entity, prompt_type, entity_class, values) -> Question:
  prompt = entities_lib.refusal_question(prompt_type, entity)
  tokens = entities_lib.tokenize_prompt(tokenizer, prompt, chat=True)
  return Question(
    entity=entity.name,
    type=entity.type,
    entity_class=entity_class,
    prompt_type=prompt_type.name,
    answer=entity.attributes[prompt_type.attribute],
    text=prompt.text,
    ids=tuple(tokens.ids),
    span=tokens.entity,
    values=values.get(prompt_type.attribute),
  )
