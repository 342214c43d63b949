"""Detectors that read answers: closed forms."""

import math

import numpy as np
import pytest

from experiments.uncertainty import Answer, Asked, answer_signals
from experiments.uncertainty.answer_signals import (
  error_rates,
  normalised,
  semantic_entropy,
)


def asked(text='Who?', prompt_type='city_country'):
  return Asked(
    id=text,
    cluster=text,
    type='city',
    split='train',
    entity_class='known',
    prompt_type=prompt_type,
    prompt=text,
    answers=('Rome',),
  )


@pytest.mark.parametrize(
  'text, same',
  [
    ('It is Rome.', 'it is  rome'),
    ('São Paulo', 'sao paulo!'),
    ('The Beatles', 'beatles'),
    ('1,990 m', '1990 m'),
    ('Rome\nand more', 'rome'),
  ],
)
def test_the_same_answer(text, same):
  assert normalised(text) == normalised(same)


@pytest.mark.parametrize(
  'a, b', [('Rome', 'Romes'), ('1.5', '15'), ('', 'a b')]
)
def test_other_answers(a, b):
  assert normalised(a) != normalised(b)


def test_entropies():
  same = semantic_entropy(['Rome', 'rome.', 'The Rome'], [-1, -2, -3])
  assert same == pytest.approx((0, 0))
  apart = semantic_entropy(['a b', 'c', 'd', 'e'], [-2.0] * 4)
  assert apart == pytest.approx((math.log(4), math.log(4)))
  # Two clusters, of 3 / 4 and of weights e^-1 : 3 e^-2.
  weighted, discrete = semantic_entropy(
    ['x', 'y', 'y', 'y'], np.array([-1.0, -2.0, -2.0, -2.0])
  )
  p = math.exp(-1) / (math.exp(-1) + 3 * math.exp(-2))
  entropy = lambda p: -p * math.log(p) - (1 - p) * math.log(1 - p)
  assert weighted == pytest.approx(entropy(p))
  assert discrete == pytest.approx(entropy(0.25))
  # All that decline say the same.
  declined = ["I'm sorry, I cannot say.", 'Sorry, I do not know that.']
  assert semantic_entropy(declined, [-1, -1]) == pytest.approx((0, 0))


def test_signals_are_higher_for_less_sure_answers():
  sure = Answer(
    text='Rome',
    logprob=-0.1,
    num_tokens=2,
    samples=['Rome'] * 4,
    sample_logprobs=[-0.1] * 4,
    entropy=0.2,
  )
  unsure = Answer(
    text='Oslo',
    logprob=-6.0,
    num_tokens=3,
    samples=['Rome', 'Oslo', 'Bern', 'Nice'],
    sample_logprobs=[-2.0] * 4,
    entropy=2.0,
  )
  found = answer_signals(
    [asked('One two'), asked('One two three')], [sure, unsure]
  )
  for name, scores in found.items():
    assert scores[0] < scores[1], name
  assert found['answer log-probability per token'][1] == pytest.approx(2.0)
  assert found['length of the question'].tolist() == [2, 3]


def test_rates_of_what_is_asked():
  kinds = ['a', 'a', 'b', 'b', 'c']
  error = np.array([True, False, True, True, False])
  train = np.array([True, True, True, False, False])
  found = error_rates([asked(prompt_type=k) for k in kinds], error, train)
  # 'c' is not in train: the rate of all.
  assert found == pytest.approx([0.5, 0.5, 1, 1, 2 / 3])


def test_titles_do_not_decline():
  one = asked('Who sang "Sorry"?', prompt_type='')
  assert not one.declines('"Sorry" is by Madonna.', 'default')
  assert one.declines('"Sorry" is by Madonna.', 'reference')
  assert one.declines("I'm sorry, I cannot say.", 'default')
  assert one.label('"Sorry" is by Rome.', 'default') == 'correct'
