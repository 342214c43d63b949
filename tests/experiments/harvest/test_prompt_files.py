"""Files of prompts: what a line may say, and what is refused by its number."""

import json

import pytest

from experiments.harvest.prompt_files import read_prompt_file

ONE = {'text': 'The city Paris?', 'id': 'a'}


def write(folder, *lines):
  path = folder / 'prompts.jsonl'
  texts = [x if isinstance(x, str) else json.dumps(x) for x in lines]
  path.write_text('\n'.join(texts), encoding='utf-8')
  return path


def test_ids_and_groups(tmp_path):
  lines = [ONE, {'text': ' '}, {'text': 'art', 'group': 7}, ONE | {'id': 12}]
  found = read_prompt_file(write(tmp_path, *lines))
  assert [one.id for one in found] == ['a', '3', '12']
  assert [one.group for one in found] == ['text', '7', 'text']


@pytest.mark.parametrize(
  'line, said',
  [
    (ONE, "'id' 'a' belongs to another"),
    (ONE | {'id': 1}, "'id' '1' belongs to another"),  # that of the first line
    (ONE | {'id': None}, "'id' is None, expected a text"),
    (ONE | {'id': True}, "'id' is True"),
    (ONE | {'id': ''}, "'id' is ''"),
    (ONE | {'id': 1.5}, "'id' is 1.5"),
    (ONE | {'id': 'b', 'group': None}, "'group' is None"),
    (ONE | {'id': 'b', 'group': ['x']}, r"'group' is \['x'\]"),
    (ONE | {'id': 'b', 'entity': [4.5, 9]}, r'expected a name or characters'),
    (ONE | {'id': 'b', 'entity': [False, True]}, r'expected a name or char'),
    (ONE | {'id': 'b', 'entity': {'4': 9}}, r'expected a name or characters'),
    (ONE | {'id': 'b', 'entity': [4, 99]}, r'expected a name or characters'),
    ('{"text": "x", "id": "b", "id": "c"}', "'id' is given twice"),
    ('{"text": "x", "id": NaN}', 'NaN is no JSON number'),
    ('{"text": "x", "id": ' + '9' * 5000 + '}', 'is not JSON'),
    ('[' * 100_000, 'nested too deep'),
    ('["x"]', 'got a list'),
  ],
)
def test_malformed_lines(tmp_path, line, said):
  first = {'text': 'first'}
  path = write(tmp_path, first, ONE, line)
  with pytest.raises(ValueError, match=said) as error:
    read_prompt_file(path)
  assert f'{path}, line 3' in str(error.value)
