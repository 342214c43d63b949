"""One process writes a run's folder at a time."""

import dataclasses
import json
import os
import socket
import subprocess

from absl import flags
import pytest

from experiments.runs import define_flags, run_lock
from experiments.runs.binary import run
from experiments.runs.run_lock import LOCK_FILE, InUse, locked
from gemma_jax import whole_files
from tests.gemma_jax.test_whole_files import ended_process


def held_by(path, **changes):
  holder = {
    'host': socket.gethostname(),
    'process': os.getpid(),
    'started': whole_files.started(os.getpid()),
    'command': 'steer',
  }
  path.write_text(json.dumps(holder | changes))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
  """A run.

  Attributes:
    out: Folder for everything.
  """

  out: str | None = None


@pytest.fixture
def start(tmp_path):
  """Runs a binary; returns its exit code, and what is locked meanwhile."""

  def started(*argv, **options):
    values = flags.FlagValues()
    names = define_flags(Settings, values)
    values(['x', *argv])
    locks = []

    def work(settings, keep_flags):
      locks.extend(tmp_path.rglob(LOCK_FILE))
      return ''

    code = run(Settings, work, values, names, **options)
    return code, [each.parent.name for each in locks]

  return started


def test_a_second_run_is_refused_and_a_killed_one_replaced(
  tmp_path, capsys, start
):
  out = tmp_path / 'out'
  out.mkdir()
  with subprocess.Popen(['sleep', '60']) as other:
    held_by(
      out / LOCK_FILE,
      process=other.pid,
      started=whole_files.started(other.pid),
    )
    assert start(f'--out={out}') == (1, [])
    said = capsys.readouterr().err
    assert said.startswith(f'Error: {out} is being written by process')
    assert str(other.pid) in said and 'another --out' in said
    other.kill()
  assert start(f'--out={out}') == (0, ['out'])
  assert f'left by process {other.pid}' in capsys.readouterr().err
  assert not list(out.iterdir())


def test_what_writes_no_run_takes_no_lock(tmp_path, start):
  assert start() == (0, [])
  assert start(f'--out={tmp_path / "x"}', run_folder=False) == (0, [])
  assert start(f'--out={tmp_path / "x"}') == (0, ['x'])
  assert not (tmp_path / 'x').exists()


def test_what_was_made_stays_and_what_was_not_goes(tmp_path):
  with locked(tmp_path / 'a'):
    assert (tmp_path / 'a' / LOCK_FILE).is_file()
    (tmp_path / 'a' / 'results.json').write_text('')
  (tmp_path / 'c').mkdir()
  for name in 'bc':
    with pytest.raises(KeyError), locked(tmp_path / name):
      raise KeyError
  found = sorted(str(x.relative_to(tmp_path)) for x in tmp_path.rglob('*'))
  assert found == ['a', 'a/results.json', 'c']


def test_a_process_may_nest(tmp_path):
  with locked(tmp_path), locked(tmp_path / '.'), locked(tmp_path / 'inner'):
    pass
  with locked(tmp_path):
    with locked(tmp_path):
      pass
    assert (tmp_path / LOCK_FILE).exists()
  assert not (tmp_path / LOCK_FILE).exists()


def test_one_of_another_machine_is_refused(tmp_path):
  held_by(tmp_path / LOCK_FILE, host='elsewhere', process=ended_process())
  with pytest.raises(InUse, match='on elsewhere .steer.*delete .*lock'):
    with locked(tmp_path):
      pass
  assert (tmp_path / LOCK_FILE).exists()


@pytest.mark.parametrize('content', ['', '{"host"', '[]', '{}', '\xff'])
def test_one_that_says_nothing_is_refused(tmp_path, content, monkeypatch):
  monkeypatch.setattr(run_lock.time, 'sleep', lambda seconds: None)
  (tmp_path / LOCK_FILE).write_text(content, encoding='latin-1')
  with pytest.raises(InUse, match='does not say which.*delete .*lock'):
    with locked(tmp_path):
      pass


def test_a_process_that_has_the_number_of_one_that_ended(tmp_path, capsys):
  """As after a new start of the machine, or of a container."""
  held_by(tmp_path / LOCK_FILE, started='earlier')
  with locked(tmp_path):
    pass
  assert 'has ended' in capsys.readouterr().err
  held_by(tmp_path / LOCK_FILE)  # this very process, by someone else's hand
  with pytest.raises(InUse, match=f'process {os.getpid()}'):
    with locked(tmp_path):
      pass


def test_one_that_was_taken_over_meanwhile_goes_back(tmp_path, monkeypatch):
  path = tmp_path / LOCK_FILE
  dead = ended_process()
  held_by(path, process=dead)
  check = run_lock._check_ended

  def slow(*given):
    check(*given)
    held_by(path)  # another process was quicker

  monkeypatch.setattr(run_lock, '_check_ended', slow)
  monkeypatch.setattr(
    run_lock.os, 'rename', _once(os.rename, monkeypatch, check)
  )
  with pytest.raises(InUse):
    with locked(tmp_path):
      pass
  assert json.loads(path.read_text())['process'] == os.getpid()


def _once(rename, monkeypatch, check):
  """Renames; then the other process is there to stay."""

  def renamed(*given):
    monkeypatch.setattr(run_lock, '_check_ended', check)
    rename(*given)

  return renamed


def test_a_folder_that_cannot_be_written(tmp_path):
  (tmp_path / 'file').write_text('')
  with pytest.raises(OSError, match='file'):
    with locked(tmp_path / 'file'):
      pass
