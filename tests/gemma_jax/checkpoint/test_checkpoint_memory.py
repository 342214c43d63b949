"""Host memory while a large checkpoint is loaded."""

import pathlib
import shutil
import subprocess
import sys

import pytest

import gemma_jax as gj
from tools.make_checkpoint import write_checkpoint

ROOT = pathlib.Path(__file__).parents[3]

_MEASURE = """
import sys
import jax
jax.config.update('jax_num_cpu_devices', 8)
from gemma_jax.checkpoint.hf import load_checkpoint
from gemma_jax.sharding import make_mesh

def kib(field):
  lines = open('/proc/self/status').read().splitlines()
  return next(int(l.split()[1]) for l in lines if l.startswith(field))

folder, dtype, data, model = sys.argv[1:]
mesh = make_mesh(int(data), int(model)) if data != '0' else None
jax.device_put(0.0).block_until_ready()
before = kib('VmRSS')
loaded = load_checkpoint(folder, dtype=dtype, mesh=mesh)
size = sum(array.nbytes for array in loaded.weights().values())
print((kib('VmHWM') - before) * 1024, size)
"""


@pytest.fixture(scope='module')
def big(tmp_path_factory):
  """1.5 GB of bfloat16 in four files."""
  folder = tmp_path_factory.mktemp('big')
  config = gj.FAMILIES['gemma2'].config(
    num_layers=10,
    d_model=2048,
    d_ff=8192,
    num_heads=16,
    num_kv_heads=8,
    head_dim=128,
    vocab_size=64_000,
    local_layers=(True, False) * 5,
  )
  write_checkpoint(config, folder / 'ck', dtype='bfloat16', shards=4)
  assert len(list((folder / 'ck').glob('*.safetensors'))) == 4
  yield folder / 'ck'
  shutil.rmtree(folder)


@pytest.mark.slow
@pytest.mark.parametrize(
  'dtype, mesh',
  [
    ('bfloat16', (0, 0)),
    ('bfloat16', (2, 4)),
    ('bfloat16', (1, 8)),
    ('float32', (0, 0)),
    ('float32', (2, 4)),
  ],
)
def test_peak_memory_is_at_most_1_3_times_what_is_loaded(dtype, mesh, big):
  run = subprocess.run(
    [sys.executable, '-c', _MEASURE, str(big), dtype, *map(str, mesh)],
    capture_output=True,
    text=True,
    cwd=ROOT,
    check=True,
  )
  peak, size = map(int, run.stdout.split())
  assert size >= 1.5e9
  assert peak <= 1.3 * size, f'{peak / size:.3f} times what is loaded'
