"""Directions in files."""

import os
import pathlib

import numpy as np
from safetensors import SafetensorError, safe_open


def read_direction(path: str | os.PathLike, width: int) -> np.ndarray:
  """Reads a direction float32 [D] from a safetensors file.

  Args:
    path: A file with one tensor, or one called 'direction'.
    width: D, the width of the residual stream.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it has no such tensor, of another shape, or one that is 0 or
      not finite.
  """
  path = pathlib.Path(path).expanduser()
  if not path.is_file():
    raise FileNotFoundError(f'There is no file {path} to read a direction of.')
  try:
    with safe_open(path, 'numpy') as file:
      names = list(file.keys())
      name = 'direction' if 'direction' in names else names[0]
      if name != 'direction' and len(names) > 1:
        raise ValueError(
          f'{path} has tensors {", ".join(names)}; call the one that is meant '
          "'direction', or leave the others out."
        )
      direction = np.asarray(file.get_tensor(name), np.float32)
  except (SafetensorError, IndexError) as error:
    raise ValueError(
      f'{path} is no safetensors file with a tensor in it: {error}.'
    ) from error
  if direction.shape != (width,):
    raise ValueError(
      f'{path}: {name} has shape {direction.shape}; the stream of this model '
      f'is ({width},).'
    )
  if not np.isfinite(direction).all() or not direction.any():
    raise ValueError(f'{path}: {name} is 0, or not finite: it is no direction.')
  return direction
