"""Orbax checkpoints: other meshes, other processes, damage."""

import json
import pathlib
import shutil
import socket
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

import gemma_jax as gj
from gemma_jax.checkpoint.hf import load_checkpoint
from gemma_jax.checkpoint.orbax import load_orbax, save_orbax
from gemma_jax.sharding import make_mesh
from tests import tiny
from tests.gemma_jax.checkpoints import CONFIG, assert_same, edit_json
from tools.make_checkpoint import random_model

ROOT = pathlib.Path(__file__).parents[3]
# Orbax abandons its other reads when one fails; they report that they were.
pytestmark = pytest.mark.filterwarnings(
  'ignore::pytest.PytestUnraisableExceptionWarning'
)


@pytest.fixture(scope='module')
def orbax(saved, tmp_path_factory):
  """Saved from a mesh of data=2, model=4."""
  folder = tmp_path_factory.mktemp('orbax') / 'saved'
  save_orbax(load_checkpoint(saved / 'four', mesh=make_mesh(2, 4)), folder)
  return folder


@pytest.mark.parametrize('mesh', [None, (2, 4), (8, 1), (1, 8), (4, 2)])
def test_orbax_restores_onto_another_mesh(model, orbax, mesh):
  mesh = mesh and make_mesh(*mesh)
  loaded = load_orbax(orbax, mesh=mesh)
  assert_same(model, loaded)
  if mesh is not None:
    gate = loaded.weights()['gate']
    assert gate.sharding.mesh == mesh
    data, model_axis = mesh.shape['data'], mesh.shape['model']
    shard = (4, 32 // model_axis, 24 // data)
    assert {s.data.shape for s in gate.addressable_shards} == {shard}


def test_orbax_keeps_and_casts_dtypes(tmp_path):
  model = random_model(CONFIG, dtype='bfloat16')
  save_orbax(model, tmp_path / 'out')
  assert_same(model, load_orbax(tmp_path / 'out'))
  wide = load_orbax(tmp_path / 'out', dtype='float32')
  assert wide.dtype == jnp.float32
  np.testing.assert_array_equal(
    wide.weights()['wo'], np.asarray(model.weights()['wo'], np.float32)
  )
  with pytest.raises(ValueError, match='got .*int8'):
    load_orbax(tmp_path / 'out', dtype=jnp.int8)


@pytest.mark.parametrize('family', ['llama', 'gpt2', 'opt', 'qwen3'])
def test_orbax_round_trip_of_other_families(family, tmp_path):
  model = tiny.pair(family=family)[1]
  save_orbax(model, tmp_path / 'out')
  assert_same(model, load_orbax(tmp_path / 'out', mesh=make_mesh(4, 2)))


def orbax_no_folder(folder):
  shutil.rmtree(folder)
  return FileNotFoundError, ['does not exist', 'save_orbax']


def orbax_no_config(folder):
  (folder / 'config.json').unlink()
  return FileNotFoundError, ['config.json', 'did not end']


def orbax_no_weights(folder):
  (folder / 'weights').rename(folder / 'weights.orbax-checkpoint-tmp')
  return FileNotFoundError, ['weights', 'did not end', 'load_checkpoint']


def orbax_no_metadata(folder):
  (folder / 'weights' / '_METADATA').unlink()
  return ValueError, ['weights', 'damaged']


def orbax_cut_data(folder):
  files = [p for p in (folder / 'weights').rglob('d/*') if p.is_file()]
  for path in files:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
  return ValueError, ['weights', 'damaged']


def orbax_other_config(folder):
  edit_json(folder / 'config.json', lambda c: c.update(intermediate_size=40))
  return ValueError, ['gate', '[4, 32, 24]', 'expected [4, 40, 24]']


def orbax_other_model(folder):
  edit_json(folder / 'config.json', lambda c: c.update(model_type='mamba'))
  return ValueError, ["'mamba'", 'not supported']


def orbax_other_family(folder):
  """Gemma 3 has norms of queries and keys."""

  def change(c):
    del c['attn_logit_softcapping'], c['rope_parameters']
    c['model_type'] = 'gemma3_text'

  edit_json(folder / 'config.json', change)
  return ValueError, ['array k_norm is missing']


@pytest.mark.parametrize(
  'damage',
  [
    orbax_no_folder,
    orbax_no_config,
    orbax_no_weights,
    orbax_no_metadata,
    orbax_cut_data,
    orbax_other_config,
    orbax_other_model,
    orbax_other_family,
  ],
)
def test_damaged_orbax_checkpoints_are_refused(damage, orbax, tmp_path):
  folder = pathlib.Path(shutil.copytree(orbax, tmp_path / 'copy'))
  kind, said = damage(folder)
  with pytest.raises(kind) as error:
    load_orbax(folder)
  for part in [str(folder), *said]:
    assert part in str(error.value)


@pytest.mark.parametrize(
  'change, message',
  [
    (lambda w: w.pop('wq'), 'array wq is missing'),
    (lambda w: w.update(bias=w['wq']), 'array bias is unknown'),
    (
      lambda w: w.update(up=w['up'].astype(jnp.int32)),
      'array up has dtype int32, expected bfloat16, float16 or float32',
    ),
  ],
)
def test_other_arrays_in_an_orbax_checkpoint_are_refused(
  change, message, model, tmp_path
):
  weights = model.weights()
  change(weights)
  with ocp.StandardCheckpointer() as checkpointer:
    checkpointer.save(tmp_path / 'weights', weights)
  (tmp_path / 'config.json').write_text(json.dumps(gj.config_fields(CONFIG)))
  with pytest.raises(ValueError, match=message):
    load_orbax(tmp_path)


_TWO_PROCESSES = """
import sys
import jax, numpy as np
jax.config.update('jax_num_cpu_devices', 4)
jax.config.update('jax_cpu_collectives_implementation', 'gloo')
from gemma_jax import sharding
from gemma_jax.checkpoint.hf import CheckpointReader, save_checkpoint
from gemma_jax.checkpoint.orbax import load_orbax, save_orbax

checkpoint, out, port, process = sys.argv[1:]
assert sharding.initialize_distributed(f'localhost:{port}', 2, int(process))
mesh = sharding.make_mesh(2, 4)  # each process holds one half of D
reader = CheckpointReader(checkpoint)
read = []
model = reader.load(mesh, on_bytes=read.append)
assert sum(read) == reader.num_bytes // 2, (sum(read), reader.num_bytes)
save_orbax(model, out)
again = load_orbax(out, mesh=sharding.make_mesh(4, 2))
whole = {name: reader.read(name) for name in model.weights()}
for loaded in (model, again):
  for name, array in loaded.weights().items():
    for shard in array.addressable_shards:
      np.testing.assert_array_equal(shard.data, whole[name][shard.index])
try:
  save_checkpoint(model, out + '-hf')
except ValueError as error:
  print(error)
"""


@pytest.mark.slow
def test_two_processes_read_their_shards_and_save_together(
  model, saved, tmp_path
):
  with socket.socket() as free:
    free.bind(('localhost', 0))
    port = free.getsockname()[1]
  arguments = [str(saved / 'four'), str(tmp_path / 'out'), str(port)]
  processes = [
    subprocess.Popen(
      [sys.executable, '-c', _TWO_PROCESSES, *arguments, str(i)],
      cwd=ROOT,
      text=True,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
    )
    for i in range(2)
  ]
  try:
    for process in processes:
      out, err = process.communicate(timeout=120)
      assert process.returncode == 0, err
      assert 'Save it with save_orbax' in out
  finally:
    for process in processes:
      process.kill()
  assert_same(model, load_orbax(tmp_path / 'out'))
