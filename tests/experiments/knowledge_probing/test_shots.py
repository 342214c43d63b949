"""Sets of demonstrations."""

import random

import pytest

from experiments.knowledge_probing.probe_records import Question
from experiments.knowledge_probing.shots import demonstrations


def pool(answers):
  return [
    Question(id=f'{i:02}', question=f'{i}?', answers=(a, 'alias'), relation='r')
    for i, a in enumerate(answers)
  ]


def test_ten_sets_of_four_different_answers():
  questions = pool('aaaabbbbccdd')
  found = demonstrations(questions, prompts=10, shots=4, seed=0)
  assert len(found) == 10 and len(set(found)) == 10
  for shots in found:
    assert sorted(answer for _, answer in shots) == list('abcd')
  asked = {(q.question, q.answers[0]) for q in questions}
  assert {shot for shots in found for shot in shots} <= asked
  # Orders differ too, so that the last answer is no habit.
  assert len({shots[-1][1] for shots in found}) > 1
  shuffled = random.Random(1).sample(questions, len(questions))
  assert demonstrations(shuffled, prompts=10, shots=4, seed=0) == found
  assert demonstrations(questions, prompts=10, shots=4, seed=1) != found


def test_the_same_answer_only_where_it_must_be():
  (shots,) = demonstrations(pool('aaab'), prompts=1, shots=3, seed=0)
  assert sorted(answer for _, answer in shots) == list('aab')
  assert len(set(shots)) == 3


def test_none_and_too_many():
  assert demonstrations([], prompts=1, shots=0, seed=0) == [()]
  with pytest.raises(
    ValueError, match='without demonstrations are all the sam'
  ):
    demonstrations(pool('ab'), prompts=10, shots=0, seed=0)
  with pytest.raises(ValueError, match=r"2 questions of relation 'r' .*'00'"):
    demonstrations(pool('ab'), prompts=1, shots=4, seed=0)
  with pytest.raises(ValueError, match='at least 1'):
    demonstrations(pool('ab'), prompts=0, shots=1, seed=0)
