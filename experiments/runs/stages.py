"""Stages of a run, each kept in the run's folder by what it depends on.

A stage's folder has `key.json` beside its files: the identity of its input, and
the checksums of the files. It appears when it is complete. The same identity
finds it there; another one has it made anew, and so has a file that is damaged
or was changed.

`Chunks` are for what is kept piece by piece.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
import hashlib
import json
import os
import pathlib
import sys

import numpy as np

from experiments.runs import checksums, outputs
from gemma_jax import json_files

_KEY, _WHOSE = 'key.json', 'run.json'


def stage(
  folder: pathlib.Path,
  identity: Mapping,
  make: Callable[[pathlib.Path], None],
) -> bool:
  """Makes a stage's files, unless they are there and as they were made.

  Args:
    folder: Folder of the stage.
    identity: Whatever the files depend on, for JSON. What is read from files,
      such as models and SAEs, goes in by contents and not by name.
    make: Fills the folder that it is given.

  Returns:
    True if they were there.
  """
  identity = json.loads(json.dumps(identity))
  try:
    if _is_there(folder, identity):
      return True
  except (OSError, ValueError) as error:
    _say(f'{error} It is made again.')
  with outputs.replaced_folder(folder) as partial:
    make(partial)
    files = sorted(each for each in partial.rglob('*') if each.is_file())
    kept = checksums.by_name(partial, files)
    key = {'identity': identity, 'files': kept}
    outputs.write_text(partial / _KEY, json.dumps(key, indent=2) + '\n')
  return False


class Chunks:
  """Pieces of work in a folder, each kept when it is done, to go on from.

  Each says what it is of. One that cannot be read, was changed, or is of other
  work is done again.
  """

  def __init__(
    self,
    folder: str | os.PathLike | None,
    identity: Mapping,
    *,
    redo: bool = False,
  ):
    """Opens the folder.

    Args:
      folder: Path of the folder; None keeps nothing.
      identity: What the pieces depend on, for JSON; see `stage`.
      redo: If true, pieces of another identity are thrown away.

    Raises:
      ValueError: there are such pieces, and they are not thrown away.
    """
    self._folder = None if folder is None else pathlib.Path(folder)
    if self._folder is None:
      return
    path = self._folder / _WHOSE
    self._identity = json.loads(json.dumps(identity))
    self._whose, self._begun = _sha256(self._identity), False
    if redo and self.names() and _read_or_none(path) != self._identity:
      with outputs.replaced_folder(self._folder):  # all of them, or none
        pass
    if self.names():
      outputs.check_same_run(path, self._identity, resumes=True)

  def names(self) -> list[str]:
    """Returns the names of the pieces that are there, sorted."""
    if self._folder is None:
      return []
    files = self._folder.glob('*.json')
    return sorted(file.stem for file in files if file.name != _WHOSE)

  def read(self, name: str):
    """Returns what `write` was given; None where it is to be done."""
    if self._folder is None:
      return None
    file = self._folder / f'{name}.json'
    try:
      # Python's own reader, which reads what Python wrote: NaN too.
      piece = json.loads(file.read_bytes())
      whose, kept = piece['of'], piece['content']
      if _sha256(kept) != piece['sha256']:
        raise ValueError('it was changed')
      if whose != self._whose:
        raise ValueError('it is of other work')
    except FileNotFoundError:
      return None
    except (OSError, ValueError, TypeError) as error:
      _say(f'{file} cannot be used: {error}. Its work is done again.')
      return None
    return kept

  def write(self, name: str, content):
    """Keeps a piece.

    Args:
      name: Name of the piece.
      content: Anything that JSON has; comes back as JSON has it.
    """
    if self._folder is None:
      return
    if not self._begun:
      text = json.dumps(self._identity, indent=2) + '\n'
      outputs.write_text(self._folder / _WHOSE, text)
      self._begun = True
    content = json.loads(json.dumps(content))
    piece = {'of': self._whose, 'sha256': _sha256(content), 'content': content}
    outputs.write_text(self._folder / f'{name}.json', json.dumps(piece) + '\n')

  def append(self, rows: Iterable):
    """Keeps rows as the next piece, where pieces have numbers for names.

    Raises:
      ValueError: a row has a number that is not finite. Nothing is written.
    """
    json.dumps(rows := list(rows), allow_nan=False)
    number = 1 + max(map(int, self.names()), default=-1)
    self.write(f'{number:06d}', rows)

  def rows(self) -> Iterator:
    """Yields the rows of all pieces that `append` has kept, in order."""
    for name in self.names():
      yield from self.read(name) or ()


def digest(*arrays) -> str:
  """Returns a hash of arrays, or of sequences of them, in order."""
  found = hashlib.sha256()
  for one in arrays:
    for array in one if isinstance(one, (list, tuple)) else [one]:
      array = np.ascontiguousarray(array)
      found.update(f'{array.dtype}{array.shape}'.encode())
      found.update(array.reshape(-1).view(np.uint8))
  return found.hexdigest()


def _is_there(folder: pathlib.Path, identity) -> bool:
  """Returns True for a stage of this identity.

  Raises:
    OSError, ValueError: it is one, or may be, but is damaged.
  """
  path = folder / _KEY
  if not path.is_file():
    return False
  key = json_files.read_json(path, remedy='')
  if key.get('identity') != identity:
    return False
  kept = key.get('files')
  if not isinstance(kept, dict):
    raise ValueError(f'{path} does not name the files of the stage.')
  now = checksums.by_name(folder, map(folder.joinpath, kept))
  if changed := [name for name in kept if now[name] != kept[name]]:
    raise ValueError(f'{folder / changed[0]} is not as it was written.')
  return True


def _read_or_none(path: pathlib.Path):
  """Returns the identity in a file; None if there is none that can be read."""
  try:
    return json_files.read_json(path)
  except (OSError, ValueError):
    return None


def _sha256(value) -> str:
  return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def _say(text: str):
  print(text, file=sys.stderr)
