"""Folders that are replaced whole; flagfiles that repeat a run; errors."""

import errno
import json
import os

from absl import flags
import pytest
from safetensors import SafetensorError

from experiments.runs import outputs
from experiments.runs.outputs import replaced_folder


def names(folder):
  return sorted(path.name for path in folder.iterdir())


def test_a_folder_is_replaced_when_the_new_one_is_complete(tmp_path):
  for text in ('first', 'second'):
    with replaced_folder(tmp_path / 'out') as folder:
      (folder / text).write_text(text)
  with pytest.raises(KeyError):
    with replaced_folder(tmp_path / 'out') as folder:
      (folder / 'third').write_text('third')
      raise KeyError
  assert names(tmp_path) == ['out'] and names(tmp_path / 'out') == ['second']


def test_what_was_there_survives_a_kill_between_the_renames(tmp_path):
  """And the next attempt, if that fails."""
  with replaced_folder(tmp_path / 'out') as folder:
    (folder / 'first').write_text('first')
  os.rename(tmp_path / 'out', tmp_path / '.out.before')
  with pytest.raises(KeyError):
    with replaced_folder(tmp_path / 'out'):
      raise KeyError
  assert names(tmp_path) == ['out'] and names(tmp_path / 'out') == ['first']


def string_flags(**given):
  values = flags.FlagValues()
  for name in ('text', 'other'):
    flags.DEFINE_string(name, None, '', flag_values=values)
  flags.DEFINE_list('several', None, '', flag_values=values)
  values(['x', *(f'--{name}={value}' for name, value in given.items())])
  return values


@pytest.mark.parametrize(
  'text',
  ['', ' x', 'a b', '#x', '--text=y', '"x"', "'", 'a,b', '\\n', '€', '//'],
)
def test_a_flagfile_repeats_any_value(tmp_path, text):
  values = string_flags(text=text, several='a,"b c",d')
  outputs.write_flags(tmp_path, values, ['text', 'other', 'several'])
  again = string_flags(flagfile=tmp_path / 'flags.txt')
  for name in ('text', 'other', 'several'):
    assert again[name].value == values[name].value


@pytest.mark.parametrize('text', ['x ', ' ', 'x\t', 'x\n', 'x\u00a0', 'a\nb'])
def test_what_a_flagfile_cannot_hold_is_refused(tmp_path, text):
  with pytest.raises(ValueError, match='which a flagfile cannot hold'):
    outputs.write_flags(tmp_path, string_flags(text=text), ['text'])
  assert not names(tmp_path)


@pytest.mark.parametrize('content', ['', '{"a": 1', '[1]', '{"a": 1, "a": 2}'])
def test_a_damaged_identity_is_named(tmp_path, content):
  (tmp_path / 'run.json').write_text(content)
  with pytest.raises(ValueError, match=f'{tmp_path / "run.json"}.*Delete'):
    outputs.check_same_run(tmp_path / 'run.json', {'a': 1}, resumes=True)
  outputs.check_same_run(tmp_path / 'run.json', {'a': 1}, resumes=False)
  assert json.loads((tmp_path / 'run.json').read_text()) == {'a': 1}


@pytest.mark.parametrize(
  'error',
  [
    OSError(errno.ENOSPC, 'No space left on device'),
    OSError(errno.ENOSPC, 'No space left on device', 'x/y'),
    SafetensorError('I/O error: No space left on device (os error 28)'),
  ],
)
def test_a_full_disk_wherever_it_is_noticed(capsys, error):
  assert outputs.failed(error) == 1
  assert 'Make space' in capsys.readouterr().err


def test_objects_of_a_file_from_elsewhere(tmp_path):
  path = tmp_path / 'questions.jsonl'
  path.write_bytes('\ufeff{"a": "\u2028"}\r\n\n  \n{"b": 1}'.encode())
  found = outputs.read_objects(path)
  assert found == [(1, {'a': '\u2028'}), (4, {'b': 1})]
  with pytest.raises(FileNotFoundError, match='nothing.jsonl'):
    outputs.read_objects(tmp_path / 'nothing.jsonl')


@pytest.mark.parametrize(
  'content, said',
  [
    (b'{"id": "a"}\n{"id": "b"\n{"id": "c"}\n', 'line 2 is not JSON'),
    (b'{"id": "a"}\n\xff\n', 'line 2 is not JSON.*utf-8'),
    (b'\0\0\0\n', 'line 1 is not'),
    (b'["a"]\n', 'line 1 holds a JSON list'),
  ],
)
def test_malformed_lines(tmp_path, content, said):
  path = tmp_path / 'samples.jsonl'
  path.write_bytes(content)
  with pytest.raises(ValueError, match=said) as error:
    outputs.read_objects(path)
  assert str(path) in str(error.value)
