"""Records in the paper's format, written and read back, good and bad."""

import json

import pytest

from experiments.entities import (
  Record,
  label_record,
  read_records,
  write_records,
)

FIELDS = [
  'entity',
  'entity_type',
  'prompt_type',
  'correct_answer',
  'prompt',
  'question',
  'greedy_completion',
  'sampled_completions',
  'string_matching_greedy_label',
  'string_matching_sampled_labels',
  'label',
]


def _record(entity='Rome', prompt_type='city_country', **changes):
  return label_record(
    Record(
      entity=entity,
      entity_type=prompt_type.split('_')[0],
      prompt_type=prompt_type,
      correct_answer='Italy',
      prompt="What country contains the city of 'Rome'? ...",
      question=None,
      greedy_completion=' Italy.\u2028',
      sampled_completions=(' Spain', ' I cannot say', ''),
      **changes,
    )
  )


@pytest.fixture
def folder(tmp_path):
  records = {
    'city_country': [_record('Ulm'), _record('Rome')],
    'song_genres': [_record('Água', 'song_genres')],
  }
  write_records(tmp_path, records)
  return tmp_path


def test_they_are_read_back(folder):
  records = read_records(folder)
  assert list(records) == ['city_country', 'song_genres']
  assert records['city_country'] == [_record('Ulm'), _record('Rome')]
  assert records['song_genres'] == [_record('Água', 'song_genres')]


def test_the_format(folder):
  row = json.loads((folder / 'city_country.json').read_text('utf-8'))[1]
  assert list(row) == FIELDS
  assert row['question'] is None
  assert row['sampled_completions'] == [' Spain', ' I cannot say', '']
  assert row['string_matching_greedy_label'] == row['label'] == 'correct'
  assert row['string_matching_sampled_labels'] == ['error', 'refusal', 'error']


@pytest.mark.parametrize(
  'changes, words',
  [
    ({'entity': 3}, "'entity' is 3"),
    ({'more': 1}, "has the fields .*'more'.*written by something else"),
    ({'prompt_type': 'city_mayor'}, "unknown 'prompt_type' 'city_mayor'"),
    ({'entity_type': 'song'}, "'entity_type' is 'song'"),
    ({'prompt_type': 'city_elevation'}, 'the name of the file'),
    ({'greedy_completion': None}, "'greedy_completion' is None"),
    ({'question': 1}, "'question' is 1"),
    ({'sampled_completions': 'abc'}, "'sampled_completions' is 'abc'"),
    ({'sampled_completions': ['a']}, '1 sampled completions and 3 labels'),
    ({'label': 'right'}, "unknown label 'right'"),
    ({'entity': 'Ulm'}, "'Ulm' is there already, as record 0"),
  ],
)
def test_bad_records(folder, changes, words):
  path = folder / 'city_country.json'
  rows = json.loads(path.read_text('utf-8'))
  rows[1] |= changes
  path.write_text(json.dumps(rows))
  with pytest.raises(ValueError, match=words) as error:
    read_records(folder)
  assert f'{path}, record 1' in str(error.value)


def test_nothing_there(tmp_path):
  with pytest.raises(FileNotFoundError, match='labelling` makes them'):
    read_records(tmp_path / 'gone')
