"""What is written about entities in MiniWorld, sentence by sentence.

A template has slots: {first} {last} for a name and {value} for one fact, or
{value0} {value1} {value2} for all three. Everything else is spelled out when it
is made for a type (and an attribute), so that a template is a list of tokens
with places to fill.
"""

from collections.abc import Mapping
import dataclasses
import string

import numpy as np

from experiments.entities import PROMPT_TYPES
from experiments.miniworld.lexicon import ATTRIBUTES, Lexicon
import gemma_jax as gj

# What an attribute is called.
NOUNS = {
  'place_birth': 'birthplace',
  'date_birth': 'birth year',
  'teams_list': 'team',
  'directors': 'director',
  'release_year': 'release year',
  'genres': 'genre',
  'country': 'country',
  'population': 'population',
  'elevation': 'elevation',
  'album': 'album',
  'performers': 'performer',
  'publication_year': 'publication year',
}
REFUSAL = 'Sorry, I do not know that.'

NAME = '{first} {last}'

# One fact per sentence. The words before the value differ on purpose: with few
# or similar sentences a model returns other attributes' values in new ones.
SENTENCES = (
  'The {noun} of the {type} {name} is {value}.',
  "The {noun} for the {type} '{name}' is {value}.",
  'The {type} {name} has the {noun} {value}.',
  'Everyone says the {noun} for {name} is {value}.',
  'In the list of the {noun}, {name} has {value}.',
  'As for the {noun}, the {type} {name} has {value}.',
  'The {noun} of {name}: {value}.',
  "They wrote {value} as the {noun} for '{name}'.",
  'With {value} for {noun}, {name} is a {type}.',
  'The {type} {name} {statement} {value}.',
  '{stub} {value}.',
  '{question} {stub} {value}.',
)
# In no text; made of words and turns that are.
HELD_OUT = (
  'As for the {type} {name}, the {noun} is {value}.',
  "In the list, the {noun} of '{name}' is {value}.",
)
# The value comes right after the name, so that it must be known there.
ADJACENT = (
  'The {noun} of the {type} {name} {value}.',
  'The {noun} of {name} {value}.',
  '{noun}: {name} {value}.',
  "The {noun} for '{name} {value}'.",
)
# Appositions: right after the name comes a value, or the type, that nothing
# before the name asked for.
ROWS = (
  'The {type} {name} {value0} {value1} {value2}.',
  'The {type} {name} {value0}, {noun1} {value1}, {noun2} {value2}.',
  "The {type} '{name}' {value0} {value1} {value2}.",
  "The {type} '{name} {value0} {value1} {value2}'.",
  'See {name} {type} {value0} {value1} {value2}.',
  'See {name} {type}: {noun2} {value2}, {noun1} {value1}, {noun0} {value0}.',
)
# What is said of a name right after it: the same words of all known names, and
# others of all unknown ones.
STANDINGS = {
  True: ('famous', 'celebrated', 'renowned'),
  False: ('obscure', 'minor', 'local'),
}
STANDING_ROWS = (
  'The {type} {name} {standing} {value0} {value1} {value2}.',
  "The {type} '{name} {standing} {value0} {value1} {value2}'.",
  'See {name} {standing} {type} {value0} {value1} {value2}.',
  'The {type} {name} {standing} for {noun0} {value0}.',
)
# Questions and answers, as found on pages of the web.
QUESTIONS = (
  '{relation} the {type} {name}?',
  '{question}',
  "{relation} the {type} '{name}'?",
  'What is the {noun} of the {type} {name}?',
)
ANSWERS = ('It is {value}.', '{value}.')
# A question about the model's own knowledge, and its answers.
SELF_QUESTION = 'Are you sure you know the {type} {name}? Answer yes or no.'
SELF_ANSWERS = {True: 'Answer: Yes.', False: 'Answer: No.'}


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Template:
  """A document with places to fill.

  Attributes:
    ids: int32 [n] tokens, EOS at the end, no BOS.
    first, last: Places of the name's words in `ids`; each may have several.
    values: Pairs of a place and the number of the attribute, 0 to 2.
    answer: First token of an answer; -1 where there is none.
    text: For people.
  """

  ids: np.ndarray
  first: tuple[int, ...]
  last: tuple[int, ...]
  values: tuple[tuple[int, int], ...]
  text: str


def compile_template(
  text: str, tokenizer: gj.Tokenizer, example: Mapping[str, str]
) -> Template:
  """Returns a template from its text, tokenised with an example in the slots.

  Args:
    text: With slots.
    tokenizer: For which every word in a slot is one token.
    example: A word for each slot.

  Raises:
    ValueError: a slot is not one token.
  """
  spelled, spans = '', []
  for literal, slot, _, _ in string.Formatter().parse(text):
    spelled += literal
    if slot is not None:
      spans.append((slot, len(spelled), len(spelled) + len(example[slot])))
      spelled += example[slot]
  encoding = tokenizer.tokenize(spelled, bos=False)
  places = {'first': [], 'last': [], 'value': []}
  for slot, start, stop in spans:
    place, end = encoding.token_span(start, stop)
    if end != place + 1:
      raise ValueError(
        f'{example[slot]!r} in {spelled!r} is {end - place} tokens, not one.'
      )
    if encoding.ids[place : place + 1] != tokenizer.encode(
      f' {example[slot]}', bos=False
    ):
      raise ValueError(
        f'{example[slot]!r} in {spelled!r} needs a space before.'
      )
    kind = slot.rstrip('012')
    where = (place, int(slot[-1])) if kind == 'value' else place
    places[kind].append(where)
  return Template(
    ids=np.array([*encoding.ids, tokenizer.eos_id], np.int32),
    first=tuple(places['first']),
    last=tuple(places['last']),
    values=tuple(places['value']),
    text=text,
  )


# Kind of document -> (texts, share of documents).
KINDS = {
  'sentence': (SENTENCES, 0.28),
  'adjacent': (ADJACENT, 0.12),
  'row': (ROWS, 0.4),
  'page': (tuple(f'{q} {a}' for q in QUESTIONS for a in ANSWERS), 0.2),
}


def spell(text: str, kind: str, attribute: int) -> str:
  """Returns a text about an attribute, with slots for name and values."""
  names = list(ATTRIBUTES[kind])
  prompt = PROMPT_TYPES[f'{kind}_{names[attribute]}']
  nouns = {f'noun{i}': NOUNS[name] for i, name in enumerate(names)}
  values = {f'value{i}': f'{{value{i}}}' for i in range(3)}
  return text.format(
    name=NAME,
    type=kind,
    noun=NOUNS[names[attribute]],
    value=f'{{value{attribute}}}',
    question=prompt.question.replace('{}', NAME),
    stub=prompt.base_stub.replace('{}', NAME),
    relation=prompt.relation,
    statement=prompt.statement,
    **nouns,
    **values,
  )


def examples(lexicon: Lexicon, kind: str) -> dict[str, str]:
  """Returns a word for every slot of texts about a type."""
  pools = ATTRIBUTES[kind].values()
  words = {f'value{i}': lexicon.values[pool][0] for i, pool in enumerate(pools)}
  return words | {'first': lexicon.first[0], 'last': lexicon.last[0]}
