"""Folders that are replaced whole, whenever the process ends."""

import os

import pytest

from experiments.outputs import replaced_folder


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
  (tmp_path / '.out.partial').mkdir()
  with pytest.raises(KeyError):
    with replaced_folder(tmp_path / 'out'):
      raise KeyError
  assert names(tmp_path) == ['out'] and names(tmp_path / 'out') == ['first']
