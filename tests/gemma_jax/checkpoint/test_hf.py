"""Reading and writing checkpoints in the format of Hugging Face.

The references are HF transformers, torch and the safetensors library.
"""

import pathlib
import re
import subprocess
import sys
import warnings

import jax.numpy as jnp
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest
from safetensors.numpy import load_file
import torch
import transformers

from gemma_jax.checkpoint import hf as checkpoint_lib
from gemma_jax.checkpoint.hf import (
  CheckpointReader,
  load_checkpoint,
  save_checkpoint,
)
from gemma_jax.checkpoint.orbax import save_orbax
from gemma_jax.sharding import make_mesh
from gemma_jax.weights import unstack_layers
from gemma_jax.whole_files import save_tensors
from tests.gemma_jax.checkpoints import (
  CONFIG,
  EMBED,
  INDEX,
  assert_same,
  edit_tensors,
  file_of,
)
from tools.make_checkpoint import random_model

ROOT = pathlib.Path(__file__).parents[3]


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'float16'])
@pytest.mark.parametrize('shards', [1, 4])
def test_round_trip_is_bit_exact(dtype, shards, tmp_path):
  model = random_model(CONFIG, seed=3, dtype=dtype)
  total = sum(array.nbytes for array in model.weights().values())
  limit = total if shards == 1 else total // 3
  save_checkpoint(model, tmp_path / 'out', max_shard_bytes=limit)

  assert (tmp_path / 'out' / INDEX).exists() == (shards > 1)
  assert not list(tmp_path.glob('.*')), 'nothing is left beside it'
  loaded = load_checkpoint(tmp_path / 'out')
  assert loaded.dtype == jnp.dtype(dtype)
  assert_same(model, loaded)


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16', 'float16'])
def test_hf_transformers_loads_what_we_save(dtype, tmp_path):
  model = random_model(CONFIG, dtype=dtype)
  save_checkpoint(model, tmp_path / 'out', max_shard_bytes=20_000)
  hf, info = transformers.AutoModelForCausalLM.from_pretrained(
    tmp_path / 'out', dtype='auto', output_loading_info=True
  )
  assert not info['missing_keys'] and not info['unexpected_keys']
  assert hf.dtype == getattr(torch, dtype)
  assert_equals_hf(model, hf)


def assert_equals_hf(model, hf):
  """Compares all parameters with a transformers model's, by an own mapping."""
  weights = {
    name: np.asarray(w, np.float32) for name, w in model.weights().items()
  }
  D = model.config.d_model
  inner = hf.model
  numpy = lambda tensor: tensor.detach().float().numpy()

  def equal(ours, theirs):
    np.testing.assert_array_equal(ours, numpy(theirs))

  equal(weights['embed'], inner.embed_tokens.weight)
  equal(weights['embed'], hf.lm_head.weight)
  equal(weights['final_norm'], inner.norm.weight)
  for i, layer in enumerate(inner.layers):
    attention, mlp = layer.self_attn, layer.mlp
    equal(weights['wq'][i].reshape(-1, D), attention.q_proj.weight)
    equal(weights['wk'][i].reshape(-1, D), attention.k_proj.weight)
    equal(weights['wv'][i].reshape(-1, D), attention.v_proj.weight)
    equal(weights['wo'][i].reshape(D, -1), attention.o_proj.weight)
    equal(weights['gate'][i], mlp.gate_proj.weight)
    equal(weights['up'][i], mlp.up_proj.weight)
    equal(weights['down'][i], mlp.down_proj.weight)
    equal(weights['pre_attn_norm'][i], layer.input_layernorm.weight)
    equal(weights['post_attn_norm'][i], layer.post_attention_layernorm.weight)
    equal(weights['pre_mlp_norm'][i], layer.pre_feedforward_layernorm.weight)
    equal(weights['post_mlp_norm'][i], layer.post_feedforward_layernorm.weight)


@pytest.mark.parametrize('shard_size', ['1GB', '30KB'])
def test_what_hf_transformers_saves_is_loaded(shard_size, tmp_path):
  torch.manual_seed(0)
  hf = transformers.Gemma2ForCausalLM(
    transformers.Gemma2Config(
      num_hidden_layers=4,
      hidden_size=24,
      intermediate_size=32,
      num_attention_heads=4,
      num_key_value_heads=2,
      head_dim=6,
      vocab_size=64,
      query_pre_attn_scalar=9,
      sliding_window=5,
    )
  )
  for parameter in hf.parameters():
    torch.nn.init.normal_(parameter)
  hf.save_pretrained(tmp_path, max_shard_size=shard_size)
  assert (tmp_path / INDEX).exists() == (shard_size == '30KB')

  loaded = load_checkpoint(tmp_path)
  assert loaded.config == CONFIG
  assert_equals_hf(loaded, hf)


def test_casts_as_torch_does(saved):
  tensors = load_file(saved / 'one' / 'model.safetensors')
  for dtype in ('bfloat16', 'float16'):
    loaded = load_checkpoint(saved / 'one', dtype=dtype)
    expected = torch.tensor(tensors[EMBED]).to(getattr(torch, dtype)).float()
    got = np.asarray(loaded.weights()['embed'], np.float32)
    assert loaded.dtype == jnp.dtype(dtype)
    np.testing.assert_array_equal(got, expected.numpy())


@pytest.mark.parametrize('data, model_axis', [(2, 4), (8, 1), (1, 8), (4, 2)])
def test_sharded_equals_unsharded(model, saved, data, model_axis):
  mesh = make_mesh(data, model_axis)
  assert_same(model, load_checkpoint(saved / 'four', mesh=mesh))


def test_weights_are_sharded_as_documented(saved):
  loaded = load_checkpoint(saved / 'four', mesh=make_mesh(2, 4))
  expected = {
    'embed': P('model', 'data'),
    'final_norm': P('data'),
    'pre_attn_norm': P(None, 'data'),
    'wq': P(None, 'model', None, 'data'),
    'wk': P(None, None, None, 'data'),  # 2 heads on 4 devices: replicated
    'wv': P(None, None, None, 'data'),
    'wo': P(None, 'data', 'model', None),
    'gate': P(None, 'model', 'data'),
    'up': P(None, 'model', 'data'),
    'down': P(None, 'data', 'model'),
  }
  weights = loaded.weights()
  for name, spec in expected.items():
    assert weights[name].sharding.spec == spec, name
  assert weights['wq'].addressable_shards[0].data.shape == (4, 1, 6, 12)
  assert weights['gate'].addressable_shards[0].data.shape == (4, 8, 12)


@pytest.mark.parametrize('mesh', [None, (2, 4), (8, 1)])
def test_each_byte_is_read_once(saved, mesh):
  reader = CheckpointReader(saved / 'four')
  read = []
  reader.load(mesh and make_mesh(*mesh), on_bytes=read.append)
  assert sum(read) == reader.num_bytes


def test_only_the_first_layers_are_read(model, four):
  first = CheckpointReader(four, num_layers=2)
  tensors = {path.name: load_file(path) for path in four.glob('*.safetensors')}
  expected = sum(
    array.nbytes
    for file in tensors.values()
    for key, array in file.items()
    if not re.search(r'layers\.[23]\.', key)
  )
  read = []
  loaded = first.load(on_bytes=read.append)
  assert sum(read) == first.num_bytes == expected
  assert loaded.config == CONFIG.truncated(2)
  for name, array in model.weights().items():
    whole = np.asarray(array)
    part = whole if name in ('embed', 'final_norm') else whole[:2]
    np.testing.assert_array_equal(loaded.weights()[name], part)

  # Files that hold later layers alone need not be there.
  later = [
    name
    for name, file in tensors.items()
    if all(re.search(r'layers\.[23]\.', key) for key in file)
  ]
  assert later
  for name in later:
    (four / name).unlink()
  assert_same(loaded, load_checkpoint(four, num_layers=2))
  with pytest.raises(FileNotFoundError, match=later[0]):
    load_checkpoint(four)


def test_read_gives_any_slice(model, saved, monkeypatch):
  monkeypatch.setattr(checkpoint_lib, '_PIECE_BYTES', 700)  # several pieces
  reader = CheckpointReader(saved / 'four')
  rng = np.random.default_rng(0)
  for name, array in model.weights().items():
    array = np.asarray(array)
    np.testing.assert_array_equal(reader.read(name), array)
    for _ in range(4):
      ends = [np.sort(rng.integers(0, n + 1, 2)) for n in array.shape]
      index = [slice(int(a), int(b)) for a, b in ends]
      got = reader.read(name, index, dtype='bfloat16')
      assert got.dtype == jnp.bfloat16
      np.testing.assert_array_equal(
        got, array[tuple(index)].astype(jnp.bfloat16)
      )
  layer = reader.read('wq', [slice(2, 3)])
  np.testing.assert_array_equal(layer, np.asarray(model.blocks.wq)[2:3])
  with pytest.raises(ValueError, match='step 1'):
    reader.read('wq', [slice(0, 4, 2)])


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_warned_of(value, four):
  keys = [EMBED, 'model.layers.2.mlp.down_proj.weight']
  for key in keys:
    edit_tensors(
      file_of(four, key), lambda t, k=key: t[k].__setitem__((3, 5), value)
    )
  for mesh in (None, make_mesh(2, 4)):
    with pytest.warns(UserWarning, match='NaN or infinity') as caught:
      load_checkpoint(four, mesh=mesh)
    said = [str(warning.message) for warning in caught]
    assert len(said) == 2
    for key, message in zip(keys, said, strict=True):
      assert str(file_of(four, key)) in message and key in message
    assert caught[0].filename == __file__


def test_overflow_in_a_cast_is_warned_of(one):
  key = 'model.layers.1.self_attn.k_proj.weight'
  path = one / 'model.safetensors'
  edit_tensors(path, lambda t: t[key].__setitem__((0, 0), 1e6))
  with warnings.catch_warnings():
    warnings.simplefilter('error')
    load_checkpoint(one)
    load_checkpoint(one, dtype='bfloat16')
  with pytest.warns(UserWarning, match=f'{key}.*as float16'):
    load_checkpoint(one, dtype='float16')


def test_a_folder_with_something_in_it_is_not_overwritten(model, tmp_path):
  (tmp_path / 'notes.txt').write_text('mine')
  for save in (save_checkpoint, save_orbax):
    with pytest.raises(FileExistsError, match='not an empty folder'):
      save(model, tmp_path)
    with pytest.raises(FileExistsError, match='notes.txt'):
      save(model, tmp_path / 'notes.txt')
  assert [path.name for path in tmp_path.iterdir()] == ['notes.txt']

  (tmp_path / 'empty').mkdir()
  save_checkpoint(model, tmp_path / 'empty')
  assert_same(model, load_checkpoint(tmp_path / 'empty'))


def test_a_failed_save_leaves_nothing(model, tmp_path, monkeypatch):
  calls = []

  def fail_on_the_second(*args, **kwargs):
    calls.append(args)
    if len(calls) == 2:
      raise OSError('No space left on device')
    save_tensors(*args, **kwargs)

  monkeypatch.setattr(checkpoint_lib, 'save_tensors', fail_on_the_second)
  with pytest.raises(OSError, match='No space'):
    save_checkpoint(model, tmp_path / 'out', max_shard_bytes=20_000)
  assert not list(tmp_path.iterdir())


_KILLED = """
import os, signal
from gemma_jax.checkpoint import hf as checkpoint
from gemma_jax.config import ModelConfig
from tools.make_checkpoint import random_model

save, calls = checkpoint.save_tensors, []

def save_or_die(*args, **kwargs):
  calls.append(args)
  if len(calls) == 2:
    os.kill(os.getpid(), signal.SIGKILL)
  save(*args, **kwargs)

checkpoint.save_tensors = save_or_die
model = random_model({config!r})
checkpoint.save_checkpoint(model, {out!r}, max_shard_bytes=20_000)
"""


def test_a_killed_save_leaves_nothing_under_the_name(tmp_path):
  program = _KILLED.format(config=CONFIG, out=str(tmp_path / 'out'))
  done = subprocess.run(
    [sys.executable, '-c', program], cwd=ROOT, capture_output=True
  )
  assert done.returncode == -9, done.stderr
  assert not (tmp_path / 'out').exists()
  save_checkpoint(random_model(CONFIG), tmp_path / 'out')
  load_checkpoint(tmp_path / 'out')


def test_a_sharded_model_is_saved_as_an_unsharded_one(saved, tmp_path):
  sharded = load_checkpoint(saved / 'four', mesh=make_mesh(2, 4))
  save_checkpoint(sharded, tmp_path / 'out')
  ours = (tmp_path / 'out' / 'model.safetensors').read_bytes()
  assert ours == (saved / 'one' / 'model.safetensors').read_bytes()


def test_unstacked_layers_are_refused(model, tmp_path):
  for save in (save_checkpoint, save_orbax):
    with pytest.raises(ValueError, match='unstack_layers'):
      save(unstack_layers(model), tmp_path / 'out')
  assert not list(tmp_path.iterdir())


def test_files_can_be_read_by_others(saved):
  modes = {path.stat().st_mode for path in (saved / 'four').iterdir()}
  assert len(modes) == 1, 'weights have the permissions of config.json'
