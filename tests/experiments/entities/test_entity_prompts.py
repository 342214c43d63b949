"""Texts of prompts, and where the entity stands in them."""

import pytest

from experiments.entities import (
  ENTITY_TYPES,
  PROMPT_TYPES,
  Entity,
  Prompt,
  activation_prompt,
  base_prompt,
  is_known_question,
  prompt_types_of,
  question_prompt,
  refusal_question,
  statement_prompt,
)

PARIS = Entity('Paris', 'city', {'country': 'France', 'elevation': '35'})
LEO = Entity('Leo Barnhorst', 'player', {'weight': '85', 'date_birth': '1924'})
MARKED = '\ufdd0'  # occurs in no template


def test_texts():
  country = PROMPT_TYPES['city_country']
  assert base_prompt(country, PARIS).text == (
    "What country contains the city of 'Paris'? The country that contains the "
    "city 'Paris' is"
  )
  assert question_prompt(country, PARIS).text == (
    "What country contains the city of 'Paris'?"
  )
  assert country.chat_stub == 'Country (official name)='
  assert refusal_question(country, PARIS).text == (
    'In which country is the city Paris?'
  )
  born = PROMPT_TYPES['player_place_birth']
  assert refusal_question(born, LEO).text == (
    'Where was born the player Leo Barnhorst?'
  )
  assert activation_prompt(PARIS) == Prompt("The city 'Paris'", (10, 15))
  assert activation_prompt(PARIS, with_type=False).text == "The 'Paris'"
  assert is_known_question(PARIS).text == "Do you know the city 'Paris'?"


def test_statements_and_the_published_swap():
  place, date = (PROMPT_TYPES[f'player_{a}_birth'] for a in ('place', 'date'))
  text = lambda *args: statement_prompt(*args).text
  assert text(place, LEO).endswith('Leo Barnhorst was born in the city of')
  assert text(date, LEO).endswith('Leo Barnhorst was born in the year')
  assert text(place, LEO, True) == text(date, LEO)
  assert text(date, LEO, True) == text(place, LEO)
  country = PROMPT_TYPES['city_country']
  assert text(country, PARIS, True) == 'The city Paris is located in'


def _prompts(entity):
  for prompt_type in PROMPT_TYPES.values():
    if prompt_type.entity_type == entity.type:
      yield base_prompt(prompt_type, entity)
      yield question_prompt(prompt_type, entity)
      if prompt_type.relation:
        yield refusal_question(prompt_type, entity)
        yield statement_prompt(prompt_type, entity)
  yield activation_prompt(entity)
  yield activation_prompt(entity, with_type=False)
  yield is_known_question(entity)


@pytest.mark.parametrize('entity_type', ENTITY_TYPES)
@pytest.mark.parametrize(
  'name',
  ['The', 'model', 'user', "O'Neal 'n' Co", '{}', '{name}', 'city', ' ?'],
)
def test_the_entity_is_where_the_template_has_it(entity_type, name):
  """Found independently, as the first place of a name that is nowhere else."""
  marked = Entity(MARKED, entity_type, {})
  named = Entity(name, entity_type, {})
  for prompt, other in zip(_prompts(named), _prompts(marked), strict=True):
    assert prompt.name == name
    assert prompt.entity[0] == other.text.index(MARKED)
    assert prompt.text == other.text.replace(MARKED, name)


def test_only_what_an_entity_has_is_asked():
  names = [p.name for p in prompt_types_of(PARIS)]
  assert names == ['city_country', 'city_elevation']
  assert [p.name for p in prompt_types_of(LEO)] == ['player_date_birth']
  every = [p.name for p in prompt_types_of(LEO, counting=False)]
  assert every == ['player_date_birth', 'player_weight']


def test_the_table():
  """Those of the paper: 3 + 6 + 4 + 4 that count, and 6 more."""
  counting = [p.entity_type for p in PROMPT_TYPES.values() if p.counts]
  assert [counting.count(t) for t in ENTITY_TYPES] == [4, 6, 3, 4]
  assert len(PROMPT_TYPES) == 17 + 2 + 4
  for name, prompt_type in PROMPT_TYPES.items():
    assert prompt_type.name == name
    assert prompt_type.question.count('{}') == 1
    assert (prompt_type.relation is None) == (prompt_type.statement is None)
  lacking = {n for n, p in PROMPT_TYPES.items() if p.counts and not p.relation}
  assert lacking == {'city_location'}


def test_what_cannot_be_asked():
  with pytest.raises(ValueError, match="movie_cast asks.*'Paris' is a city"):
    base_prompt(PROMPT_TYPES['movie_cast'], PARIS)
  with pytest.raises(ValueError, match='city_location has no relation.*city_c'):
    refusal_question(PROMPT_TYPES['city_location'], PARIS)
  with pytest.raises(ValueError, match='city_location has no statement'):
    statement_prompt(PROMPT_TYPES['city_location'], PARIS)
