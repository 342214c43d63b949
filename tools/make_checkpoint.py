"""Writes a small random Gemma 2 checkpoint in the format of Hugging Face.

  python -m tools.make_checkpoint --out=out/demo/checkpoint

The default sizes are hard on an implementation: heads x head_dim is not
d_model, the query scale is not that of head_dim, key/value heads are shared,
the local window is short, the square root of d_model is not exact in bfloat16,
and norm weights are far from 0. A second run with the same flags finds the
checkpoint there and leaves it.
"""

import dataclasses
import json
import math
import pathlib
import shutil
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from experiments.runs import Count, Few, KeepFlags, Seed, check_numbers, start
from gemma_jax import json_files
from gemma_jax.checkpoint import hf_format
from gemma_jax.checkpoint.hf import (
  CheckpointReader,
  new_folder,
  save_checkpoint,
)
from gemma_jax.config import ModelConfig
from gemma_jax.families import FAMILIES
from gemma_jax.weights import Decoder, is_norm, weight_letters, weight_shape

# The flags that made a checkpoint; only a folder that has it is replaced.
RECORD = 'make_checkpoint.json'

# What the files are like, and not the model.
_OPTIONS = ('dtype', 'shards', 'seed')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
  """The shape of a random checkpoint.

  Attributes:
    out: Folder to write.
    num_layers: Number of layers; the even ones, counted from 0, are local.
    d_model: Width of the residual stream.
    d_ff: Width of the feed-forward layer.
    num_heads: Number of query heads.
    num_kv_heads: Number of key/value heads.
    head_dim: Width of a head.
    vocab_size: Number of tokens.
    query_pre_attn_scalar: Scores are scaled by this to the power -0.5.
    window: Number of keys that a local layer sees, the query's own included.
    dtype: Data type of the weights.
    shards: Most files of weights.
    seed: Random seed of the weights.
    overwrite: Replace what this program made with other flags. A folder that it
      did not make is never replaced.
  """

  out: str
  num_layers: Count = 4
  d_model: Count = 72
  d_ff: Count = 160
  num_heads: Count = 4
  num_kv_heads: Count = 2
  head_dim: Count = 16
  vocab_size: Count = 512
  query_pre_attn_scalar: Count = 24
  window: Count = 5
  dtype: Literal['bfloat16', 'float16', 'float32'] = 'float32'
  shards: Few = 2
  seed: Seed = 0
  overwrite: bool = False

  def __post_init__(self):
    check_numbers(self)


def random_model(
  config: ModelConfig, seed: int = 0, dtype='float32'
) -> Decoder:
  """Returns a model on which mistakes in its use show, the same everywhere.

  Matrices are scaled as in `init_model`. Norm weights are in [-0.5, 1]: at 0,
  where training starts them, nothing would show that 1 + w was taken for w, or
  one norm for another.
  """
  rng = np.random.default_rng(seed)
  weights = {}
  for name in weight_letters(config):
    shape = weight_shape(config, name)
    if is_norm(name):
      values = rng.uniform(-0.5, 1, shape).astype(np.float32)
    else:
      inputs = math.prod(shape[2:]) if name == 'wo' else shape[-1]
      values = rng.standard_normal(shape, np.float32) * inputs**-0.5
    weights[name] = jax.device_put(values.astype(jnp.dtype(dtype)))
  return Decoder(config, weights)


def write_checkpoint(
  config: ModelConfig,
  out: str | pathlib.Path,
  *,
  dtype='float32',
  shards: int = 1,
  seed: int = 0,
):
  """Writes a random checkpoint of at most `shards` files to a new folder."""
  dtype = hf_format.supported_dtype(dtype)
  sizes = map(math.prod, hf_format.tensor_shapes(config).values())
  limit = -(-sum(sizes) * dtype.itemsize // shards)
  while len(hf_format.split_into_files(config, dtype, limit)) > shards:
    limit += limit // 50 + 1
  model = random_model(config, seed, dtype)
  save_checkpoint(model, out, max_shard_bytes=limit)


def make(out: str | pathlib.Path, made: dict, overwrite: bool = False) -> str:
  """Makes a checkpoint, unless it is there; returns what was done.

  Args:
    out: The folder.
    made: Values of the flags that say what to make.
    overwrite: If true, what was made with other flags is replaced.

  Raises:
    FileExistsError: the folder holds something else that may not be replaced.
    ValueError: a size makes no sense.
  """
  out = pathlib.Path(out)
  sizes = {name: made[name] for name in made if name not in _OPTIONS}
  local = tuple(i % 2 == 0 for i in range(made['num_layers']))
  config = FAMILIES['gemma2'].config(**sizes, local_layers=local)
  if (out / RECORD).is_file():
    before = json_files.read_json(
      out / RECORD, remedy=f'Delete {out}, or choose another folder.'
    )
    if before == made and not overwrite:
      CheckpointReader(out)
      return f'{out} is there already, made with the same flags.'
    if not overwrite:
      other = {k: v for k, v in before.items() if made.get(k) != v}
      raise FileExistsError(
        f'{out} was made with other flags: '
        f'{", ".join(f"{name}={value}" for name, value in other.items())}. '
        'Pass --overwrite to replace it.'
      )
    shutil.rmtree(out)
  with new_folder(out) as folder:
    options = {name: made[name] for name in _OPTIONS}
    write_checkpoint(config, folder, **options)
    record = json.dumps(made, indent=2) + '\n'
    (folder / RECORD).write_text(record, encoding='utf-8')
  reader = CheckpointReader(out)
  return (
    f'{out}: {config.num_layers} layers, {reader.num_bytes:,} bytes of '
    f'{reader.dtype} weights.'
  )


def work(settings: Settings, keep_flags: KeepFlags) -> str:
  """Makes the checkpoint, unless it is there; returns what was done."""
  del keep_flags
  made = dataclasses.asdict(settings)
  del made['out'], made['overwrite']
  return make(settings.out, made, settings.overwrite)


if __name__ == '__main__':
  start(Settings, work, run_folder=False)  # the folder is to be new or empty
