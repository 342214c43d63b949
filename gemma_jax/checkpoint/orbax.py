"""Checkpoints in Orbax's format, for meshes and many processes.

A checkpoint is a folder: `weights/`, which Orbax writes, holds the arrays
of the model; `config.json`, that of Hugging Face, is written last and marks the
whole as complete. Each process writes and reads its own shards, and a model
may be restored onto another mesh than it was saved from.
"""

import os
import pathlib

import jax
from jax.experimental import multihost_utils
from jax.sharding import SingleDeviceSharding
import orbax.checkpoint as ocp

from gemma_jax import sharding
from gemma_jax.checkpoint import hf_format
from gemma_jax.checkpoint.hf import check_new_folder, write_config
from gemma_jax.families import read_config
from gemma_jax.weights import Decoder, weight_letters, weight_shape

_WEIGHTS = 'weights'


def is_orbax(path: str | os.PathLike) -> bool:
  """Returns True if a folder was written by `save_orbax`."""
  return (pathlib.Path(path) / _WEIGHTS).is_dir()


def save_orbax(model: Decoder, path: str | os.PathLike):
  """Writes a checkpoint; every process of the run calls this.

  Args:
    model: The model, in any placement.
    path: A new or empty folder, the same one for all processes.

  Raises:
    FileExistsError: the folder exists and is not empty.
    ValueError: the layers are unstacked.
  """
  weights = model.weights()
  folder = pathlib.Path(path).resolve()
  check_new_folder(folder)
  _wait_for_all('None writes before all have looked')
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(folder / _WEIGHTS, weights)
  if jax.process_index() == 0:
    write_config(folder, model)
  _wait_for_all('None returns before the checkpoint is complete')


def _wait_for_all(why: str):
  """Waits until every process of the run is here."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(f'gemma_jax.save_orbax: {why}')


def load_orbax(
  path: str | os.PathLike,
  *,
  dtype=None,
  mesh: jax.sharding.Mesh | None = None,
) -> Decoder:
  """Reads what `save_orbax` wrote, straight onto its devices.

  Args:
    path: The folder.
    dtype: bfloat16, float16 or float32; None keeps that of the files.
    mesh: Where to place the weights, by `sharding.WEIGHT_RULES`; it need not
      be the mesh they were saved from. None is one device.

  Raises:
    FileNotFoundError: there is no such folder, or its saving did not end.
    ValueError: an array is missing, unknown, of another shape or dtype than
      config.json implies, or damaged.
  """
  dtype = None if dtype is None else hf_format.supported_dtype(dtype)
  folder = pathlib.Path(path).expanduser().resolve()
  if not folder.is_dir():
    raise FileNotFoundError(
      f'{folder} does not exist. Expected a folder written by save_orbax.'
    )
  if not is_orbax(folder):
    raise FileNotFoundError(
      f'{folder} has no folder {_WEIGHTS}; it has '
      f'{sorted(p.name for p in folder.iterdir())[:20]}. Either its saving did '
      'not end, or it is not an Orbax checkpoint of ours; load_checkpoint '
      'reads those of Hugging Face.'
    )
  if not (folder / 'config.json').is_file():
    raise FileNotFoundError(
      f'{folder} has no config.json, which save_orbax writes last: its saving '
      'did not end. Save it again.'
    )
  hf_format.refuse_adapters(folder)
  config = read_config(folder)
  with ocp.StandardCheckpointer() as checkpointer:
    stored = checkpointer.metadata(folder / _WEIGHTS).item_metadata
    if stored is None:
      raise ValueError(
        f'{folder / _WEIGHTS} is damaged: it does not say which arrays it '
        'holds. Save or copy it again.'
      )
    _check(folder / _WEIGHTS, config, stored.tree)
    wanted = {}
    for name, letters in weight_letters(config).items():
      shape = weight_shape(config, name)
      placed = sharding.weight_sharding(letters, shape, mesh)
      wanted[name] = jax.ShapeDtypeStruct(
        shape,
        dtype or stored.tree[name].dtype,
        sharding=placed or SingleDeviceSharding(jax.local_devices()[0]),
      )
    try:
      weights = checkpointer.restore(folder / _WEIGHTS, wanted)
    except (ValueError, OSError) as error:
      raise ValueError(
        f'{folder / _WEIGHTS} is damaged: {error}. Save or copy it again.'
      ) from error
  return Decoder(config, weights)


def _check(folder, config, stored):
  """Compares the arrays that Orbax has with those of the configuration."""
  wanted = weight_letters(config)
  if missing := sorted(wanted.keys() - stored.keys()):
    raise ValueError(
      f'{folder}: array {missing[0]} is missing; expected {list(wanted)}, '
      f'got {sorted(stored)}. Was this written by save_orbax?'
    )
  if unknown := sorted(stored.keys() - wanted.keys()):
    raise ValueError(
      f'{folder}: array {unknown[0]} is unknown; expected {list(wanted)}. '
      'Was this written by save_orbax?'
    )
  for name in wanted:
    got, expected = tuple(stored[name].shape), weight_shape(config, name)
    if got != expected:
      raise ValueError(
        f'{folder}: array {name} has shape {list(got)}, expected '
        f'{list(expected)}. Does config.json belong to these weights?'
      )
    if stored[name].dtype not in hf_format.DTYPES.values():
      raise ValueError(
        f'{folder}: array {name} has dtype {stored[name].dtype}, expected '
        'bfloat16, float16 or float32.'
      )
