"""Ordinary requests, answered by the model itself before it is tuned."""

import numpy as np
import pytest

from experiments import inputs
from experiments import knowledge_probing as probing
from experiments.entities import is_refusal
from experiments.refusal_tuning import rehearsed, side_effects
import gemma_jax as gj


@pytest.fixture(scope='module')
def chat():
  return gj.load_model(str(inputs.CHAT), dtype='float32')


def formats(tokenizer):
  return {
    name: probing.Format(name=name, tokenizer=tokenizer)
    for name in ('chat', 'qa')
  }


def test_no_request_is_measured_too():
  requests = [each['request'] for each in rehearsed.read_requests()]
  measured = {each['request'] for each in side_effects.read_ordinary()}
  assert len(set(requests)) == len(requests) > 100
  assert not set(requests) & measured
  assert not any(map(is_refusal, requests))


def test_answers_are_the_models_own(chat, monkeypatch):
  """As the chat model answers a question of its world, one by one."""
  asked = [{'kind': 'a', 'request': 'Which movie did Nalu Fubed direct?'}]
  asked += [{'kind': 'b', 'request': 'What is the capital of Bonavo?'}]
  monkeypatch.setattr(rehearsed, 'read_requests', lambda: asked)
  monkeypatch.setattr(probing, 'declines', lambda text: False)
  for name, format in formats(chat.tokenizer).items():
    found = rehearsed.own_answers(chat.model, format, 9)
    assert list(found) == [each['request'] for each in asked]
    for request, answer in found.items():
      ids = format.tokenizer.tokenize_chat(
        [{'role': 'user', 'content': request}]
      ).ids
      alone = chat.generate(np.array([ids]), max_new_tokens=64).texts[0]
      assert answer == ' '.join(alone.split()), name


def test_what_declines_is_left_out(chat, monkeypatch):
  answers = {'One?': 'I do not know.', 'Two?': '', 'Three?': 'Three'}
  monkeypatch.setattr(
    rehearsed,
    'read_requests',
    lambda: [{'kind': 'a', 'request': each} for each in answers],
  )

  def complete(model, tokenizer, prompts, *args, **settings):
    yield {i: [text] for i, text in enumerate(answers.values())}

  monkeypatch.setattr(rehearsed, 'complete', complete)
  format = formats(chat.tokenizer)['qa']
  assert rehearsed.own_answers(None, format, 9) == {'Three?': 'Three'}
  answers['Three?'] = '  '
  with pytest.raises(ValueError, match='none of 3 ordinary requests'):
    rehearsed.own_answers(None, format, 9)


@pytest.mark.parametrize(
  'said, kept',
  [
    ('Go. "Stop." No' + ' no' * 99, 'Go. "Stop."'),
    ('Buy: 1. tea 2. milk 3. ' + 'no ' * 99, None),
    ('Go. Stop', None),
    ('no ' * 99, None),
  ],
)
def test_an_answer_that_was_cut_ends_with_a_sentence(
  said, kept, chat, monkeypatch
):
  monkeypatch.setattr(
    rehearsed, 'read_requests', lambda: [{'kind': 'a', 'request': 'A?'}]
  )
  monkeypatch.setattr(rehearsed, 'complete', lambda *a, **b: [{0: [said]}])
  for format in formats(chat.tokenizer).values():
    found = rehearsed.own_answers(None, format, 1)
    assert found == {'A?': kept or said.strip()}


def test_a_line_break_that_ends_answers_is_in_none(chat, monkeypatch):
  monkeypatch.setattr(
    rehearsed, 'read_requests', lambda: [{'kind': 'a', 'request': 'A?'}]
  )
  monkeypatch.setattr(
    rehearsed, 'complete', lambda *args, **told: [{0: ['Two:\n\n1. a\n2. b.']}]
  )
  found = {
    name: rehearsed.own_answers(None, format, 1)['A?']
    for name, format in formats(chat.tokenizer).items()
  }
  assert found == {'chat': 'Two:\n\n1. a\n2. b.', 'qa': 'Two: 1. a 2. b.'}
