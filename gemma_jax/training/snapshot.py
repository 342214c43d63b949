"""The file that a killed training goes on from."""

from collections.abc import Mapping
import json
import os
import pathlib
from typing import Any

import jax
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from gemma_jax.whole_files import save_tensors


class Snapshot:
  """A file with the state of a training: either the old one or the new one."""

  def __init__(self, path: str | os.PathLike, identity: Mapping[str, Any]):
    """Takes a path, and what the work depends on, as JSON has it."""
    self.path = pathlib.Path(path)
    self._identity = json.loads(json.dumps(identity))

  def read(self, like):
    """Returns step, state and records; None if there is no file.

    Args:
      like: A state, whose shapes and places the one of the file gets.

    Raises:
      ValueError: the file is of another training, or damaged.
    """
    if not self.path.is_file():
      return None
    leaves, tree = jax.tree.flatten(like)
    try:
      found = load_file(self.path)
      identity, records = (_parsed(found[n]) for n in ('identity', 'records'))
      (step,) = map(int, found['step'])
    except (SafetensorError, KeyError, ValueError) as error:
      raise ValueError(
        f'{self.path} is damaged or no snapshot of a training: {error}. Delete '
        'it to begin anew.'
      ) from error
    self._check(identity)
    arrays = [found.get(str(i)) for i in range(len(leaves))]
    for i, (array, leaf) in enumerate(zip(arrays, leaves, strict=True)):
      got = 'absent' if array is None else f'{array.dtype} {array.shape}'
      if got != (wanted := f'{leaf.dtype} {leaf.shape}'):
        raise ValueError(
          f'{self.path}: array {i} is {got}, expected {wanted}. Delete the '
          'file to begin anew.'
        )
    state = [
      jax.device_put(array, leaf.sharding)
      for array, leaf in zip(arrays, leaves, strict=True)
    ]
    return step, jax.tree.unflatten(tree, state), records

  def write(self, step: int, state, records: list[dict]):
    """Replaces the file."""
    leaves = jax.device_get(jax.tree.leaves(state))
    arrays = {str(i): np.asarray(x) for i, x in enumerate(leaves)}
    arrays['step'] = np.array([step])
    arrays['records'] = _bytes(records)
    arrays['identity'] = _bytes(self._identity)
    save_tensors(self.path, arrays)

  def _check(self, before):
    """Raises ValueError unless the file's identity is ours."""
    now = self._identity
    if other := [k for k in now | before if now.get(k) != before.get(k)]:
      raise ValueError(
        f'{self.path} is a snapshot of other work, with '
        + ', '.join(f'{k}={before.get(k)} (now {now.get(k)})' for k in other)
        + '. Resume with what it was begun with, or delete it to begin anew.'
      )


def _bytes(value) -> np.ndarray:
  return np.frombuffer(json.dumps(value).encode(), np.uint8)


def _parsed(array: np.ndarray):
  return json.loads(array.tobytes())
