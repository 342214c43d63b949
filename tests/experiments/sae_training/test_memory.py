"""Estimates hold against what arrays and XLA really take."""

import math
import types

import jax
import jax.numpy as jnp
import pytest

from experiments.runs import host_memory
from experiments.sae_training import memory, splicing
from experiments.sae_training.memory import Item, MemoryEstimate, OutOfMemory
import gemma_jax as gj
from gemma_jax.sharding import partition_spec
from gemma_jax.weights import weight_letters, weight_shape
from sae.training import update
from sae.training.recipe import TrainConfig
from tests.experiments import worlds

SHAPE = {
  'site': 'resid_post',
  'layers': [1, 3],
  'dtype': 'float32',
  'context': 16,
  'harvest_batch': 4,
}


def items(estimate, stage='training'):
  return {x.name: x.num_bytes for x in estimate.items if x.stage == stage}


def test_against_arrays_and_the_compiler():
  config = TrainConfig.short(
    1024, 99, sparsity=(1e-3, 1e-2, 0.1), batch_size=256, bucket_size=1024
  )
  model = worlds.model()
  found = items(memory.estimate_training(config, model.config, **SHAPE))
  state = jax.eval_shape(
    lambda: update.init_state(config, jnp.ones(2), model.config.d_model)
  )
  held = [state.params, state.adam]
  size = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(held))
  assert found['SAE weights and moments'] == pytest.approx(size, rel=1e-3)
  bucket = jax.ShapeDtypeStruct((2, 1024, 40), jnp.float32)
  assert found['bucket'] == bucket.size * 4
  compiled = update._run_updates.lower(
    state,
    bucket,
    jax.ShapeDtypeStruct((1024,), jnp.int32),
    0,
    config=config.shared,
    num_steps=4,
    mesh=None,
  ).compile()
  temporary = compiled.memory_analysis().temp_size_in_bytes
  said = found['latents of a batch'] + found['SAE gradients and updates']
  assert 0.7 < said / temporary < 1.5
  weights = model.weights()
  layers = sum(
    x.nbytes * (4 / 5 if x.ndim > 1 and x.shape[0] == 5 else 1)
    for x in weights.values()
  )
  assert found['weights of 4 layers'] == pytest.approx(layers, rel=1e-3)


def test_a_backward_pass_against_the_compiler():
  """What measuring uniformity needs besides runs of the model and logits."""
  model, T, B = worlds.model(), 64, 8
  found = items(
    memory.estimate_evaluation(
      model.config,
      site='resid_post',
      width=8,
      dtype='float32',
      context=T,
      harvest_batch=B,
    ),
    'evaluation',
  )
  at = jnp.full((B, 1), 5, jnp.int32)
  layers = jnp.ones(1, jnp.int32)
  tokens = jnp.zeros((B, T), jnp.int32)
  positions = jnp.broadcast_to(jnp.arange(T, dtype=jnp.int32), (B, T))
  compiled = splicing._gradient.lower(
    model, 'resid_post', layers, tokens, positions, at, at[:, 0]
  ).compile()
  temporary = compiled.memory_analysis().temp_size_in_bytes
  said = found['runs of the model'] + found['a backward pass']
  assert 0.6 < said / temporary < 1.5


def test_published_sizes():
  """Gemma 2 2B, layer 12, five SAEs of 16k."""
  config = TrainConfig(width=16384, num_steps=9, sparsity=(1e-3,) * 5)
  estimate = memory.estimate_training(
    config,
    gj.preset('gemma-2-2b'),
    **SHAPE | {'layers': [12], 'dtype': 'bfloat16', 'context': 1024},
  )
  found = items(estimate)
  assert found['SAE weights and moments'] == pytest.approx(
    8 * 5 * 75.5e6, rel=0.01
  )
  assert found['bucket'] == 2**20 * 2304 * 2
  # 13 blocks of 77.9 M, and the embedding.
  weights = 2 * (13 * 77.9e6 + 256_000 * 2304)
  assert found['weights of 13 layers'] == pytest.approx(weights, rel=0.01)
  assert estimate.peak == max(map(estimate.total, ('training', 'evaluation')))
  halved = memory.estimate_training(
    config,
    gj.preset('gemma-2-2b'),
    **SHAPE | {'layers': [12], 'dtype': 'bfloat16', 'context': 1024},
    data=2,
    model_parallel=4,
  )
  assert items(halved)['bucket'] == found['bucket'] // 2
  # Norms are split over 'data' only.
  assert items(halved)['weights of 13 layers'] == pytest.approx(
    found['weights of 13 layers'] / 8, rel=1e-3
  )


def test_what_devices_do_not_divide_is_on_each():
  config = TrainConfig.short(1024, 99, batch_size=255, bucket_size=1275)
  model = worlds.model().config

  def found(**devices):
    return items(memory.estimate_training(config, model, **SHAPE, **devices))

  one, odd = found(), found(data=2, model_parallel=3)
  for name in ('bucket', 'SAE weights and moments', 'latents of a batch'):
    assert odd[name] == one[name]
  # Weights by the rules that place them: 2 key/value heads are not split by 4.
  mesh = types.SimpleNamespace(shape={'data': 2, 'model': 4})
  expected = 0
  for name, letters in weight_letters(model).items():
    shape = weight_shape(model.truncated(4), name)
    axes = partition_spec(letters, shape, mesh)
    splits = math.prod(mesh.shape[axis] for axis in axes if axis)
    expected += 4 * math.prod(shape) // splits
  assert model.num_kv_heads % 4 and expected < one['weights of 4 layers'] / 2
  assert found(data=2, model_parallel=4)['weights of 4 layers'] == expected


ESTIMATE = MemoryEstimate(
  items=(
    Item(stage='training', name='bucket', num_bytes=900, knob='--bucket_size'),
    Item(stage='training', name='other', num_bytes=100, knob='--other'),
    Item(stage='evaluation', name='logits', num_bytes=950, knob='--context'),
  )
)


def test_refuses_and_names_the_knob():
  with pytest.raises(OutOfMemory, match='"bucket" in training.*--bucket_size'):
    memory.check_memory(ESTIMATE, 800)
  assert 'tight' in memory.check_memory(ESTIMATE, 800, refuse=False)
  assert 'tight' in memory.check_memory(ESTIMATE, 1000)
  assert 'tight' not in memory.check_memory(ESTIMATE, 5000)
  assert 'does not say' in memory.check_memory(ESTIMATE, None)


def test_out_of_memory_names_the_knob():
  with pytest.raises(OutOfMemory, match='bucket.*--bucket_size') as caught:
    with memory.explain_out_of_memory(ESTIMATE, 'training'):
      raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory')
  assert 'RESOURCE_EXHAUSTED' in str(caught.value)
  with pytest.raises(jax.errors.JaxRuntimeError):
    with memory.explain_out_of_memory(ESTIMATE, 'training'):
      raise jax.errors.JaxRuntimeError('INTERNAL: no')


def test_a_real_shortage_is_explained():
  with pytest.raises(OutOfMemory, match='ran out of memory in training'):
    with memory.explain_out_of_memory(ESTIMATE, 'training'):
      jnp.zeros((2**24, 2**24)).block_until_ready()


def test_available_memory_is_known_here():
  assert host_memory.available_bytes() > 1 << 28
