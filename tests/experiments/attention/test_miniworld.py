"""Knockouts in the bundled world, whose models are known to read names early.

A name says nothing unless both of its words are seen, and nothing after the
name says whether it is known. So without the entity a fact is lost, and the
chat model, which declines only when it sees an unknown name, answers.
"""

import dataclasses

import numpy as np
import pytest

from experiments import inputs
from experiments.attention import make_cases, parse_heads, parse_windows
from experiments.attention.edges import Edges
from experiments.attention.knockouts import knock_out
from experiments.entities import read_entities


@pytest.fixture(scope='module')
def people():
  """Some entities of every type; which are known the models must say."""
  entities = read_entities(inputs.ENTITIES)
  return {kind: found[:12] for kind, found in entities.items()}


def swept(reader, people, edge, wanted=None):
  """Probability [1 + L, P] of what is wanted, cut from each layer on."""
  tokenizer = inputs.read_tokenizer(reader)
  cases = make_cases(
    tokenizer, people, people, chat=wanted is not None, per_class=12
  )
  tokens = tokenizer.encode(wanted, bos=False)[:1] if wanted else None
  sweep = knock_out(
    reader.load(),
    cases,
    [Edges.parse(edge)],
    parse_windows(['from'], reader.config),
    parse_heads(['all'], reader.config),
    [tokens or case.answer_tokens for case in cases],
  )
  return np.exp(sweep.log_prob[:, :, 0])


def test_statements_with_and_without_the_space_before_a_number(people):
  """Without it they are their text alone; with it digits come next.

  Numbers of this world are words, but for 1980, which begins as in Gemma.
  """
  tokenizer = inputs.read_tokenizer(inputs.open_model(str(inputs.BASE)))
  (space,) = tokenizer.encode(' 1980', bos=False)[:1]
  assert not tokenizer.decode([space]).strip()
  number = lambda value: '1980' if value.isdigit() else value
  people = {
    kind: [
      dataclasses.replace(
        one, attributes={k: number(v) for k, v in one.attributes.items()}
      )
      for one in found
    ]
    for kind, found in people.items()
  }
  plain = make_cases(tokenizer, people, people, lead=False)
  asked = make_cases(tokenizer, people, people)
  numbers = 0
  for short, long in zip(plain, asked, strict=True):
    assert list(short.ids) == tokenizer.encode(short.text)
    assert short.span == long.span and short.relation[1] == short.length
    if short.answer == '1980':
      numbers += 1
      assert long.ids == (*short.ids, space)
      assert long.relation == (short.relation[0], short.relation[1] + 1)
    else:
      assert long == short
    said = [*long.ids, long.answer_tokens[0]]
    whole = tokenizer.encode(f'{short.text} {short.answer}')
    assert whole[: len(said)] == said
  assert 0 < numbers < len(plain)


def test_recall_needs_the_entity_in_early_layers(people):
  p = swept(inputs.open_model(str(inputs.BASE)), people, 'last:entity')
  knows = p[0] > 0.5
  assert knows.mean() > 0.2
  uncut, cut = p[0, knows].mean(), p[1:, knows].mean(axis=1)  # by layer
  assert uncut > 0.8 and cut[0] < 0.1
  # Read by then: what is lost is little, though not nothing.
  assert np.abs(uncut - cut[6:]).max() < 0.1 * (uncut - cut[0])


def test_declining_and_answering_need_to_see_the_name(people):
  chat = inputs.open_model(str(inputs.CHAT))
  p = swept(chat, people, 'after:entity', 'Sorry')
  declines = p[0] > 0.5
  assert declines.mean() > 0.2
  uncut, cut = p[0, declines].mean(), p[1:, declines].mean(axis=1)
  # Without the name both are alike: it is the question's form that decides, and
  # which way is a matter of the model.
  assert uncut > 0.8 and p[0, ~declines].mean() < 0.2
  assert abs(p[1, declines].mean() - p[1, ~declines].mean()) < 0.15
  assert np.abs(uncut - cut[6:]).max() < 0.1 * (uncut - cut[0])
