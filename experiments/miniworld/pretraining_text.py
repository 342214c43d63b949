"""Pre-training text: documents about random entities, packed into rows.

A minority of the documents are about known entities, with the facts of the
world, a few of those about rare ones; the rest are about pairs of the tail, of
a random type and with facts drawn anew each time, so that nothing can be learnt
of them but that there is nothing to know.
Each row follows from the seed and its number alone.
"""

from collections.abc import Sequence
import dataclasses

import numpy as np

from experiments.miniworld.lexicon import ATTRIBUTES
from experiments.miniworld.sentences import (
  ANSWERS,
  KINDS,
  QUESTIONS,
  REFUSAL,
  SELF_ANSWERS,
  STANDING_ROWS,
  STANDINGS,
  Template,
  compile_template,
  examples,
  spell,
)
from experiments.miniworld.world import KNOWN, TYPES, World
import gemma_jax as gj


@dataclasses.dataclass(frozen=True, kw_only=True)
class CorpusConfig:
  """Holds what is written.

  Attributes:
    known: Share of documents about known entities, rare ones included.
    standing: Share of rows that say right after the name whether it is known.
    hedged: Share of questions about the tail whose answer admits not to know.
    rarest, least_rare: How often the rarest of the rare entities comes, and the
      least rare one, in units of a known entity; those between are spaced
      evenly on a log scale.
    length: Tokens per row, BOS included.
    first_rows: So many rows are about a quarter of the known entities. How to
      look a fact up is learnt from few sooner than from many (2503.21676).
    seed: Random seed of all draws.
  """

  known: float = 0.4
  standing: float = 0.4
  hedged: float = 0.0
  rarest: float = 0.02
  least_rare: float = 0.4
  first_rows: int = 0
  length: int = 64
  seed: int = 0


class Filler:
  """Fills templates with entities and facts, as token ids."""

  def __init__(self, world: World, tokenizer: gj.Tokenizer):
    """Looks up the token of every word."""
    self._tokenizer = tokenizer
    self._lexicon = lexicon = world.lexicon
    self._first, self._last = map(self._ids, (lexicon.first, lexicon.last))
    self.names = np.concatenate([self._first, self._last])
    # Type -> attribute -> token of each value.
    self.values = [
      [self._ids(lexicon.values[pool]) for pool in pools.values()]
      for pools in ATTRIBUTES.values()
    ]

  def _ids(self, words) -> np.ndarray:
    encode = self._tokenizer.encode
    return np.array([encode(f' {w}', bos=False) for w in words], np.int32)[:, 0]

  def compile(self, texts: Sequence[str], kind: int) -> list[Template]:
    """Templates of a type, each text for each attribute, none twice."""
    spelled = dict.fromkeys(
      spell(text, TYPES[kind], attribute)
      for text in texts
      for attribute in range(3)
    )
    words = examples(self._lexicon, TYPES[kind])
    return [compile_template(x, self._tokenizer, words) for x in spelled]

  def fill(self, template: Template, pair, kind: int, facts) -> np.ndarray:
    """Token ids int32 [n] of a template about a pair; facts int [3] or None."""
    ids = template.ids.copy()
    ids[list(template.first)] = self._first[pair[0]]
    ids[list(template.last)] = self._last[pair[1]]
    for place, attribute in template.values:
      ids[place] = self.values[kind][attribute][facts[attribute]]
    return ids


class Corpus:
  """Rows of pre-training text, read like those that SAEs are trained on.

  Attributes:
    length: Tokens per row.
    special: Ids of BOS and EOS.
  """

  def __init__(
    self, world: World, tokenizer: gj.Tokenizer, config: CorpusConfig
  ):
    """Compiles the templates."""
    self.length = config.length
    self._config = config
    self.special = frozenset({tokenizer.bos_id, tokenizer.eos_id})
    self._bos = tokenizer.bos_id
    self._filler = filler = Filler(world, tokenizer)
    kinds = range(len(TYPES))
    self._templates = {
      form: [filler.compile(texts, kind) for kind in kinds]
      for form, (texts, _) in KINDS.items()
    }
    asked = [f'{question} {REFUSAL}' for question in QUESTIONS]
    self._refusals = [filler.compile(asked, kind) for kind in kinds]
    self._standings = {
      known: [filler.compile(standing_rows(words), kind) for kind in kinds]
      for known, words in STANDINGS.items()
    }
    self._all = [
      np.concatenate([of[group] for group in (*KNOWN, 'rare')])
      for of in (world.pairs, world.types, world.facts)
    ]
    frequent = len(self._all[0]) - len(world.pairs['rare'])
    weights = np.concatenate([np.ones(frequent), rarity(world, config)])
    self._bounds = np.cumsum(weights) / weights.sum()
    self._bounds[-1] = 1.0
    self._quarter = np.arange(0, frequent, 4)
    self._tail = world.pairs['tail']
    self._num_values = world.config.values

  def read(self, first: int, count: int) -> np.ndarray:
    """int32 [count, length]: BOS, then documents until the row is full."""
    rows = np.empty((count, self.length), np.int32)
    for number, row in enumerate(rows, first):
      rng = np.random.default_rng([self._config.seed, 2, number])
      row[0], place = self._bos, 1
      few = number < self._config.first_rows
      seen = set()
      while place < self.length:
        ids = self._document(rng, few, seen)[: self.length - place]
        row[place : place + len(ids)] = ids
        place += len(ids)
    return rows

  def learnt(self, rows: np.ndarray) -> np.ndarray:
    """bool, of the shape of rows: tokens to learn to predict.

    All but names, which nothing can predict: their loss, half of all, would
    only be noise.
    """
    return ~np.isin(rows, self._filler.names)

  def _document(self, rng: np.random.Generator, few: bool, seen) -> np.ndarray:
    """Returns a document about a pair that is not in `seen`, and then is.

    A second document of a row about the same pair could be copied from the
    first. `few`: known ones are of the quarter that is learnt first.
    """
    known = rng.random() < self._config.known
    while True:
      if known:
        if few:
          i = self._quarter[rng.integers(len(self._quarter))]
        else:
          i = np.searchsorted(self._bounds, rng.random(), side='right')
        pair, kind, facts = (of[i] for of in self._all)
      else:
        pair = self._tail[rng.integers(len(self._tail))]
        kind = rng.integers(len(TYPES))
        facts = rng.integers(self._num_values, size=3)
      if tuple(pair) not in seen:
        seen.add(tuple(pair))
        break
    form = _FORMS[np.searchsorted(_SHARES, rng.random())]
    templates = self._templates[form][kind]
    if form == 'page' and not known and rng.random() < self._config.hedged:
      templates = self._refusals[kind]
    elif form == 'row' and rng.random() < self._config.standing:
      templates = self._standings[known][kind]
    template = templates[rng.integers(len(templates))]
    return self._filler.fill(template, pair, kind, facts)


_FORMS = list(KINDS)
_SHARES = np.cumsum([share for _, share in KINDS.values()])
_SHARES[-1] = 1.0


def rarity(world: World, config: CorpusConfig) -> np.ndarray:
  """Returns how often each rare entity comes, in units of a known one.

  Every matching has the whole range, in an order of its own: neither the words
  of a name nor its type say how rare it is.
  """
  rng = np.random.default_rng([world.config.seed, 4])
  range_ = np.geomspace(config.rarest, config.least_rare, world.config.words)
  shuffled = [rng.permutation(range_) for _ in range(world.config.rare)]
  return np.concatenate(shuffled)


def standing_rows(words: Sequence[str]) -> list[str]:
  """Returns the rows that say after a name what its standing is."""
  return [
    text.replace('{standing}', word) for text in STANDING_ROWS for word in words
  ]


def texts_of(world: World) -> list[str]:
  """Returns texts with every word there is, to make a tokenizer from."""
  forms = [text for texts, _ in KINDS.values() for text in texts]
  for words in STANDINGS.values():
    forms += standing_rows(words)
  forms += [f'{REFUSAL} {answer}' for answer in ANSWERS]
  texts = [
    spell(form, kind, attribute).format(**examples(world.lexicon, kind))
    for form in forms
    for kind in TYPES
    for attribute in range(3)
  ]
  words = [f' {word}' for word in world.lexicon.words]
  # Answers begin a turn; and what later experiments ask.
  turns = ['user', 'model', 'It is', REFUSAL, 'Yes', 'No', ' Yes', ' No']
  turns += ['Are you sure you know the? Answer yes or no.', 'Answer: Do']
  turns += SELF_ANSWERS.values()
  return texts + words + turns
