"""Questions about entities, and words that must be tokens."""

import pytest

from experiments import inputs
from experiments.entities import Entity
from experiments.self_report import PUBLISHED, Wording, single_token
from tests.experiments.steering import planted


def test_the_published_question():
  prompt = PUBLISHED.about(Entity('The', 'movie', {}))
  assert prompt.text == (
    'Are you sure you know the movie The? Answer yes or no.'
  )
  assert prompt.entity == (32, 35) and prompt.name == 'The'


def test_the_type_may_come_after_the_name():
  wording = Wording(question='Is {name} a {type}?', prefix='', yes='a', no='b')
  prompt = wording.about(Entity('city', 'city', {}))
  assert prompt.text == 'Is city a city?' and prompt.entity == (3, 7)


@pytest.mark.parametrize('question', ['Who?', '{name} {type} {name}', '{type}'])
def test_both_slots_once(question):
  with pytest.raises(ValueError, match='once'):
    Wording(question=question, prefix='', yes='a', no='b')


def test_words_are_tokens():
  tokenizer = planted.tokenizer()
  paris, sorry = (tokenizer.encode(t, bos=False) for t in ('Paris', 'sorry'))
  assert [single_token(tokenizer, 'Paris')] == paris
  words = {'question': '{type} {name}', 'prefix': ''}
  both = Wording(**words, yes='Paris', no='sorry')
  assert both.token_ids(tokenizer) == (*paris, *sorry)
  with pytest.raises(ValueError, match="' Yes' is not one token"):
    PUBLISHED.token_ids(tokenizer)
  with pytest.raises(ValueError, match='both'):
    Wording(**words, yes='sorry', no='sorry').token_ids(tokenizer)


def test_miniworld_has_the_words():
  """All of the question's are words of its vocabulary, not spelled in bytes."""
  tokenizer = inputs.read_tokenizer(inputs.open_model(str(inputs.CHAT)))
  PUBLISHED.token_ids(tokenizer)
  ids = tokenizer.encode(PUBLISHED.question.format(type='city', name='city'))
  pieces = tokenizer.token_strings(ids + tokenizer.encode(PUBLISHED.prefix))
  assert not [piece for piece in pieces if piece.startswith('<0x')]
