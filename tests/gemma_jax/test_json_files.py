"""Strict JSON: what is taken, and what is refused by the file's name."""

import json

import pytest

from gemma_jax.json_files import parse_json, read_json

GOOD = [{}, [], {'a': [1, 2.5, None, True, 'é']}, {'n': 10**30}]
BAD = {
  '': 'is empty',
  ' \n': 'is empty',
  '{"a": 1': 'is not JSON',
  '{"a": 1, "b": {"a": 2, "a": 3}}': "the key 'a' is given twice",
  '{"a": NaN}': 'NaN is no JSON number',
  '{"a": [-Infinity]}': '-Infinity is no JSON number',
  '{"a": 1e999}': '1e999 is too large',
  '{"a": ' + '9' * 5000 + '}': 'is not JSON',
  '[' * 100_000: 'nested too deep',
  '{"a":' * 100_000: 'nested too deep',
}


@pytest.mark.parametrize('content', GOOD)
def test_what_pythons_reader_gives(content, tmp_path):
  path = tmp_path / 'a.json'
  path.write_text(json.dumps(content))
  assert read_json(path, object) == content


@pytest.mark.parametrize('text', BAD, ids=lambda text: text[:20] or 'empty')
def test_errors_name_the_file(text, tmp_path):
  path = tmp_path / 'a.json'
  path.write_text(text)
  with pytest.raises(ValueError) as error:
    read_json(path, object, remedy='Mend it.')
  assert str(path) in str(error.value)
  assert BAD[text] in str(error.value) and 'Mend it.' in str(error.value)


def test_a_file_that_is_not_there(tmp_path):
  with pytest.raises(FileNotFoundError, match='absent.json does not exist'):
    read_json(tmp_path / 'absent.json')


def test_bytes_that_are_no_text():
  with pytest.raises(ValueError, match=r'x\.json is not JSON'):
    parse_json(b'{"a": "\xff"}', 'x.json')


@pytest.mark.parametrize(
  'text, name',
  [('[1]', 'JSON list'), ('"a"', 'string'), ('null', 'null'), ('3', 'number')],
)
def test_content_of_another_type(text, name):
  with pytest.raises(ValueError, match=f'x holds a {name}, expected a JSON ob'):
    parse_json(text, 'x')
