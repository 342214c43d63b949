"""Token ids and spans of prompts, for names that occur elsewhere, too."""

import pytest

from experiments.entities import (
  PROMPT_TYPES,
  Entity,
  Prompt,
  activation_prompt,
  base_prompt,
  question_prompt,
  tokenize_prompt,
)
from gemma_jax import Tokenizer
from tests.gemma_jax.text import tiny_tokenizer

COUNTRY = PROMPT_TYPES['city_country']
NAMES = [
  'Paris',
  'The',
  'city',
  'model',
  'user',
  "''",
  "O'Neal",
  '<bos>',
  '<end_of_turn>\n<start_of_turn>model',
  'naïve 日本',
  'two  spaces',
]


@pytest.fixture(scope='module')
def tokenizer():
  return tiny_tokenizer.ours()


def _spelled(tokenizer, tokens):
  return tokenizer.decode(list(tokens.ids)[slice(*tokens.entity)])


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('chat', [False, True])
def test_the_span_spells_the_entity(tokenizer, name, chat):
  entity = Entity(name, 'city', {})
  prompt = (question_prompt if chat else base_prompt)(COUNTRY, entity)
  tokens = tokenize_prompt(tokenizer, prompt, chat=chat)
  assert list(tokens.ids).count(tokenizer.bos_id) == 1
  assert tokens.ids[0] == tokenizer.bos_id
  # The quotation marks may be in the name's first and last token.
  assert name in _spelled(tokenizer, tokens)
  assert _spelled(tokenizer, tokens).strip(" '") == name.strip(" '")
  before = tokenizer.decode(list(tokens.ids)[: tokens.entity[0]])
  assert 'city of' in before and 'city of' not in _spelled(tokenizer, tokens)


def test_names_add_no_special_tokens(tokenizer):
  plain = tokenize_prompt(
    tokenizer, question_prompt(COUNTRY, Entity('Paris', 'city', {})), chat=True
  )
  odd = tokenize_prompt(
    tokenizer,
    question_prompt(COUNTRY, Entity('<end_of_turn>\n<bos>', 'city', {})),
    chat=True,
  )
  specials = set(tokenizer.vocabulary.specials)
  count = lambda tokens: sum(i in specials for i in tokens.ids)
  assert count(plain) == count(odd) == 4  # BOS, and two turns


def test_chats_are_the_tokenizers(tokenizer):
  prompt = question_prompt(COUNTRY, Entity('Paris', 'city', {}))
  tokens = tokenize_prompt(tokenizer, prompt, chat=True)
  assert list(tokens.ids) == tokenizer.tokenize_chat(prompt.text).ids
  assert tokens.text == tokenizer.chat_text(prompt.text)
  model = tokenizer.encode('model', bos=False)
  assert list(tokens.ids)[-1 - len(model) : -1] == model, 'second to last'
  forced = tokenize_prompt(tokenizer, prompt, chat=True, stub=COUNTRY.chat_stub)
  stub = tokenizer.encode(COUNTRY.chat_stub, bos=False)
  assert list(forced.ids) == list(tokens.ids) + stub
  assert forced.text == tokens.text + COUNTRY.chat_stub
  assert forced.entity == tokens.entity


def test_texts_are_the_tokenizers(tokenizer):
  prompt = activation_prompt(Entity('Paris', 'city', {}))
  tokens = tokenize_prompt(tokenizer, prompt)
  assert list(tokens.ids) == tokenizer.encode(prompt.text)
  assert tokens.entity == tokenizer.find_span(prompt.text, 'Paris')


def test_a_template_that_changes_the_text(tokenizer):
  template = "{{ bos_token }}{{ messages[0]['content'] | upper }}"
  loud = Tokenizer(tokenizer.vocabulary, chat_template=template)
  prompt = question_prompt(COUNTRY, Entity('Paris', 'city', {}))
  with pytest.raises(ValueError, match="'Paris' cannot be found"):
    tokenize_prompt(loud, prompt, chat=True)
  with pytest.raises(ValueError, match='white space'):
    tokenize_prompt(tokenizer, Prompt(' Rome ', (0, 6)), chat=True)
  twice = "{{ bos_token }}{{ messages[0]['content'] * 2 }}"
  with pytest.raises(ValueError, match='cannot be found'):
    tokenize_prompt(
      Tokenizer(tokenizer.vocabulary, chat_template=twice), prompt, chat=True
    )
