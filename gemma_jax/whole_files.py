"""Files and folders that are the old ones or the whole new ones.

What is written here is on the disk when it appears under its name, and has the
mode that the umask asks for: libraries that write to temporary files keep
theirs from everybody else. Where it cannot be written the error names the file,
and says what to do about a full disk.

Until then it is called `.<name>.partial-<process id>`. What killed processes
have left of this kind goes when a process first writes beside it.
"""

from collections.abc import Iterator, Mapping
import contextlib
import errno
import functools
import os
import pathlib
import shutil

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

_FULL = (errno.ENOSPC, errno.EDQUOT)


def write_text(path: str | os.PathLike, text: str):
  """Writes a text in UTF-8."""
  with replaced_file(path) as partial:
    partial.write_text(text, encoding='utf-8')


def save_tensors(
  path: str | os.PathLike,
  tensors: Mapping[str, np.ndarray],
  metadata: Mapping[str, str] | None = None,
):
  """Writes arrays, in whatever memory layout, as a safetensors file."""
  arrays = {name: np.asarray(x, order='C') for name, x in tensors.items()}
  with replaced_file(path) as partial:
    try:
      save_file(arrays, partial, metadata and dict(metadata))
    except SafetensorError as error:  # which binaries do not expect
      if is_full(error):
        raise
      raise OSError(f'{path} cannot be written: {error}.') from error


@contextlib.contextmanager
def replaced_file(path: str | os.PathLike) -> Iterator[pathlib.Path]:
  """Yields a file to fill, which takes the place of `path` once the block ends
  well.

  Raises:
    OSError: it cannot be written; the error names `path`.
  """
  path = pathlib.Path(path)
  with naming(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial(path)
    try:
      partial.touch()
      mode = partial.stat().st_mode
      yield partial
      partial.chmod(mode)
      sync(partial)
      os.replace(partial, path)
    finally:
      partial.unlink(missing_ok=True)
    sync(path.parent)


@contextlib.contextmanager
def replaced_folder(path: str | os.PathLike) -> Iterator[pathlib.Path]:
  """Yields a folder to fill, which takes the place of `path` once the block
  ends well.

  What was there before stays until then.

  Raises:
    OSError: it cannot be written; the error names `path`.
  """
  path = pathlib.Path(path)
  with naming(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = _partial(path)
    before = path.with_name(f'.{path.name}.before')
    if before.exists() and not path.exists():  # killed between the renames
      os.rename(before, path)
    for left in (partial, before):
      shutil.rmtree(left, ignore_errors=True)
    partial.mkdir()
    try:
      yield partial
      for each in (*partial.rglob('*'), partial):
        sync(each)
      if path.exists():
        os.rename(path, before)
      os.rename(partial, path)
      sync(path.parent)
      shutil.rmtree(before, ignore_errors=True)
    finally:
      shutil.rmtree(partial, ignore_errors=True)


def sync(path: pathlib.Path):
  """Has a file, or the names in a folder, reach the disk."""
  handle = os.open(path, os.O_RDONLY)
  try:
    os.fsync(handle)
  except OSError as error:
    # Some file systems know no such thing, above all for folders.
    if error.errno not in (errno.EINVAL, errno.ENOTSUP):
      raise
  finally:
    os.close(handle)


@contextlib.contextmanager
def naming(path: str | os.PathLike) -> Iterator[None]:
  """Has errors of a full disk, and others that name no file, name a path.

  Raises:
    OSError: in place of such an error; it says what to do.
  """
  try:
    yield
  except (OSError, SafetensorError) as error:
    if isinstance(error, _Unwritten):
      raise
    if is_full(error):
      raise _Unwritten(
        f'{path} cannot be written: {full_disk(path)}'
      ) from error
    if getattr(error, 'errno', None) is None or error.filename is not None:
      raise
    raise _Unwritten(f'{path} cannot be written: {error.strerror}.') from error


def is_full(error: BaseException) -> bool:
  """Returns True if an error of a system call says that a disk is full."""
  if isinstance(error, OSError):
    return error.errno in _FULL
  return isinstance(error, SafetensorError) and any(
    os.strerror(number) in str(error) for number in _FULL
  )


def full_disk(path: str | os.PathLike | None) -> str:
  """Returns what to say about a full disk.

  Args:
    path: What was to be written there; None is not known.
  """
  free = ''
  if path is not None:
    path = pathlib.Path(path).absolute()
    there = next(each for each in (path, *path.parents) if each.exists())
    free = f' ({shutil.disk_usage(there).free / 2**20:,.1f} MiB are free)'
  return (
    f'the disk is full, or a quota is used up{free}. Make space and start the '
    'same command again: it goes on with what is kept.'
  )


def is_running(process: int) -> bool:
  """Returns True if a process of this machine runs; one that ended does not."""
  try:
    os.kill(process, 0)
  except ProcessLookupError:
    return False
  except PermissionError:
    return True
  # One that ended, and whose parent has not asked how, still has its number.
  return _stat(process)[:1] not in ('Z', 'X')


def started(process: int) -> str:
  """Returns when a process began, or '' where the system does not say.

  Numbers of processes are used again, above all in containers.
  """
  boot = pathlib.Path('/proc/sys/kernel/random/boot_id')
  fields = _stat(process).split()
  if not fields or not boot.is_file():
    return ''
  return f'{boot.read_text().strip()}/{fields[19]}'


class _Unwritten(OSError):
  """Says what could not be written, and what to do."""


def _stat(process: int) -> str:
  """Linux's /proc/<process>/stat from the state on; '' if there is none."""
  try:
    text = pathlib.Path(f'/proc/{process}/stat').read_text()
  except OSError:
    return ''
  return text.rpartition(')')[2].strip()


def _partial(path: pathlib.Path) -> pathlib.Path:
  _sweep(path.parent.resolve())
  return path.with_name(f'.{path.name}.partial-{os.getpid()}')


@functools.cache
def _sweep(folder: pathlib.Path):
  """Removes what killed processes were writing in a folder, once."""
  for left in folder.glob('.*.partial-*'):
    process = left.name.rpartition('-')[2]
    if not process.isdecimal() or is_running(int(process)):
      continue
    if left.is_dir() and not left.is_symlink():
      shutil.rmtree(left, ignore_errors=True)
    else:
      left.unlink(missing_ok=True)
