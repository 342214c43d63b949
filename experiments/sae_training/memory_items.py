"""What SAE training and evaluation hold in device memory, from shapes alone.

What is held follows from shapes and from where they are placed. What programs
take besides is what the compiler says: each is compiled, without any data, for
the devices of the run.
"""

from collections.abc import Sequence
import contextlib
import functools
import math

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding

from experiments.sae_training import splicing
from experiments.sae_training.memory import Item, MemoryEstimate
import gemma_jax as gj
from gemma_jax.sharding import (
  ACTIVATION_RULES,
  partition_spec,
  weight_sharding,
)
from gemma_jax.weights import weight_letters, weight_shape
from sae.jumprelu import Weights
from sae.metrics.metric_sums import add_batch, init_sums
from sae.training import sharding, update
from sae.training.recipe import TrainConfig

_ROWS = '--harvest_batch, --context'


class _Stage:
  """Collects the items of a stage."""

  def __init__(self, name: str, mesh):
    self.items, self._name, self._mesh = [], name, mesh

  def holds(self, name: str, num_bytes: int, knob: str):
    self._add(name, num_bytes, knob, False)

  def runs(self, name: str, knob: str, function, *args, **static):
    """Compiles a jitted function for arguments of which shapes are enough."""
    mesh = self._mesh
    with contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh):
      compiled = function.lower(*args, **static).compile()
    used = compiled.memory_analysis().temp_size_in_bytes
    self._add(f'program: {name}', used, knob, True)

  def _add(self, name, num_bytes, knob, program):
    self.items.append(
      Item(
        stage=self._name,
        name=name,
        num_bytes=int(num_bytes),
        knob=knob,
        program=program,
      )
    )


def estimate_training(
  config: TrainConfig,
  model: gj.ModelConfig,
  *,
  site: str,
  layers: Sequence[int],
  dtype,
  context: int,
  harvest_batch: int,
  uniformity: bool = True,
  mesh: jax.sharding.Mesh | None = None,
) -> MemoryEstimate:
  """Estimates what training holds, and then evaluation.

  Args:
    config: How SAEs are trained.
    model: Configuration of the whole model.
    site: Site of width W.
    layers: S layers of the site.
    dtype: Data type of the model.
    context: T, the most tokens of a row.
    harvest_batch: Rows per run of the model.
    uniformity: If true, uniformity is measured, which takes gradients.
    mesh: The devices of the run; None for one.
  """
  S, W = len(layers), gj.site_width(model, site)
  decoder = _decoder(model.truncated(max(layers) + 1), dtype, mesh)
  x = _batch((harvest_batch, context, W), dtype, mesh)
  start = jax.jit(lambda: update.init_state(config, jnp.ones(S), W, mesh))
  begun = start.lower()
  state = jax.tree.map(
    lambda x, place: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place),
    begun.out_info,
    begun.compile().output_shardings,
  )
  shape = S, config.bucket_size, W
  place = sharding.placement('SBD', shape, mesh)
  bucket = jax.ShapeDtypeStruct(shape, dtype, sharding=place)
  fewer = '--width, fewer --sparsity, --seed or --layer'
  stage = _Stage('training', mesh)
  stage.holds(
    f'weights of {decoder.config.num_layers} layers',
    _bytes_on_each(decoder),
    '--dtype=bfloat16, a lower --layer, --model_parallel',
  )
  stage.holds(
    'activations between model and bucket',
    3 * S * _bytes_on_each(x),
    '--harvest_batch, fewer --layer',
  )
  stage.holds(
    'bucket',
    _bytes_on_each(bucket),
    '--bucket_size, fewer --layer, --dtype=bfloat16',
  )
  held = _bytes_on_each(state)
  stage.holds('SAE weights and moments', held, f'{fewer}, --model_parallel')
  stage.holds('copy for a checkpoint', held, fewer)
  stage.runs(
    'the model',
    _ROWS,
    *_model_run(decoder, [site], layers, harvest_batch, context),
  )
  run_updates = functools.partial(
    update.run_updates, config=config, num_steps=2, mesh=mesh
  )
  stage.runs(
    'updates of SAEs',
    f'--runs_at_once, --batch_size, {fewer}, --model_parallel',
    jax.jit(run_updates, donate_argnums=0),
    state,
    bucket,
    jax.ShapeDtypeStruct((config.bucket_size,), jnp.int32),
    0,
  )
  evaluation = estimate_evaluation(
    model,
    _sae_weights(config.width, W, mesh),
    site=site,
    layers=layers,
    num_saes=S * len(config.runs),
    dtype=dtype,
    context=context,
    harvest_batch=harvest_batch,
    uniformity=uniformity,
    mesh=mesh,
    fewer=fewer,
  )
  return MemoryEstimate(items=(*stage.items, *evaluation.items))


def estimate_evaluation(
  model: gj.ModelConfig,
  weights: Weights,
  *,
  site: str,
  layers: Sequence[int],
  dtype,
  context: int,
  harvest_batch: int,
  num_saes: int = 1,
  uniformity: bool = True,
  mesh: jax.sharding.Mesh | None = None,
  fewer: str = 'an SAE of fewer latents',
) -> MemoryEstimate:
  """Estimates what the evaluation of SAEs holds.

  Args:
    model: Configuration of the whole model.
    weights: Those of an SAE, or their shapes.
    site: Site of width W.
    layers: S layers of the site.
    dtype, context, harvest_batch, uniformity, mesh: As above.
    num_saes: Number of SAEs, of all layers.
    fewer: The flags that make SAEs smaller.
  """
  S, (W, F) = len(layers), weights.W_enc.shape
  B, T = harvest_batch, context
  decoder = _decoder(model, dtype, mesh)
  x = _batch((B, T, W), dtype, mesh)
  stage = _Stage('evaluation', mesh)
  stage.holds(
    f'weights of {model.num_layers} layers',
    _bytes_on_each(decoder),
    '--dtype=bfloat16, --model_parallel',
  )
  stage.holds('activations', (S + 4) * _bytes_on_each(x), _ROWS)
  stage.holds('SAE weights', num_saes * _bytes_on_each(weights), fewer)
  last = model.num_layers - 1
  stage.runs(
    'the model',
    _ROWS,
    *_model_run(decoder, [site, 'resid_post'], [*layers, last], B, T),
  )
  stage.runs(
    'latents of a batch',
    f'{_ROWS}, {fewer}',
    jax.jit(add_batch, donate_argnums=0),
    jax.eval_shape(lambda: init_sums(F, W)),
    weights,
    x,
    jax.ShapeDtypeStruct((B, T), bool),
  )
  stream = _batch((B, T, model.d_model), dtype, mesh)
  tokens = jax.ShapeDtypeStruct((B, T), jnp.int32)
  losses = jax.jit(lambda *x: gj.token_losses(*x))
  stage.runs('logits', _ROWS, losses, decoder, stream, tokens)
  if uniformity:
    at = jax.ShapeDtypeStruct((B, 1), jnp.int32)
    stage.runs(
      'a backward pass',
      f'--uniformity_tokens=0, {_ROWS}',
      splicing.own_logit_gradient,
      decoder,
      site,
      jax.ShapeDtypeStruct((S,), jnp.int32),
      tokens,
      tokens,
      at,
      jax.ShapeDtypeStruct((B,), jnp.int32),
    )
  return MemoryEstimate(items=tuple(stage.items))


def _decoder(config: gj.ModelConfig, dtype, mesh) -> gj.Decoder:
  """Returns a model of shapes, placed as its weights will be."""
  weights = {}
  for name, letters in weight_letters(config).items():
    shape = weight_shape(config, name)
    place = weight_sharding(letters, shape, mesh)
    weights[name] = jax.ShapeDtypeStruct(shape, dtype, sharding=place)
  return gj.Decoder(config, weights)


def _sae_weights(F: int, W: int, mesh) -> Weights:
  """Returns the shapes of an SAE's weights, placed as training leaves them."""
  letters = Weights('DF', 'FD', 'F', 'D', 'F')
  shapes = Weights((W, F), (F, W), (F,), (W,), (F,))
  return Weights(
    *(
      jax.ShapeDtypeStruct(
        shape, jnp.float32, sharding=sharding.placement(dims, shape, mesh)
      )
      for dims, shape in zip(letters, shapes, strict=True)
    )
  )


def _batch(shape: tuple[int, int, int], dtype, mesh) -> jax.ShapeDtypeStruct:
  """Returns activations [B, T, W], placed as a run of the model leaves them."""
  place = None
  if mesh is not None:
    spec = partition_spec('BTW', shape, mesh, ACTIVATION_RULES)
    place = NamedSharding(mesh, spec)
  return jax.ShapeDtypeStruct(shape, dtype, sharding=place)


def _model_run(decoder, sites, layers, B: int, T: int) -> tuple:
  """Returns a run of the model that captures sites, and its arguments."""
  tokens = jax.ShapeDtypeStruct((B, T), jnp.int32)
  layers = jnp.asarray(layers, jnp.int32)

  def run(model, tokens, positions):
    capture = gj.Capture(sites=tuple(dict.fromkeys(sites)), layers=layers)
    out = gj.forward(model, tokens, positions, capture=capture)
    return out.activations

  return jax.jit(run), decoder, tokens, tokens


def _bytes_on_each(tree) -> int:
  """Returns the bytes of a tree of shapes on each device."""

  def size(x):
    place = getattr(x, 'sharding', None)
    shape = x.shape if place is None else place.shard_shape(x.shape)
    return math.prod(shape) * jnp.dtype(x.dtype).itemsize

  return sum(map(size, jax.tree.leaves(tree)))
