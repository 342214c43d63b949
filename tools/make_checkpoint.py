"""Writes a small random Gemma 2 checkpoint in the format of Hugging Face.

  python -m tools.make_checkpoint --out=out/demo/checkpoint

The default sizes are hard on an implementation: heads x head_dim is not
d_model, the query scale is not that of head_dim, key/value heads are shared,
the local window is short, the square root of d_model is not exact in bfloat16,
and norm weights are far from 0. A second run with the same flags finds the
checkpoint there and leaves it.
"""

import json
import math
import pathlib
import shutil
import sys

from absl import app, flags
import jax
import jax.numpy as jnp
import numpy as np

from experiments.runs import FEW, SEED, define_number, whole
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

_SIZES = {
  'num_layers': (4, 'Layers; the even ones (0-based) are local.'),
  'd_model': (72, 'Width of the residual stream.'),
  'd_ff': (160, 'Width of the feed-forward layer.'),
  'num_heads': (4, 'Query heads.'),
  'num_kv_heads': (2, 'Key/value heads.'),
  'head_dim': (16, 'Width of a head.'),
  'vocab_size': (512, 'Tokens.'),
  'query_pre_attn_scalar': (24, 'Scores are scaled by this ** -0.5.'),
  'window': (5, 'Keys that a local layer sees, the own one included.'),
}


def define_flags():
  """Defines this program's flags."""
  flags.FLAGS.verbosity = -1  # libraries log warnings only, unless told to
  flags.DEFINE_string('out', None, 'Folder to write.', required=True)
  for name, (default, meaning) in _SIZES.items():
    define_number(name, default, meaning, whole())
  flags.DEFINE_enum(
    'dtype', 'float32', ['bfloat16', 'float16', 'float32'], 'Of the weights.'
  )
  define_number('shards', 2, 'Files, at most.', FEW)
  define_number('seed', 0, 'Seed of the random weights.', SEED)
  flags.DEFINE_boolean(
    'overwrite',
    False,
    'Replace what this program made with other flags. A folder that it did '
    'not make is never replaced.',
  )


def random_model(
  config: ModelConfig, seed: int = 0, dtype='float32'
) -> Decoder:
  """A model whose mistakes in use would show; the same on every platform.

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
    overwrite: As the flag.

  Raises:
    FileExistsError: the folder holds something else that may not be replaced.
    ValueError: a size makes no sense.
  """
  out = pathlib.Path(out)
  sizes = {name: made[name] for name in _SIZES}
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
    options = {name: made[name] for name in ('dtype', 'shards', 'seed')}
    write_checkpoint(config, folder, **options)
    record = json.dumps(made, indent=2) + '\n'
    (folder / RECORD).write_text(record, encoding='utf-8')
  reader = CheckpointReader(out)
  return (
    f'{out}: {config.num_layers} layers, {reader.num_bytes:,} bytes of '
    f'{reader.dtype} weights.'
  )


def main(argv: list[str]) -> int:
  """Returns the exit code: 0, or 1 if nothing could be written."""
  if len(argv) > 1:
    raise app.UsageError(f'Unexpected arguments: {argv[1:]}.')
  names = (*_SIZES, 'dtype', 'shards', 'seed')
  made = {name: flags.FLAGS[name].value for name in names}
  try:
    print(make(flags.FLAGS.out, made, flags.FLAGS.overwrite))
  except (OSError, ValueError) as error:
    print(f'Error: {error}', file=sys.stderr)
    return 1
  return 0


if __name__ == '__main__':
  define_flags()
  app.run(main)
