"""Sums of harvested latents as a safetensors file."""

from collections.abc import Sequence
import dataclasses
import pathlib

from experiments.harvesting import GroupSums
from experiments.latents import read_arrays, write_arrays

_ARRAYS = [
  field.name
  for field in dataclasses.fields(GroupSums)
  if field.name not in ('site', 'layer', 'stream_gram')
]


def write_sums(path: pathlib.Path, sums: Sequence[GroupSums]):
  """Writes sums; their Gram matrices are left out."""
  write_arrays(
    path,
    {
      f'{one.site}.{one.layer}/{name}': getattr(one, name)
      for one in sums
      for name in _ARRAYS
    },
  )


def read_sums(path: pathlib.Path) -> list[GroupSums]:
  """Reads what `write_sums` wrote, in the order of site and layer."""
  arrays = read_arrays(path)
  places = {tuple(key.split('/')[0].rsplit('.', 1)) for key in arrays}
  return [
    GroupSums(
      site=site,
      layer=int(layer),
      stream_gram=None,
      **{name: arrays[f'{site}.{layer}/{name}'] for name in _ARRAYS},
    )
    for site, layer in sorted(
      places, key=lambda place: (place[0], int(place[1]))
    )
  ]
