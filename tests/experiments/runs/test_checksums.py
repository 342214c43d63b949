"""Checksums: of contents, and remembered only while nothing changes."""

import hashlib
import json
import os
import time

import pytest

from experiments.runs import checksums


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
  monkeypatch.setattr(checksums, 'LARGE', 1)
  monkeypatch.setattr(checksums, '_remembered', {})
  monkeypatch.setattr(checksums, '_SETTLED', -(10**18))
  return tmp_path / 'cache' / 'knowledge-awareness-jax' / 'checksums'


@pytest.fixture
def reads(monkeypatch):
  """The files that were read."""
  found, read = [], checksums._read
  monkeypatch.setattr(
    checksums,
    '_read',
    lambda key, bar: (found.append(key[0]), read(key, bar))[1],
  )
  return found


def sha256(file):
  return checksums.sha256_of([file])[file]


def of(content):
  return hashlib.sha256(content).hexdigest()


def test_each_file_is_read_once(tmp_path, reads, cache, monkeypatch):
  file, link = tmp_path / 'a', tmp_path / 'b'
  file.write_bytes(b'x' * 10_000_000)
  link.symlink_to(file)
  for _ in range(2):
    assert checksums.sha256_of([file, link]) == dict.fromkeys(
      [file, link], of(b'x' * 10_000_000)
    )
  monkeypatch.setattr(checksums, '_remembered', {})  # another process
  assert sha256(file) == of(b'x' * 10_000_000)
  assert reads == [str(file)] and len(list(cache.iterdir())) == 1


def test_one_that_was_changed_in_place_is_read_again(tmp_path, reads):
  """Of the same size, and with its time put back."""
  file = tmp_path / 'a'
  file.write_bytes(b'one')
  sha256(file)
  told = file.stat()
  time.sleep(0.02)  # the clock of a file system ticks
  file.write_bytes(b'two')
  os.utime(file, ns=(told.st_atime_ns, told.st_mtime_ns))
  assert sha256(file) == of(b'two') and len(reads) == 2


def test_one_that_was_just_written_is_not_remembered(
  tmp_path, monkeypatch, reads, cache
):
  """It may be written again within the same tick of the clock."""
  monkeypatch.setattr(checksums, '_SETTLED', 10**12)
  file = tmp_path / 'a'
  file.write_bytes(b'one')
  assert sha256(file) == sha256(file) == of(b'one')
  assert len(reads) == 2 and not cache.exists()


@pytest.mark.parametrize(
  'damage',
  [
    b'',
    b'{"file": [',
    b'[]',
    b'\xff',
    json.dumps({'file': ['other'], 'sha256': 64 * 'a'}).encode(),
  ],
)
def test_a_damaged_cache_is_made_anew(tmp_path, monkeypatch, cache, damage):
  file = tmp_path / 'a'
  file.write_bytes(b'one')
  sha256(file)
  (kept,) = cache.iterdir()
  whole = kept.read_bytes()
  kept.write_bytes(damage)
  monkeypatch.setattr(checksums, '_remembered', {})
  assert sha256(file) == of(b'one') and kept.read_bytes() == whole


def test_no_cache_can_be_written(tmp_path, monkeypatch):
  (tmp_path / 'file').write_text('')
  file = tmp_path / 'a'
  file.write_bytes(b'one')
  monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'file'))
  assert sha256(file) == of(b'one')
  monkeypatch.setenv('XDG_CACHE_HOME', 'relative')  # which has no meaning
  monkeypatch.setenv('HOME', str(tmp_path / 'home'))
  monkeypatch.setattr(checksums, '_remembered', {})
  assert sha256(file) == of(b'one') and (tmp_path / 'home/.cache').is_dir()


def test_one_that_is_written_meanwhile(tmp_path):
  file = tmp_path / 'a'
  file.write_bytes(b'one')
  with pytest.raises(OSError, match='written while it was read'):
    checksums._read(checksums._key(file), lambda n: file.write_bytes(b'two!'))


def test_values_are_told_apart():
  values = [[1, 2], [12], ['1', 2], (1, 2), {'a': 1}, 'x', b'x', None, 1.0, 1]
  assert len({checksums.of_value(each) for each in values}) == len(values)
  assert checksums.of_value('x') == hashlib.sha256(b"'x'").hexdigest()
