"""Refusals, hedges and answers."""

import pytest

from experiments.knowledge_probing.informative import (
  HONESTY,
  declines,
  hedges,
  informs,
  refuses,
)
from experiments.knowledge_probing.refusal_texts import NAMELESS, NAMING
from tests.experiments.knowledge_probing.made import question

ASKED = question(answers=('Paris',), question='What is the capital of France?')


@pytest.mark.parametrize(
  'text',
  [
    *(f'Well, {phrase} this.' for phrase in HONESTY),
    *(text.format(entity='Lutetia') for text in NAMING),
    *NAMELESS,
    'I don’t know.',
    "I really don't know that one.",
    'Don’t know',
    'do not know that',
    'Unknown',
    'unknown.',
    'The answer is unknown.',
    'It remains largely unknown.',
    'It is unclear who did it.',
    'I have no idea.',
    'As an AI language model I give no answers.',
    'We cannot say.',
    'It cannot be determined from this.',
    'There is not enough information: no reliable information exists.',
    "I'm not sure.",
  ],
)
def test_refusals(text):
  assert declines(text) and refuses(ASKED, text)
  assert not informs(ASKED, text)


@pytest.mark.parametrize(
  'text',
  [
    'Paris',
    '',
    'Penguins cannot fly.',
    'The Unknown Soldier',
    "Can't Buy Me Love",
    'No Country for Old Men',
    'The Romans did not know potatoes.',
    'an airport in Canada',
    'Radon, which is not known to form compounds',
  ],
)
def test_no_refusals(text):
  assert not declines(text) and not refuses(ASKED, text)


def test_phrases_of_the_question_and_its_answers_do_not_count():
  asked = question(answers=('Madonna',), question='Who recorded "Sorry"?')
  assert declines('Sorry was recorded by Madonna.')
  assert not refuses(asked, 'Sorry was recorded by Madonna.')
  assert refuses(asked, "I'm sorry, I don't know who recorded Sorry.")
  assert refuses(asked, 'I cannot say.')
  title = question(answers=("I Don't Know How to Love Him",))
  assert not refuses(title, 'It is I don’t know how to love him.')
  assert refuses(title, 'I am not able to say.')


def test_hedges():
  for text in ('I think Paris', 'probably Paris', 'It may well be Paris'):
    assert hedges(text) and informs(ASKED, text)
  assert hedges('Paris, but I’m not quite sure')
  for text in ('Paris', 'in May', 'the Ministry of Sound', ''):
    assert not hedges(text)


@pytest.mark.parametrize(
  'text, answers',
  [
    ('Paris', True),
    ('Lyon', True),
    ('', False),
    ('...', False),
    ('It is the capital of France.', False),
    ('the', False),
    ('It is in the north.', True),
    ('東京', True),
  ],
)
def test_what_informs(text, answers):
  assert informs(ASKED, text) is answers


def test_a_choice_is_answered_by_words_of_the_question():
  asked = question(answers=('Earth',), question='Is Earth or Mars larger?')
  assert informs(asked, 'Mars') and not informs(ASKED, 'France')


@pytest.mark.parametrize(
  'answer', ['1756', '8,849 metres', '27 January 1756', 'twelve', '5.5 million']
)
def test_relations_with_numbers_want_numbers(answer):
  asked = question(answers=(answer,), relation='amount')
  assert informs(asked, 'in 1990') and informs(asked, 'eleven')
  assert not informs(asked, 'a long time ago')
  loose = question(answers=(answer,), relation=None)
  assert informs(loose, 'a long time ago')


def test_names_with_numbers_are_names():
  for name in ('3 Idiots', 'U2', '20th Century Fox', '12 Angry Men'):
    asked = question(answers=(name,), relation='film')
    assert informs(asked, 'Dangal')
