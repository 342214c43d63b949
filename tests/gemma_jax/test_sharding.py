"""On 8 simulated devices every number is that of one device."""

import os
import socket
import subprocess
import sys
import textwrap

import jax
from jax.sharding import PartitionSpec as P
import numpy as np
import pytest

import gemma_jax as gj
from gemma_jax import sharding
from gemma_jax.weights import LETTERS, weight_letters, weight_shape
from tests import tiny
from tests.gemma_jax.test_interventions import random_interventions

MESHES = [(8, 1), (4, 2), (2, 4), (1, 8)]


def on_mesh(data, model_axis, family='gemma2'):
  """The tiny model of 40 features and 56 hidden units, spread out."""
  model = tiny.pair(family=family)[1]
  mesh = gj.make_mesh(data, model_axis)
  placed = {
    name: jax.device_put(
      w, sharding.weight_sharding(LETTERS[name], w.shape, mesh)
    )
    for name, w in model.weights().items()
  }
  return gj.Decoder(model.config, placed)


@pytest.mark.parametrize('data, model_axis', MESHES)
def test_runs_equal_one_device(data, model_axis):
  """Logits, all sites, interventions of every type."""
  one, many = tiny.pair()[1], on_mesh(data, model_axis)
  tokens, positions = tiny.ragged(8, 12, 'left')
  tokens[1], positions[1] = tokens[0], positions[0]
  positions[:], tokens[:] = np.arange(12), np.maximum(tokens, 3)
  ask = {
    'interventions': random_interventions(4, rows=8),
    'capture': gj.capture(*gj.SITES, layers=[4, 1]),
    'logits_at': 'all',
  }
  a = gj.run(one, tokens, positions, **ask)
  b = gj.run(many, tokens, positions, **ask)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_allclose(x, y, atol=5e-5)
  # Captured arrays are [k, B, ...]: rows over 'data', and what heads and
  # hidden units fill over 'model'.
  rows = 'data' if data > 1 else None
  for site, array in b.activations.items():
    spec = tuple(array.sharding.spec) + (None,) * array.ndim
    assert spec[1] == rows, (site, array.sharding)
    if site in ('z', 'mlp_act') and model_axis > 1:
      assert spec[3] == 'model', (site, array.sharding)
    elif site in gj.VECTOR_SITES:
      assert spec[3] is None, (site, array.sharding)


@pytest.mark.parametrize('family', ['llama', 'gpt2'])
def test_other_families_equal_one_device(family):
  """An unembedding of its own; learned positions and biases."""
  one, many = tiny.pair(family=family)[1], on_mesh(4, 2, family)
  tokens, positions = tiny.ragged(8, 12, 'left')
  ask = {'capture': gj.capture('z', layers=[2]), 'logits_at': 'all'}
  a = gj.run(one, tokens, positions, **ask)
  b = gj.run(many, tokens, positions, **ask)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    np.testing.assert_allclose(x, y, atol=5e-5)


@pytest.mark.parametrize(
  'data, model_axis', [pytest.param(4, 2, marks=pytest.mark.slow), (1, 8)]
)
def test_generation_equals_one_device(data, model_axis):
  one, many = tiny.pair()[1], on_mesh(data, model_axis)
  tokens, positions = tiny.ragged(8, 9, 'left')
  prefix = [5, 6, 7]
  for sampling in (None, gj.Sampling(temperature=1.0, top_p=0.9)):
    results = []
    for model in (one, many):
      shared = gj.share_prefix(model, prefix)
      shifted = np.where(positions >= 0, positions + 3, -1)
      results.append(
        gj.generate(
          model,
          tokens,
          shifted,
          max_new_tokens=8,
          sampling=sampling,
          prefix=shared,
        )
      )
    np.testing.assert_array_equal(results[0].tokens, results[1].tokens)
    np.testing.assert_allclose(
      results[0].logprobs, results[1].logprobs, atol=5e-5
    )


@pytest.mark.parametrize('stacked', [True, False])
def test_padding_and_rows_that_do_not_divide(stacked):
  """Three ragged rows on data=4: replicated, and right."""
  one, many = tiny.pair()[1], on_mesh(4, 2)
  many = many if stacked else gj.unstack_layers(many)
  tokens, positions = tiny.ragged(3, 12, 'left')
  a = gj.run(one, tokens, positions, logits_at='all').logits
  b = gj.run(many, tokens, positions, logits_at='all').logits
  np.testing.assert_allclose(a, b, atol=5e-5)


def test_interventions_while_generating_on_a_mesh():
  """Steering, a knockout, and a patch from a sharded capture."""
  one, many = tiny.pair()[1], on_mesh(4, 2)
  tokens, positions = tiny.ragged(8, 9, 'left')
  tokens[1], positions[1] = tokens[0], positions[0]
  rng = np.random.default_rng(0)
  v = rng.standard_normal((8, 40))
  results = []
  for model in (one, many):
    donor = gj.run(
      model, tokens[::-1], positions[::-1], capture=gj.capture('z')
    )
    changes = [
      gj.patch('z', donor, layers=[1, 3]),
      gj.steer('resid_post', v, layers=2),
      gj.knock_out_attention(keys=0, layers=4),
    ]
    results.append(
      gj.generate(
        model, tokens, positions, max_new_tokens=8, interventions=changes
      )
    )
  np.testing.assert_array_equal(results[0].tokens, results[1].tokens)
  np.testing.assert_allclose(
    results[0].logprobs, results[1].logprobs, atol=1e-4
  )


def test_gradients_equal_one_device():
  one, many = tiny.pair()[1], on_mesh(4, 2)
  tokens, _ = tiny.ragged(8, 9, 'left')

  def loss(model):
    logits = gj.forward(model, tokens, logits_at='all', remat=True).logits
    return (jax.nn.log_softmax(logits)[..., 5] ** 2).mean()

  a = jax.jit(jax.grad(loss))(one).weights()
  with jax.set_mesh(many.embed.sharding.mesh):
    b = jax.jit(jax.grad(loss))(many).weights()
  for name in a:
    np.testing.assert_allclose(a[name], b[name], rtol=1e-3, atol=1e-5)


def test_weights_are_split_as_the_rules_say():
  model = on_mesh(4, 2)
  specs = {n: w.sharding.spec for n, w in model.weights().items()}
  assert specs['wq'] == P(None, 'model', None, 'data')
  assert specs['wo'] == P(None, 'data', 'model', None)
  assert specs['down'] == P(None, 'data', 'model')
  # 97 tokens are not divisible by 2: replicated.
  assert specs['embed'] == P(None, 'data')
  shard = model.blocks.gate[...].addressable_shards[0].data
  assert shard.shape == (5, 28, 10)


@pytest.mark.parametrize(
  'size',
  ['gemma-2-2b', 'gemma-2-27b', 'gemma-3-27b', 'llama-3.1-8b', 'gpt2-medium'],
)
def test_real_sizes_split_evenly(size):
  """On 4 x 2 no weight matrix of a public size is replicated.

  But for GPT-2's vocabulary, which is odd.
  """
  config = gj.preset(size)
  mesh = gj.make_mesh(4, 2)
  for name, letters in weight_letters(config).items():
    if 'D' not in letters or letters in ('D', 'LD', 'MD'):
      continue
    shape = weight_shape(config, name)
    local = sharding.weight_sharding(letters, shape, mesh).shard_shape(shape)
    splits = 4 if name == 'embed' and config.vocab_size % 2 else 8
    assert np.prod(local) * splits == np.prod(shape), name


def test_a_mesh_needs_all_devices():
  with pytest.raises(ValueError, match='data=3 x model=2 needs 6 .* are 8'):
    gj.make_mesh(3, 2)


def test_distributed_needs_all_or_nothing(monkeypatch):
  for name in list(os.environ):
    if name.startswith('JAX_') and 'PROC' in name:
      monkeypatch.delenv(name)
  assert gj.initialize_distributed() is False
  monkeypatch.setenv('JAX_NUM_PROCESSES', '2')
  with pytest.raises(ValueError, match='only num_processes is given'):
    gj.initialize_distributed()


WORKER = """
import jax
jax.config.update('jax_cpu_collectives_implementation', 'gloo')
jax.config.update('jax_default_matmul_precision', 'highest')
import gemma_jax as gj
assert gj.initialize_distributed()
import numpy as np
from jax.experimental import multihost_utils
mesh = gj.make_mesh(2, 1)
model = gj.load_checkpoint({path!r}, mesh=mesh)
local = sum(s.data.size for s in model.blocks.gate[...].addressable_shards)
assert local * 2 == model.blocks.gate.size, 'this process holds its half'
tokens = np.arange(3, 27, dtype=np.int32).reshape(2, 12)
out = gj.run(model, tokens, logits_at='all')
logits = multihost_utils.process_allgather(out.logits, tiled=True)
if jax.process_index() == 0:
  np.save({out!r}, logits)
"""


def test_two_processes_load_their_shards_and_agree(tmp_path):
  model = tiny.pair()[1]
  gj.save_checkpoint(model, tmp_path / 'model')
  with socket.socket() as s:
    s.bind(('localhost', 0))
    port = s.getsockname()[1]
  code = textwrap.dedent(WORKER).format(
    path=str(tmp_path / 'model'), out=str(tmp_path / 'logits.npy')
  )
  processes = []
  for number in range(2):
    env = os.environ | {
      'JAX_COORDINATOR_ADDRESS': f'localhost:{port}',
      'JAX_NUM_PROCESSES': '2',
      'JAX_PROCESS_ID': str(number),
      'JAX_PLATFORMS': 'cpu',
    }
    processes.append(
      subprocess.Popen(
        [sys.executable, '-c', code],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
      )
    )
  outputs = [p.communicate(timeout=240)[0] for p in processes]
  assert [p.returncode for p in processes] == [0, 0], '\n'.join(outputs)
  tokens = np.arange(3, 27, dtype=np.int32).reshape(2, 12)
  want = gj.run(model, tokens, logits_at='all').logits
  np.testing.assert_allclose(np.load(tmp_path / 'logits.npy'), want, atol=5e-5)
