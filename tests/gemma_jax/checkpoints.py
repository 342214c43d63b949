"""A small checkpoint for tests, and ways to compare and to damage one."""

import json

import numpy as np
from safetensors.numpy import load_file, save_file

import gemma_jax as gj

CONFIG = gj.FAMILIES['gemma2'].config(
  num_layers=4,
  d_model=24,
  d_ff=32,
  num_heads=4,
  num_kv_heads=2,
  head_dim=6,
  vocab_size=64,
  query_pre_attn_scalar=9,
  window=5,
  local_layers=(True, False) * 2,
)
INDEX = 'model.safetensors.index.json'
EMBED = 'model.embed_tokens.weight'


def assert_same(a, b):
  """Bit for bit, with the same dtypes and configuration."""
  assert a.config == b.config
  for name, array in a.weights().items():
    assert array.dtype == b.weights()[name].dtype, name
    np.testing.assert_array_equal(
      np.asarray(array).view(np.uint8),
      np.asarray(b.weights()[name]).view(np.uint8),
      err_msg=name,
    )


def file_of(folder, tensor):
  if not (folder / INDEX).exists():
    return folder / 'model.safetensors'
  index = json.loads((folder / INDEX).read_text())
  return folder / index['weight_map'][tensor]


def edit_tensors(path, change):
  """Lets `change` alter the dict of a file's tensors."""
  tensors = load_file(path)
  change(tensors)
  save_file(tensors, path)


def edit_json(path, change):
  content = json.loads(path.read_text())
  change(content)
  path.write_text(json.dumps(content))
