"""Files that are in truth in the folder where they are looked for."""

from collections.abc import Iterable
import os
import pathlib


def check_inside(path: str | os.PathLike, folder: str | os.PathLike):
  """Raises ValueError if a file is a link to somewhere outside its folder.

  The cache of the Hugging Face hub is known: a file of
  models--org--name/snapshots/<revision> may link to blobs/ beside snapshots/,
  or to the blobs/ that all models share.

  Args:
    path: The file.
    folder: The folder that it must be in, at any depth.
  """
  root, real = pathlib.Path(folder).resolve(), pathlib.Path(path).resolve()
  allowed = [root]
  repo = root.parent.parent
  if root.parent.name == 'snapshots' and repo.name.startswith('models--'):
    allowed += [repo / 'blobs', repo.parent / 'blobs']
  if not any(real.is_relative_to(place) for place in allowed):
    raise ValueError(
      f'{path} is a link to {real}, which is outside {root}. Pass the folder '
      'that holds the files, or copy them.'
    )


def files_inside(
  folder: str | os.PathLike, names: Iterable[str]
) -> dict[str, pathlib.Path]:
  """Returns those of the named files that a folder has: name -> path.

  Raises:
    ValueError: one is a link to somewhere outside the folder or to nothing, or
      is no file.
  """
  found = {}
  for name in names:
    path = pathlib.Path(folder) / name
    if os.path.lexists(path):
      check_inside(path, folder)
      if not path.is_file():
        raise ValueError(
          f'{path} is not a file, or is a link to nothing. Download it again, '
          'or remove it.'
        )
      found[name] = path
  return found
