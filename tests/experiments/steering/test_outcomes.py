"""What answers amount to."""

import dataclasses

import pytest

from experiments.entities import Entity, is_refusal
from experiments.steering.arms import Arm
from experiments.steering.outcomes import (
  OUTCOMES,
  Rules,
  make_examples,
  outcome,
)
from experiments.steering.questions import Question, closed_values
from tests.experiments.steering import planted


def ask(prompt_type: str, answer: str, entity: str = 'X') -> Question:
  return Question(
    entity=entity,
    type=prompt_type.split('_')[0],
    entity_class='known',
    prompt_type=prompt_type,
    answer=answer,
    text='?',
    ids=(2, 3),
    span=(1, 2),
  )


BORN = ask('player_place_birth', 'Akron')
YEAR = ask('player_date_birth', '1984')
SUNG = ask('song_performers', 'Justin Bieber', 'Sorry')
FILM = ask('movie_release_year', '1956', '1984')
LONG = ask('movie_durations', '148')


@pytest.mark.parametrize(
  'question, text, expected',
  [
    (BORN, 'He was born in **Akron**, Ohio.', 'correct'),
    (BORN, 'He was born in Berlin.', 'hallucination'),
    (BORN, "I'm sorry, I don't know that.", 'refusal'),
    # It declines, whatever else it says.
    (BORN, 'I am not sure, perhaps Akron.', 'refusal'),
    (BORN, '', 'broken'),
    (BORN, ' ... ?!', 'broken'),
    (BORN, 'the the the the the the the the', 'broken'),
    (BORN, 'born was born was born was born was born was', 'broken'),
    (
      BORN,
      'The player X was born in the city of Berlin in Germany',
      'hallucination',
    ),
    (YEAR, 'In 1984.', 'correct'),
    (YEAR, 'In 1950.', 'hallucination'),
    (YEAR, 'A long time ago.', 'broken'),
    (YEAR, 'He was born on December 30, 1984.', 'correct'),
    # The entity's own name neither declines nor answers.
    (SUNG, "'Sorry' is sung by Justin Bieber.", 'correct'),
    (SUNG, 'Sorry is sung by Madonna.', 'hallucination'),
    (SUNG, 'Sorry, I cannot say.', 'refusal'),
    (FILM, "'1984' was released in 1956.", 'correct'),
    (FILM, "'1984' is a film.", 'broken'),
    (LONG, 'a three-hour film', 'hallucination'),
  ],
)
def test_outcomes(question, text, expected):
  assert outcome(question, text, Rules()) == expected
  assert expected in OUTCOMES


def test_rules_are_switches():
  text = 'He lived in Paris. Please note this is approximate.'
  assert outcome(BORN, text, Rules()) == 'hallucination'
  assert outcome(BORN, text, Rules(refusals='reference')) == 'refusal'
  assert outcome(YEAR, 'Not 1900 but 1984', Rules()) == 'hallucination'
  assert outcome(YEAR, 'Not 1900 but 1984', Rules(answers='reference')) == (
    'correct'
  )
  assert Rules.of_mode('default') == Rules()


def test_an_answer_ends_with_the_turn():
  """By default; the published code read on."""
  tok = planted.tokenizer()
  ids = tok.encode('Paris<end_of_turn>sorry', bos=False)
  arms = [Arm(name='original', kind='original')]
  mended = make_examples(tok, [BORN], arms, [[ids[:2]]], Rules())[0]
  assert (mended['text'], mended['outcome']) == ('Paris', 'hallucination')
  assert mended['num_tokens'] == 1 and mended['stopped']
  assert not mended['reference_refusal']
  rules = Rules.of_mode('reference')
  published = make_examples(tok, [BORN], arms, [[ids]], rules)[0]
  assert (published['text'], published['outcome']) == ('Paris', 'refusal')
  cut = make_examples(tok, [BORN], arms, [[ids[:1]]], Rules())[0]
  assert not cut['stopped'] and cut['num_tokens'] == 1


def value_of(prompt_type, answer, values, entity='Nijok Miboj'):
  return dataclasses.replace(
    ask(prompt_type, answer, entity), values=tuple(values)
  )


COUNTRY = value_of('city_country', 'Kafia', ['Kafia', 'Notia', 'Livia'])
PLACE = value_of('player_place_birth', 'Zamoton', ['Zamoton', 'Gadoton'])
POPULATION = value_of('city_population', '1000', ['800', '1000', '1250'])


@pytest.mark.parametrize(
  'question, text, expected',
  [
    # The referee's answers: what has no form is no hallucination.
    (COUNTRY, 'Nijok 1642.', 'broken'),
    (COUNTRY, 'It is Notia.', 'hallucination'),
    (COUNTRY, 'It is notia', 'broken'),
    (COUNTRY, 'It is Notiata.', 'broken'),
    (COUNTRY, 'It is Kafia.', 'correct'),
    (COUNTRY, 'Nijok Miboj.', 'broken'),
    (COUNTRY, ', I do not know that.', 'refusal'),
    (COUNTRY, 'I do not know that.', 'refusal'),
    (COUNTRY, 'Sorry, Notia.', 'refusal'),
    (COUNTRY, '', 'broken'),
    (COUNTRY, ' ... ?!', 'broken'),
    (PLACE, 'It is 1642.', 'broken'),
    # A value of another attribute is none of this one.
    (PLACE, 'It is Notia.', 'broken'),
    (PLACE, 'Born in Gadoton, of course.', 'hallucination'),
    # Near a value, by the judge's own tolerance.
    (POPULATION, 'About 1,240 people.', 'hallucination'),
    (POPULATION, 'About 1,010 people.', 'correct'),
    (POPULATION, 'About 5,000 people.', 'broken'),
  ],
)
def test_a_hallucination_is_a_value_of_what_was_asked(question, text, expected):
  assert outcome(question, text, Rules()) == expected


def test_values_are_closed_where_they_come_again():
  entities = [
    Entity(f'N{i}', 'city', {'country': 'AB'[i % 2], 'population': str(i)})
    for i in range(12)
  ]
  assert closed_values(entities) == {'country': ('A', 'B')}
  assert closed_values(entities[:5]) == {}
  assert closed_values([]) == {}


def test_the_published_refusals_stay():
  """Only the default mode knows the remainder of a sentence."""
  assert not is_refusal(', I do not know that.', 'reference')
  assert is_refusal(', I do not know that.')
  assert is_refusal('It is, I don\u2019t know, Paris?')
  assert not is_refusal('It is I Know.')
  # A song may be called so.
  assert not is_refusal("'I Don't Know' is by Paul.", names=["I Don't Know"])
