"""Files that are whole, for everyone, on the disk; errors name them."""

import errno
import os
import pathlib
import stat
import subprocess
import sys

import numpy as np
import pytest
from safetensors import SafetensorError
from safetensors.numpy import load_file

from gemma_jax import whole_files


def names(folder):
  return sorted(path.name for path in folder.iterdir())


def ended_process() -> int:
  """The number of a process that has ended."""
  return int(
    subprocess.run(
      [sys.executable, '-S', '-c', 'import os; print(os.getpid())'],
      capture_output=True,
      check=True,
    ).stdout
  )


@pytest.fixture
def umask():
  before = os.umask(0o027)
  yield 0o640
  os.umask(before)


def test_files_have_the_mode_that_the_umask_asks_for(tmp_path, umask):
  whole_files.write_text(tmp_path / 'a.txt', 'ä')
  whole_files.save_tensors(tmp_path / 'a.safetensors', {'x': np.zeros(3)})
  for file in tmp_path.iterdir():
    assert stat.S_IMODE(file.stat().st_mode) == umask, file


def test_arrays_of_any_layout_and_shape(tmp_path):
  x = {'t': np.arange(6).reshape(2, 3).T, 'scalar': np.array(2.5)}
  whole_files.save_tensors(tmp_path / 'x', x, {'a': 'b'})
  found = load_file(tmp_path / 'x')
  for name, array in x.items():
    assert found[name].shape == array.shape
    np.testing.assert_array_equal(found[name], array)


def test_a_file_is_the_old_one_until_the_new_one_is_whole(tmp_path):
  file = tmp_path / 'a' / 'b.txt'
  whole_files.write_text(file, 'old')
  with pytest.raises(KeyError):
    with whole_files.replaced_file(file) as partial:
      partial.write_text('half of the n')
      assert file.read_text() == 'old'
      raise KeyError
  assert file.read_text() == 'old' and names(file.parent) == ['b.txt']


def test_two_processes_have_partial_files_of_their_own(tmp_path, monkeypatch):
  with whole_files.replaced_file(tmp_path / 'a') as mine:
    with monkeypatch.context() as other:
      other.setattr(os, 'getpid', lambda: 1)
      whole_files.write_text(tmp_path / 'a', 'theirs')
    assert (tmp_path / 'a').read_text() == 'theirs'
    mine.write_text('mine')
  assert (tmp_path / 'a').read_text() == 'mine' and names(tmp_path) == ['a']


def test_what_killed_processes_were_writing_goes(tmp_path):
  dead = ended_process()
  for name in (f'.a.partial-{dead}', f'.a.partial-{os.getpid()}', 'b'):
    (tmp_path / name).write_text('')
  (tmp_path / f'.c.partial-{dead}').mkdir()
  whole_files.write_text(tmp_path / 'd', '')
  assert names(tmp_path) == [f'.a.partial-{os.getpid()}', 'b', 'd']


def test_files_and_folders_are_synced_before_they_appear(tmp_path, monkeypatch):
  done = []
  monkeypatch.setattr(
    whole_files, 'sync', lambda path: done.append(('sync', path.name))
  )
  replace = os.replace
  monkeypatch.setattr(
    os,
    'replace',
    lambda a, b: (done.append(('replace', b.name)), replace(a, b)),
  )
  whole_files.write_text(tmp_path / 'a', '')
  partial = f'.a.partial-{os.getpid()}'
  assert done == [('sync', partial), ('replace', 'a'), ('sync', tmp_path.name)]
  done.clear()
  with whole_files.replaced_folder(tmp_path / 'f') as folder:
    (folder / 'inside').write_text('')
  assert ('sync', 'inside') in done and ('sync', tmp_path.name) in done


@pytest.mark.parametrize(
  'error',
  [
    OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
    OSError(errno.EDQUOT, os.strerror(errno.EDQUOT)),
    SafetensorError(
      'Error while serializing: I/O error: No space left on device (os error '
      '28)'
    ),
  ],
)
def test_a_full_disk_is_named_with_the_remedy(tmp_path, monkeypatch, error):
  def full(*given, **options):
    raise error

  monkeypatch.setattr(whole_files, 'save_file', full)
  monkeypatch.setattr(pathlib.Path, 'write_text', full)
  for write, given in (
    (whole_files.save_tensors, {'x': np.zeros(1)}),
    (whole_files.write_text, ''),
  ):
    with pytest.raises(OSError, match='MiB are free.*Make space') as raised:
      write(tmp_path / 'out' / 'x', given)
    assert str(tmp_path / 'out' / 'x') in str(raised.value)
  with pytest.raises(OSError, match='Make space') as raised:
    with whole_files.replaced_folder(tmp_path / 'out' / 'stage'):
      raise error
  assert str(tmp_path / 'out' / 'stage') in str(raised.value)


def test_a_real_full_disk(tmp_path):
  (tmp_path / '.x.partial-0').touch()  # of no process, which is not its affair
  with pytest.raises(OSError, match='x cannot be written.*Make space'):
    with whole_files.replaced_file(tmp_path / 'x'):
      with open('/dev/full', 'w') as file:
        file.write('x')


def test_errors_of_the_work_itself_stay(tmp_path):
  """They are not about writing, and name what they are about."""
  for error in (FileNotFoundError('There is no model.'), ValueError('x')):
    with pytest.raises(type(error)) as raised:
      with whole_files.replaced_folder(tmp_path / 'stage'):
        raise error
    assert raised.value is error
  assert not names(tmp_path)


def test_processes():
  assert whole_files.is_running(os.getpid())
  assert not whole_files.is_running(ended_process())
  assert whole_files.started(os.getpid()) == whole_files.started(os.getpid())
  # One that ended, and was not waited for.
  child = subprocess.Popen([sys.executable, '-S', '-c', ''])
  os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
  assert not whole_files.is_running(child.pid)
  child.wait()
