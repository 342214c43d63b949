"""Attention edges by name: 'last:entity' is the last token's view of the name.

Sets of a prompt's tokens:

  bos           the first
  entity        those of the name
  entity_last   the last token of the name
  relation      those that say what is asked
  rest          those that are none of bos, entity and relation
  before        between bos and the entity
  after         from the entity's end on, the last one included
  last          the last
  -2            the last but one; any negative number

Sets are joined by '+': 'bos+relation'. An edge goes from a query to a key,
which is no later; a token always sees itself.
"""

from collections.abc import Sequence
import dataclasses

import numpy as np

from experiments.attention.cases import Case

NAMES = (
  'bos',
  'entity',
  'entity_last',
  'relation',
  'rest',
  'before',
  'after',
  'last',
)


@dataclasses.dataclass(frozen=True)
class Edges:
  """A set of attention edges.

  Attributes:
    queries: The set of tokens that look.
    keys: The set of tokens that they look at.
  """

  queries: str
  keys: str

  def __str__(self):
    return f'{self.queries}:{self.keys}'

  @classmethod
  def parse(cls, text: str) -> 'Edges':
    """Reads 'last:entity'.

    Raises:
      ValueError: it is not two sets of tokens.
    """
    queries, colon, keys = text.partition(':')
    for name in (*queries.split('+'), *keys.split('+')):
      if not colon or (name not in NAMES and not _is_offset(name)):
        raise ValueError(
          f'{text!r} names no attention edges; expected QUERIES:KEYS, such as '
          f"'last:entity', each of {', '.join(NAMES)}, or a negative number, "
          "or several joined by '+'."
        )
    return cls(queries, keys)

  def first(self, case: Case) -> int:
    """Returns the first token whose view changes."""
    return int(np.flatnonzero(places(self.queries, case))[0])


def places(text: str, case: Case) -> np.ndarray:
  """Returns which tokens of a prompt a set has, bool [length].

  Raises:
    ValueError: it has none of them.
  """
  chosen = np.zeros(case.length, bool)
  for name in text.split('+'):
    chosen |= _one(name, case)
  if not chosen.any():
    raise ValueError(
      f'{case.text!r} has no token in {text!r}; leave these edges out.'
    )
  return chosen


def without_entity(case) -> tuple:
  """Returns what is left of a case whose later tokens do not see the entity.

  Prompts that have this in common are one computation from there on, and no
  more than one observation.

  Args:
    case: A case or a question, with `ids` and `span`.
  """
  start, stop = case.span
  return tuple(case.ids[:start]), stop - start, tuple(case.ids[stop:])


def edge_masks(
  edges: Sequence[Edges], cases: Sequence[Case], size: int
) -> tuple[np.ndarray, np.ndarray]:
  """Returns queries and keys by position, bool [P, E, size] each."""
  masks = np.zeros((2, len(cases), len(edges), size), bool)
  for p, case in enumerate(cases):
    for e, edge in enumerate(edges):
      masks[0, p, e, : case.length] = places(edge.queries, case)
      masks[1, p, e, : case.length] = places(edge.keys, case)
  return masks[0], masks[1]


def _one(name: str, case: Case) -> np.ndarray:
  at = np.arange(case.length)
  start, stop = case.span
  if name == 'rest':
    named = [_one(each, case) for each in ('bos', 'entity', 'relation')]
    return ~np.any(named, axis=0)
  if _is_offset(name):
    return at == case.length + int(name)
  return {
    'bos': at == 0,
    'entity': (at >= start) & (at < stop),
    'entity_last': at == stop - 1,
    'relation': (at >= case.relation[0])
    & (at < case.relation[1])
    & ~((at >= start) & (at < stop)),
    'before': (at > 0) & (at < start),
    'after': at >= stop,
    'last': at == case.length - 1,
  }[name]


def _is_offset(name: str) -> bool:
  return name.startswith('-') and name[1:].isdecimal() and int(name) < 0
