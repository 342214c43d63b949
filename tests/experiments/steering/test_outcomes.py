"""What answers amount to."""

import pytest

from experiments.steering.arms import Arm
from experiments.steering.outcomes import (
  OUTCOMES,
  Rules,
  make_examples,
  outcome,
)
from experiments.steering.questions import Question
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
    (BORN, 'He was born in Berlin.', 'wrong'),
    (BORN, "I'm sorry, I don't know that.", 'refusal'),
    # It declines, whatever else it says.
    (BORN, 'I am not sure, perhaps Akron.', 'refusal'),
    (BORN, '', 'other'),
    (BORN, ' ... ?!', 'other'),
    (BORN, 'the the the the the the the the', 'other'),
    (BORN, 'born was born was born was born was born was', 'other'),
    (BORN, 'The player X was born in the city of Berlin in Germany', 'wrong'),
    (YEAR, 'In 1984.', 'correct'),
    (YEAR, 'In 1950.', 'wrong'),
    (YEAR, 'A long time ago.', 'other'),
    (YEAR, 'He was born on December 30, 1984.', 'correct'),
    # The entity's own name neither declines nor answers.
    (SUNG, "'Sorry' is sung by Justin Bieber.", 'correct'),
    (SUNG, 'Sorry is sung by Madonna.', 'wrong'),
    (SUNG, 'Sorry, I cannot say.', 'refusal'),
    (FILM, "'1984' was released in 1956.", 'correct'),
    (FILM, "'1984' is a film.", 'other'),
    (LONG, 'a three-hour film', 'wrong'),
  ],
)
def test_outcomes(question, text, expected):
  assert outcome(question, text, Rules()) == expected
  assert expected in OUTCOMES


def test_rules_are_switches():
  text = 'He lived in Paris. Please note this is approximate.'
  assert outcome(BORN, text, Rules()) == 'wrong'
  assert outcome(BORN, text, Rules(refusals='reference')) == 'refusal'
  assert outcome(YEAR, 'Not 1900 but 1984', Rules()) == 'wrong'
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
  assert (mended['text'], mended['outcome']) == ('Paris', 'wrong')
  assert mended['num_tokens'] == 1 and mended['stopped']
  assert not mended['reference_refusal']
  rules = Rules.of_mode('reference')
  published = make_examples(tok, [BORN], arms, [[ids]], rules)[0]
  assert (published['text'], published['outcome']) == ('Paris', 'refusal')
  cut = make_examples(tok, [BORN], arms, [[ids[:1]]], Rules())[0]
  assert not cut['stopped'] and cut['num_tokens'] == 1
