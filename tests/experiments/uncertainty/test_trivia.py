"""Question files, and the published labels of TriviaQA answers."""

import collections
import json

import pytest

from experiments.uncertainty import Answer, judge, read_trivia
from tests.real_data import of_each

GOOD = {'question': 'Who?', 'question_id': 'a', 'correct_answer': ['X', 'Y']}


def write(folder, rows):
  path = folder / 'questions.json'
  path.write_text(json.dumps(rows))
  return path


def test_a_file(tmp_path):
  rows = [
    GOOD,
    {'question': 'What?', 'correct_answer': ['Z']},
    GOOD | {'question_id': 'again'},
    GOOD | {'question': 'Where?', 'question_id': 'b', 'label': 'error'},
  ]
  asked, again = read_trivia(write(tmp_path, rows))
  assert again == 1
  assert [each.text for each in asked] == ['Who?', 'What?', 'Where?']
  assert [each.id for each in asked] == ['a', '1', 'b']
  assert asked[0].answers == ('X', 'Y') and asked[0].prompt_type == ''
  assert len(read_trivia(write(tmp_path, rows), limit=2)[0]) == 2


@pytest.mark.parametrize(
  'row, said',
  [
    ({'correct_answer': ['X']}, "no 'question'"),
    (GOOD | {'correct_answer': 'X'}, 'a list of texts'),
    (GOOD | {'correct_answer': []}, 'a list of texts'),
    (GOOD | {'correct_answer': [' ']}, "'correct_answer' is '', expected"),
    (GOOD | {'correct_answer': ['X', None]}, "'correct_answer' is None"),
    (GOOD | {'correct_answer': ['\ud800']}, 'is not Unicode'),
    (GOOD | {'question_id': None}, "'question_id' is None, expected a text"),
    (GOOD | {'question': 'Else?'}, "'a' belongs to another"),
    (GOOD | {'question_id': 3}, 'expected a text'),
  ],
)
def test_malformed_records(tmp_path, row, said):
  with pytest.raises(ValueError, match=said) as error:
    read_trivia(write(tmp_path, [GOOD, row]))
  assert 'record 1' in str(error.value)


@of_each
def test_published_labels(data):
  """257 of 1,024 answers are declined, and 322 correct by the rule of 3.

  A few labels of samples are of an older list of refusals.
  """
  same = 0
  folder = data / 'triviaqa'
  counts = collections.Counter()
  for number in (0, 1):
    path = folder / f'batch_{number}.json'
    asked, again = read_trivia(path)
    rows = json.loads(path.read_text())
    assert (len(asked), again) == (len(rows), 0)
    answers = [
      Answer(
        text=row['greedy_completion'],
        logprob=0.0,
        num_tokens=1,
        samples=row['sampled_completions'],
        sample_logprobs=[0.0] * 10,
        entropy=0.0,
      )
      for row in rows
    ]
    judged = judge(asked, answers, 'reference')
    counts.update(judged.group)
    for i, row in enumerate(rows):
      labels = row['string_matching_sampled_labels']
      same += judged.right_samples[i] == labels.count('correct')
    assert (judged.used == (judged.group != 'refusal')).all()
    assert (judged.error == (judged.group == 'error')).all()
  total = counts.total()
  assert same >= total - 4
  assert (
    counts
    == {
      64: {'correct': 11, 'error': 30, 'refusal': 23},
      1024: {'correct': 322, 'error': 445, 'refusal': 257},
    }[total]
  )
