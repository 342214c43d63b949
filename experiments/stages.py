"""Stages of a run, each kept in the run's folder by what it depends on.

A stage's folder has `key.json`, the identity of its input, beside its files; it
appears when it is complete. The same identity finds it there; another one has
it made anew.
"""

from collections.abc import Callable, Mapping
import hashlib
import json
import pathlib

import numpy as np

from experiments import outputs

_KEY = 'key.json'


def stage(
  folder: pathlib.Path,
  identity: Mapping,
  make: Callable[[pathlib.Path], None],
) -> bool:
  """Makes a stage's files, unless they are there.

  Args:
    folder: Of the stage.
    identity: Whatever the files depend on, for JSON.
    make: Fills the folder that it is given.

  Returns:
    Whether they were there.
  """
  key = json.loads(json.dumps(identity))
  path = folder / _KEY
  if path.is_file() and outputs.read_json(path) == key:
    return True
  with outputs.replaced_folder(folder) as partial:
    make(partial)
    outputs.write_text(partial / _KEY, json.dumps(key, indent=2) + '\n')
  return False


def digest(*arrays) -> str:
  """For an identity: a hash of arrays, or of sequences of them, in order."""
  found = hashlib.sha256()
  for one in arrays:
    for array in one if isinstance(one, (list, tuple)) else [one]:
      array = np.ascontiguousarray(array)
      found.update(f'{array.dtype}{array.shape}'.encode() + array.tobytes())
  return found.hexdigest()
