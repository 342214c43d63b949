"""A run's folder is written by one process at a time.

While a binary runs, its --out has the file `.lock`, with the machine and the
process. One that a killed process has left is taken over, on the same machine.
"""

from collections.abc import Iterator
import contextlib
import json
import os
import pathlib
import socket
import sys
import time

from gemma_jax import whole_files

LOCK_FILE = '.lock'
# What this process holds; it may start binaries within binaries.
_held: set[pathlib.Path] = set()


class InUse(OSError):
  """Says that another process writes a folder."""


@contextlib.contextmanager
def locked(folder: str | os.PathLike) -> Iterator[None]:
  """Keeps other processes from writing a run's folder while the block runs.

  The folder is made; it goes again if nothing was written to it.

  Raises:
    InUse: another process writes there, or may do so on another machine.
    OSError: the folder cannot be written.
  """
  folder = pathlib.Path(folder).expanduser().resolve()
  if folder in _held:
    yield
    return
  made = not folder.exists()
  path = folder / LOCK_FILE
  with whole_files.naming(path):
    folder.mkdir(parents=True, exist_ok=True)
    _take(path)
  _held.add(folder)
  try:
    yield
  finally:
    _held.remove(folder)
    path.unlink(missing_ok=True)
    if made:
      with contextlib.suppress(OSError):  # it has files now
        folder.rmdir()


def _take(path: pathlib.Path):
  """Makes the file, which must not be there or be of a process that ended."""
  process = os.getpid()
  mine = {
    'host': socket.gethostname(),
    'process': process,
    'started': whole_files.started(process),
    'command': ' '.join(sys.argv),
  }
  while True:
    try:
      with open(path, 'x', encoding='utf-8') as file:
        file.write(json.dumps(mine) + '\n')
      return
    except FileExistsError:
      pass
    except OSError:
      path.unlink(missing_ok=True)  # made, but not written
      raise
    holder = _read(path)
    if holder is None:
      continue  # it has just ended
    _check_ended(path, holder, mine['host'])
    # Several may find this out at once. One gets to move the file away; if it
    # was of another by then, it goes back.
    aside = path.with_name(f'{path.name}-{process}')
    try:
      os.rename(path, aside)
    except FileNotFoundError:
      continue
    if _read(aside) != holder:
      os.rename(aside, path)
      continue
    aside.unlink()
    print(
      f'{path.parent} was left by process {holder["process"]}, which has ended '
      'before its work was done. This run goes on in its place.',
      file=sys.stderr,
    )


def _read(path: pathlib.Path) -> dict | None:
  """Returns who holds a lock; None if it is gone, {} if it does not say."""
  for _ in range(10):
    try:
      holder = json.loads(path.read_text(encoding='utf-8'))
    except FileNotFoundError:
      return None
    except ValueError:
      holder = None
    if isinstance(holder, dict) and isinstance(holder.get('process'), int):
      return holder
    time.sleep(0.05)  # it may be about to be written
  return {}


def _check_ended(path, holder, host):
  """Raises InUse unless the holder was a process of this machine and ended."""
  remedy = (
    f'If nothing writes there, delete {path}. Else wait, or choose another '
    '--out.'
  )
  if not holder:
    raise InUse(f'{path} does not say which process writes there. {remedy}')
  process, there = holder['process'], holder.get('host')
  who = f'process {process} on {there} ({holder.get("command")})'
  if there != host:
    raise InUse(f'{path.parent} is written by {who}. {remedy}')
  now = whole_files.started(process)
  before = holder.get('started')
  if whole_files.is_running(process) and (not now or now == before):
    raise InUse(
      f'{path.parent} is being written by {who}. Wait until it has ended, or '
      'choose another --out.'
    )
