"""Pairs of statements, of a known and of an unknown entity.

Section 6.1 of arXiv 2411.14257's code: statements "The city Paris is located
in" whose names have the same number of tokens, and whose relation has 3; each
of an unknown entity with one of a known entity and of the same relation. The
answer is the next token of the text after the statement.

Each entity is in one pair at most, so that pairs are independent.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
import dataclasses
import zlib

import numpy as np

from experiments.entities import (
  Entity,
  prompt_types_of,
  statement_prompt,
  tokenize_prompt,
)
from experiments.latents import CLASSES
import gemma_jax as gj


@dataclasses.dataclass(frozen=True, kw_only=True)
class Statement:
  """Holds what the model reads about an entity, and how it could go on.

  Attributes:
    entity: Name of the entity.
    prompt_type: Name of what is stated.
    text: The whole statement.
    ids: Tokens of the statement, BOS first.
    span: The name's tokens [start, stop).
    items: Parts of the entity's attribute, each with its first token.
  """

  entity: str
  prompt_type: str
  text: str
  ids: tuple[int, ...]
  span: tuple[int, int]
  items: tuple[tuple[str, int], ...]

  @property
  def name_tokens(self) -> int:
    """Returns the number of tokens of the name."""
    return self.span[1] - self.span[0]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pair:
  """Holds two statements of equal length and the same relation.

  Attributes:
    known, unknown: The statements.
    answers: The texts (known's, unknown's).
    answer_ids: Their first tokens, which differ.
  """

  known: Statement
  unknown: Statement
  answers: tuple[str, str]
  answer_ids: tuple[int, int]

  def to_dict(self) -> dict:
    """Returns the pair for a line of pairs.jsonl, or an identity."""
    return {
      'prompt_type': self.known.prompt_type,
      'known': self.known.text,
      'unknown': self.unknown.text,
      'known_entity': self.known.entity,
      'unknown_entity': self.unknown.entity,
      'known_answer': self.answers[0],
      'unknown_answer': self.answers[1],
      'answer_ids': list(self.answer_ids),
      'known_ids': list(self.known.ids),
      'unknown_ids': list(self.unknown.ids),
    }


def make_pairs(
  model: gj.Decoder,
  tokenizer: gj.Tokenizer,
  known: Sequence[Entity],
  unknown: Sequence[Entity],
  *,
  count: int = 32,
  name_tokens: int | None = None,
  relation_tokens: int = 3,
  reference: bool = False,
  seed: int = 0,
) -> tuple[list[Pair], dict[str, int]]:
  """Makes pairs of one type of entities; counts what was dropped on the way.

  Args:
    model: The base model, which says which item of a list it would name.
    tokenizer: The model's tokenizer.
    known: Known entities of one type and split.
    unknown: Unknown entities of the same.
    count: Most pairs.
    name_tokens: Number of tokens of a name. Default: the commonest number.
    relation_tokens: Number of tokens that follow the name.
    reference: True to do as published: an answer that is a list stands for its
      last item, and the two relations of players' births are exchanged.
    seed: Random seed of the order in which entities are taken.

  Returns:
    The pairs, all of equal length; and counts of statements with names or
    relations of another length, of those without a partner, and of pairs
    dropped because both answers begin with the same token (they could not
    move a difference of logits).

  Raises:
    ValueError: there is no pair.
  """
  statements = {
    label: [
      statement
      for entity in _shuffled(entities, seed, label)
      for statement in _statements(tokenizer, entity, reference, seed)
    ]
    for label, entities in zip(CLASSES, (known, unknown), strict=True)
  }
  dropped = {'statements': sum(map(len, statements.values()))}
  statements = {
    label: [s for s in each if len(s.ids) - s.span[1] == relation_tokens]
    for label, each in statements.items()
  }
  left = sum(map(len, statements.values()))
  dropped['relation_of_other_length'] = dropped['statements'] - left
  if name_tokens is None:
    name_tokens = _commonest(statements)
  statements = {
    label: [s for s in each if s.name_tokens == name_tokens]
    for label, each in statements.items()
  }
  fitting = sum(map(len, statements.values()))
  dropped['name_of_other_length'] = left - fitting
  couples = _couples(statements)
  dropped['without_partner'] = fitting - 2 * len(couples)
  dropped['same_answer_token'] = 0
  pairs = []
  for start in range(0, len(couples), count):
    chosen = _answers(model, couples[start : start + count], count, reference)
    for (one, other), ((a, i), (b, j)) in zip(
      couples[start : start + count], chosen, strict=True
    ):
      if len(pairs) == count:
        break
      if i == j:
        dropped['same_answer_token'] += 1
        continue
      pairs.append(
        Pair(known=one, unknown=other, answers=(a, b), answer_ids=(i, j))
      )
    if len(pairs) == count:
      break
  if not pairs:
    raise ValueError(
      f'No pair has names of {name_tokens} and relations of {relation_tokens} '
      f'tokens: {dropped}. Try --name_tokens and --relation_tokens.'
    )
  return pairs, dropped | {'pairs': len(pairs)}


def pair_tokens(pairs: Sequence[Pair]) -> dict[str, np.ndarray]:
  """Returns 'known', 'unknown' -> int32 [n, T]; 'answers' -> int32 [n, 2]."""
  return {
    'known': np.asarray([p.known.ids for p in pairs], np.int32),
    'unknown': np.asarray([p.unknown.ids for p in pairs], np.int32),
    'answers': np.asarray([p.answer_ids for p in pairs], np.int32),
  }


def token_labels(tokenizer: gj.Tokenizer, pairs: Sequence[Pair]) -> list[str]:
  """Returns each token's text where all pairs agree, or else its part."""
  start, stop = pairs[0].known.span
  columns = np.asarray([s.ids for p in pairs for s in (p.known, p.unknown)]).T
  labels = []
  for t, column in enumerate(columns):
    if len(set(column.tolist())) == 1:
      text = tokenizer.token_strings(column[:1].tolist())[0]
    elif t < start:
      text = f'start {t}'
    elif t < stop:
      text = f'name {t - start + 1}'
    else:
      text = f'relation {t - stop + 1}'
    labels.append(text)
  return labels


def _shuffled(entities, seed, label) -> list[Entity]:
  kind = entities[0].type if entities else ''
  rng = np.random.default_rng([seed, zlib.crc32(f'{kind}/{label}'.encode())])
  return [entities[i] for i in rng.permutation(len(entities))]


def _statements(tokenizer, entity, reference, seed) -> list[Statement]:
  """Returns the statements about an entity, in an order of its own."""
  found = []
  types = [each for each in prompt_types_of(entity) if each.statement]
  key = zlib.crc32(f'{entity.type}/{entity.name}'.encode())
  for i in np.random.default_rng([seed, key]).permutation(len(types)):
    prompt = statement_prompt(types[i], entity, swapped=reference)
    tokens = tokenize_prompt(tokenizer, prompt)
    answer = entity.attributes[types[i].attribute]
    items = [part.strip() for part in answer.split(',')]
    items = tuple(
      (item, tokenizer.encode(f' {item}', bos=False, parse_special=False)[0])
      for item in items
      if item
    )
    if items:
      found.append(
        Statement(
          entity=entity.name,
          prompt_type=types[i].name,
          text=tokens.text,
          ids=tuple(tokens.ids),
          span=tokens.entity,
          items=items,
        )
      )
  return found


def _commonest(statements: Mapping[str, Sequence[Statement]]) -> int:
  """Returns how many tokens most names of both classes have."""
  counts = [
    Counter(s.name_tokens for s in statements[label]) for label in CLASSES
  ]
  lengths = set(counts[0]) | set(counts[1])
  fewest = lambda n: min(each[n] for each in counts)
  return max(sorted(lengths), key=fewest, default=0)


def _couples(statements) -> list[tuple[Statement, Statement]]:
  """Pairs each unknown entity with the first known one of its relation."""
  waiting: dict = {}
  for statement in statements['known']:
    key = (statement.prompt_type, len(statement.ids), statement.span)
    waiting.setdefault(key, []).append(statement)
  used, couples = {label: set() for label in CLASSES}, []
  for statement in statements['unknown']:
    if statement.entity in used['unknown']:
      continue
    key = (statement.prompt_type, len(statement.ids), statement.span)
    partner = next(
      (s for s in waiting.get(key, ()) if s.entity not in used['known']), None
    )
    if partner is not None:
      couples.append((partner, statement))
      used['known'].add(partner.entity)
      used['unknown'].add(statement.entity)
  return couples


def _answers(model, couples, rows, reference):
  """Returns for each couple the (item, token) of both sides, known first."""
  if reference:
    return [(one.items[-1], other.items[-1]) for one, other in couples]
  if all(len(s.items) == 1 for couple in couples for s in couple):
    return [(one.items[0], other.items[0]) for one, other in couples]
  # As many rows every time, so that one program serves all.
  padded = [*couples, *[couples[-1]] * (rows - len(couples))]
  tokens = np.asarray([s.ids for couple in padded for s in couple], np.int32)
  logits = np.asarray(gj.run(model, tokens, logits_at='last').logits[:, 0])
  likeliest = [
    max(s.items, key=lambda item: logits[i, item[1]])
    for i, s in enumerate(s for couple in couples for s in couple)
  ]
  return list(zip(likeliest[::2], likeliest[1::2], strict=True))
