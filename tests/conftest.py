"""Settings of all tests, made before JAX and transformers are used."""

import gc
import os

os.environ['HF_HUB_OFFLINE'] = '1'
os.environ['HF_HUB_DISABLE_PROGRESS_BARS'] = '1'
os.environ['TRANSFORMERS_VERBOSITY'] = 'error'
# Of transformers too, when it loads and writes weights.
os.environ['TQDM_DISABLE'] = '1'

import jax
import pytest

# Eight simulated devices, for meshes; parity needs full float32 products.
jax.config.update('jax_num_cpu_devices', 8)
jax.config.update('jax_default_matmul_precision', 'highest')


@pytest.fixture(autouse=True, scope='module')
def release_programs():
  """Frees what a module compiled.

  A process may map only so many pieces of memory, and XLA crashes beyond that:
  the programs of the whole suite are too many.
  """
  yield
  jax.clear_caches()
  gc.collect()
