"""Pairs on the bundled world's tokenizer, whose names are two tokens."""

import dataclasses

import numpy as np
import pytest

from experiments import inputs
from experiments.entities import Entity, read_entities
from experiments.patching import make_pairs
from experiments.patching.pairs import pair_tokens, token_labels
import gemma_jax as gj


@pytest.fixture(scope='module')
def tokenizer():
  return inputs.read_tokenizer(inputs.open_model(str(inputs.BASE)))


@pytest.fixture(scope='module')
def entities():
  return read_entities(str(inputs.ENTITIES))


def pairs_of(tokenizer, known, unknown, **options):
  """Pairs, of entities whose answers need no model to choose from."""
  return make_pairs(None, tokenizer, known, unknown, **options)


def test_pairs_fit(tokenizer, entities):
  movies = entities['movie']
  pairs, dropped = pairs_of(tokenizer, movies[:60], movies[60:120])
  assert len(pairs) == dropped['pairs'] == 32
  names = set()
  for pair in pairs:
    one, other = pair.known, pair.unknown
    assert one.prompt_type == other.prompt_type
    assert len(one.ids) == len(other.ids) == 8
    assert one.span == other.span == (3, 5)
    assert one.ids[:3] == other.ids[:3] and one.ids[5:] == other.ids[5:]
    assert pair.answer_ids[0] != pair.answer_ids[1]
    assert pair.answers[0] == one.items[0][0]
    first = tokenizer.encode(f' {pair.answers[0]}', bos=False)[0]
    assert pair.answer_ids[0] == first
    names |= {one.entity, other.entity}
  assert len(names) == 64  # each entity is in one pair
  assert {p.known.prompt_type for p in pairs} > {'movie_genres'}
  rows = pair_tokens(pairs)
  assert rows['known'].shape == (32, 8) and rows['answers'].shape == (32, 2)
  labels = token_labels(tokenizer, pairs)
  assert labels[3:5] == ['name 1', 'name 2']
  assert labels[7] == 'relation 3' and len(labels) == 8
  again, _ = pairs_of(tokenizer, movies[:60], movies[60:120])
  assert again == pairs
  other, _ = pairs_of(tokenizer, movies[:60], movies[60:120], seed=1)
  assert other != pairs


def test_what_does_not_fit_is_counted(tokenizer):
  def city(name, country, **more):
    return Entity(name, 'city', {'country': country} | more)

  known = [
    city('Kekir Jomuk', 'Kafia', elevation='1105'),  # another relation
    city('Kekir Jomuk Kekir', 'Kafia'),  # a longer name
    city('Babat Rorus', 'Boria'),
    city('Babat Jomuk', 'Boria'),
  ]
  unknown = [city('Kekir Rorus', 'Fuzia'), city('Bataz Jomuk', 'Boria')]
  pairs, dropped = pairs_of(tokenizer, known, unknown, seed=3)
  assert dropped['statements'] == 7
  assert dropped['relation_of_other_length'] == 1
  assert dropped['name_of_other_length'] == 1
  assert dropped['without_partner'] == 1
  assert len(pairs) + dropped['same_answer_token'] == 2
  with pytest.raises(ValueError, match='name_tokens'):
    pairs_of(tokenizer, known, unknown, name_tokens=5)


def test_same_first_tokens_are_dropped(tokenizer):
  known = [Entity('Kekir Jomuk', 'city', {'country': 'Kafia'})]
  unknown = [Entity('Babat Rorus', 'city', {'country': 'Kafia'})]
  with pytest.raises(ValueError, match="'same_answer_token': 1"):
    pairs_of(tokenizer, known, unknown)


def test_the_item_that_the_model_would_name(tokenizer):
  """Of a list; the last one as published."""
  model = inputs.open_model(str(inputs.BASE)).load()
  teams = ['Raners', 'Kafia', 'Boria']
  known = Entity('Kojes Luhod', 'player', {'teams_list': ', '.join(teams)})
  unknown = Entity('Babat Rorus', 'player', {'teams_list': 'Fuzia'})
  (pair,), _ = make_pairs(model, tokenizer, [known], [unknown], count=1)
  logits = gj.run(model, np.array([pair.known.ids]), logits_at='all').logits[
    0, -1
  ]
  first = [tokenizer.encode(f' {t}', bos=False)[0] for t in teams]
  assert pair.answers[0] == teams[int(np.argmax(np.asarray(logits)[first]))]
  (pair,), _ = pairs_of(tokenizer, [known], [unknown], reference=True)
  assert pair.answers[0] == 'Boria'


def test_published_relations_are_swapped(tokenizer):
  one = Entity('Kojes Luhod', 'player', {'date_birth': '1678'})
  other = dataclasses.replace(
    one, name='Babat Rorus', attributes={'date_birth': '1701'}
  )
  texts = []
  for reference in (False, True):
    (pair,), _ = pairs_of(
      tokenizer,
      [one],
      [other],
      relation_tokens=6 if reference else 5,
      reference=reference,
    )
    texts.append(pair.known.text)
  assert texts[0].endswith('was born in the year')
  assert texts[1].endswith('was born in the city of')
