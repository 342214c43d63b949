"""Sums of harvested latents as a safetensors file."""

from collections.abc import Sequence
import dataclasses
import os

from safetensors.numpy import load_file

from experiments.activations.streaming import GroupSums
from gemma_jax.whole_files import save_tensors

_ARRAYS = [
  field.name
  for field in dataclasses.fields(GroupSums)
  if field.name not in ('site', 'layer')
]


def write_sums(path: str | os.PathLike, sums: Sequence[GroupSums]):
  """Writes sums, the old file or the whole new one."""
  arrays = {
    f'{one.site}.{one.layer}/{name}': getattr(one, name)
    for one in sums
    for name in _ARRAYS
  }
  save_tensors(path, arrays)


def read_sums(path: str | os.PathLike) -> list[GroupSums]:
  """Reads what `write_sums` wrote, in the order of site and layer."""
  arrays = load_file(path)
  places = {tuple(key.split('/')[0].rsplit('.', 1)) for key in arrays}
  return [
    GroupSums(
      site=site,
      layer=int(layer),
      **{name: arrays[f'{site}.{layer}/{name}'] for name in _ARRAYS},
    )
    for site, layer in sorted(
      places, key=lambda place: (place[0], int(place[1]))
    )
  ]
