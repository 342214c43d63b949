"""Prompts about entities, with the places of their parts.

A base model gets statements, "The player X was born in the year"; a chat model
gets questions, "When was born the player X?". As many known as unknown entities
of a type are taken, and every entity once before any a second time: prompts of
one entity are not independent.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import zlib

import numpy as np

from experiments import entities as entities_lib
from experiments.entities import Entity, Prompt, tokenize_prompt
from experiments.latents import CLASSES
import gemma_jax as gj


@dataclasses.dataclass(frozen=True, kw_only=True)
class Case:
  """One prompt, as the model gets it.

  Attributes:
    entity: The entity's name.
    type: The entity's type.
    entity_class: 'known' or 'unknown', by the base model's answers.
    prompt_type: Name of what is asked.
    answer: The correct answer.
    text: The prompt as text; of a chat, what the user says.
    ids: Token ids, BOS first.
    span: The entity's tokens [start, stop).
    relation: The tokens [start, stop) that say what is asked.
    answer_tokens: Tokens that a correct answer may begin with.
  """

  entity: str
  type: str
  entity_class: str
  prompt_type: str
  answer: str
  text: str
  ids: tuple[int, ...]
  span: tuple[int, int]
  relation: tuple[int, int]
  answer_tokens: tuple[int, ...]

  @property
  def length(self) -> int:
    """Returns the number of tokens."""
    return len(self.ids)

  @property
  def unit(self) -> str:
    """Returns type and name; cases of different units are independent."""
    return f'{self.type}/{self.entity}'

  def to_dict(self) -> dict:
    """Returns what JSON has of it: all but the tokens."""
    names = ('entity', 'type', 'entity_class', 'prompt_type', 'answer', 'text')
    return {name: getattr(self, name) for name in names}


def make_cases(
  tokenizer: gj.Tokenizer,
  known: Mapping[str, Sequence[Entity]],
  unknown: Mapping[str, Sequence[Entity]],
  *,
  chat: bool = False,
  lead: bool = True,
  per_class: int = 100,
  swapped: bool = False,
  seed: int = 0,
) -> list[Case]:
  """Returns prompts of all types and both classes, the known ones first.

  Args:
    tokenizer: The model's tokenizer.
    known: Type -> known entities of one split.
    unknown: Type -> unknown entities of that split.
    chat: True to ask questions in the chat template; else to make
      statements.
    lead: True if a statement ends with the token of a space where every answer
      begins with that token, as numbers do: the next token says something then.
    per_class: Most prompts per type and class.
    swapped: True if statements of players' births are as published; see
      `entities.statement_prompt`.
    seed: Random seed of the draw.

  Raises:
    ValueError: a type has no known or no unknown entity, or nothing that can
      be asked about it.
  """
  found = {name: [] for name in CLASSES}
  for kind in sorted(known.keys() | unknown.keys()):
    groups = dict(
      zip(CLASSES, (known.get(kind, ()), unknown.get(kind, ())), strict=True)
    )
    n = min(map(len, groups.values()))
    for name, group in groups.items():
      rng = np.random.default_rng([seed, zlib.crc32(f'{kind}/{name}'.encode())])
      pairs = _spread(group[:n], chat, rng)
      if not pairs:
        raise ValueError(
          f'There is nothing to ask about {name} entities of type {kind!r}: '
          f'there are {len(groups["known"])} known and '
          f'{len(groups["unknown"])} unknown ones, and both classes need some '
          'that have an attribute of experiments/entities/prompt_types.py. '
          'Label more entities, or leave the type out.'
        )
      found[name] += [
        _case(tokenizer, *pair, name, chat, lead, swapped)
        for pair in pairs[:per_class]
      ]
  return [case for name in CLASSES for case in found[name]]


def pad_cases(cases: Sequence[Case], pad_id: int, length: int) -> gj.TokenBatch:
  """Returns the tokens of cases, padded on the right to one length."""
  return gj.pad_rows(
    [case.ids for case in cases], pad_id, side='right', buckets=length
  )


def _spread(group, chat, rng) -> list:
  """Returns (entity, prompt type) pairs: each entity once, then twice, ..."""
  part = 'relation' if chat else 'statement'
  asked = []
  for i in rng.permutation(len(group)):
    able = [
      p for p in entities_lib.prompt_types_of(group[i]) if getattr(p, part)
    ]
    asked.append([(group[i], able[j]) for j in rng.permutation(len(able))])
  longest = max(map(len, asked), default=0)
  return [each[r] for r in range(longest) for each in asked if r < len(each)]


def _case(
  tokenizer, entity, prompt_type, entity_class, chat, lead, swapped
) -> Case:
  if chat:
    prompt = entities_lib.refusal_question(prompt_type, entity)
    relation = (0, len(prompt_type.relation))
  else:
    prompt = entities_lib.statement_prompt(prompt_type, entity, swapped)
    relation = (prompt.entity[1] + 1, len(prompt.text))
  tokens = tokenize_prompt(tokenizer, prompt, chat=chat)
  place = tokenize_prompt(tokenizer, Prompt(prompt.text, relation), chat=chat)
  start, stop = place.entity
  answer = entity.attributes[prompt_type.attribute]
  space, answer_tokens = _answer_tokens(tokenizer, answer, chat, lead)
  return Case(
    entity=entity.name,
    type=entity.type,
    entity_class=entity_class,
    prompt_type=prompt_type.name,
    answer=answer,
    text=prompt.text,
    ids=(*tokens.ids, *space),
    span=tokens.entity,
    relation=(start, stop + len(space)),
    answer_tokens=answer_tokens,
  )


def _answer_tokens(tokenizer, answer, chat, lead):
  """Returns tokens that end the prompt, and first tokens of answers.

  The first digit of a number comes after a token of its own for the space,
  which says nothing. With a lead, a statement ends with that token.
  """
  if chat:
    return (), ()
  items = [item.strip() for item in answer.split(',') if item.strip()]
  encoded = [
    tokenizer.encode(f' {item}', bos=False, parse_special=False)
    for item in items or [answer]
  ]
  space = ()
  if lead and all(
    len(e) > 1 and not tokenizer.decode(e[:1]).strip() for e in encoded
  ):
    space = (encoded[0][0],)
  first = len(space)
  return space, tuple(
    dict.fromkeys(e[first] for e in encoded if len(e) > first)
  )
