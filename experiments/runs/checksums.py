"""SHA-256 of files, remembered for as long as these stay as they are.

A checkpoint of 50 GB takes a minute or more, so what large files have is kept
in the user's cache ($XDG_CACHE_HOME or ~/.cache), one small file for each. A
file is known again by its path, size, inode and times; one that was changed a
moment ago may be changed again within the same tick of its clock, and is not
remembered yet.
"""

from collections.abc import Iterable
import contextlib
import hashlib
import json
import os
import pathlib
import re
import time

import tqdm

from gemma_jax import json_files, whole_files

# Smaller ones are read again by every process.
LARGE = 2**25
_SETTLED = 2 * 10**9  # ns; file systems count in seconds at worst
_PIECE = 2**22
_SHA256 = re.compile('[0-9a-f]{64}')

_Key = tuple[str, int, int, int, int, int]
_remembered: dict[_Key, str] = {}


def sha256_of(paths: Iterable[os.PathLike]) -> dict[pathlib.Path, str]:
  """Returns the SHA-256 of files in hex, each read once.

  Raises:
    OSError: a file is not there, or is written while it is read.
  """
  keys = {pathlib.Path(path): _key(path) for path in paths}
  found = {key: known for key in keys.values() if (known := _recall(key))}
  missing = [key for key in dict.fromkeys(keys.values()) if key not in found]
  with tqdm.tqdm(
    desc='Checksums of files',
    total=sum(key[1] for key in missing),
    unit='B',
    unit_scale=True,
    delay=1,
  ) as bar:
    for key in missing:
      begun = time.time_ns()
      found[key] = _read(key, bar.update)
      if begun - max(key[3:5]) > _SETTLED:
        _remember(key, found[key])
  return {path: found[key] for path, key in keys.items()}


def of_value(value) -> str:
  """Returns the SHA-256 of what a value prints as, in hex.

  Arrays print in part only: they go to `stages.digest`.
  """
  return hashlib.sha256(repr(value).encode()).hexdigest()


def sha256(path: str | os.PathLike) -> str:
  """Returns the SHA-256 of one file in hex; see `sha256_of`."""
  (found,) = sha256_of([path]).values()
  return found


def by_name(
  folder: str | os.PathLike, files: Iterable[pathlib.Path]
) -> dict[str, str]:
  """Returns the SHA-256 of files by their names in a folder."""
  found = sha256_of(files)
  return {file.relative_to(folder).as_posix(): found[file] for file in found}


def _key(path) -> _Key:
  """Returns what a file is known by: where, size, inode, both times, device."""
  place = os.path.realpath(path)
  told = os.stat(place)
  times = told.st_mtime_ns, told.st_ctime_ns
  return place, told.st_size, told.st_ino, *times, told.st_dev


def _read(key: _Key, on_bytes) -> str:
  digest, piece = hashlib.sha256(), memoryview(bytearray(_PIECE))
  with open(key[0], 'rb', buffering=0) as file:
    while count := file.readinto(piece):
      digest.update(piece[:count])
      on_bytes(count)
  if _key(key[0]) != key:
    raise OSError(
      f'{key[0]} was written while it was read. Start again when it is whole.'
    )
  return digest.hexdigest()


def _recall(key: _Key) -> str | None:
  if key not in _remembered and (file := _file(key)) is not None:
    # Whatever is wrong with a cache, the file itself can be read.
    with contextlib.suppress(OSError, ValueError):
      kept = json_files.read_json(file)
      if kept.get('file') == list(key) and _SHA256.fullmatch(
        str(kept.get('sha256'))
      ):
        _remembered[key] = kept['sha256']
  return _remembered.get(key)


def _remember(key: _Key, sha256: str):
  _remembered[key] = sha256
  if (file := _file(key)) is not None:
    with contextlib.suppress(OSError):  # it costs time, the next time
      text = json.dumps({'file': list(key), 'sha256': sha256})
      whole_files.write_text(file, text + '\n')


def _file(key: _Key) -> pathlib.Path | None:
  """Returns where a large file's checksum is kept, if anywhere."""
  if key[1] < LARGE:
    return None
  cache = os.environ.get('XDG_CACHE_HOME', '')
  if not os.path.isabs(cache):
    cache = os.path.expanduser('~/.cache')
  if not os.path.isabs(cache):
    return None
  name = hashlib.sha256(json.dumps(key).encode()).hexdigest()
  return pathlib.Path(
    cache, 'knowledge-awareness-jax', 'checksums', f'{name}.json'
  )
