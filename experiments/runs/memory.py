"""How much device memory SAE training needs, before anything is loaded.

An estimate, per device, from shapes alone: what is held (weights, optimiser,
bucket) exactly, temporaries by how XLA lays them out (five arrays of latents
per update; two of scores and three of the feed-forward layer per run of the
model). Every item names the flag that makes it smaller.
"""

from collections.abc import Sequence
import contextlib
import dataclasses
import math

import jax
import jax.numpy as jnp

from experiments.runs.host_memory import available_memory
import gemma_jax as gj
from gemma_jax.model import QUERY_CHUNK
from gemma_jax.sharding import WEIGHT_RULES
from gemma_jax.weights import weight_letters, weight_shape
from sae.training.recipe import TrainConfig

# Beyond so many times what there is, a run is refused; beyond the other, the
# user is warned.
_REFUSE = 1.2
_WARN = 0.85


class OutOfMemory(RuntimeError):
  """A device has too little memory; the message says what to change."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Item:
  """Something in device memory.

  Attributes:
    stage: 'training' or 'evaluation', which follow each other.
    name: What it is.
    num_bytes: On each device.
    knob: The flags that make it smaller.
  """

  stage: str
  name: str
  num_bytes: int
  knob: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
  """What a run needs.

  Attributes:
    items: All of it.
  """

  items: tuple[Item, ...]

  def total(self, stage: str) -> int:
    """Bytes of a stage."""
    return sum(item.num_bytes for item in self.items if item.stage == stage)

  @property
  def stages(self) -> tuple[str, ...]:
    """The stages, in order."""
    return tuple(dict.fromkeys(item.stage for item in self.items))

  @property
  def peak(self) -> int:
    """Bytes of the larger stage."""
    return max(map(self.total, self.stages))

  def largest(self) -> Item:
    """The largest item of the larger stage."""
    stage = max(self.stages, key=self.total)
    items = [item for item in self.items if item.stage == stage]
    return max(items, key=lambda item: item.num_bytes)

  def table(self) -> str:
    """For the terminal."""
    lines = [f'{"device memory":<48}{"MiB":>10}  made smaller by']
    for stage in self.stages:
      lines += [
        f'  {item.stage + ": " + item.name:<46}'
        f'{item.num_bytes / 2**20:>10,.1f}  {item.knob}'
        for item in self.items
        if item.stage == stage
      ]
      total = self.total(stage) / 2**20
      lines.append(f'{stage + " in all":<48}{total:>10,.1f}')
    return '\n'.join(lines)

  def to_dict(self) -> dict:
    """For JSON."""
    return {
      'items': [dataclasses.asdict(item) for item in self.items],
      'peak_bytes': self.peak,
    }


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
  data: int = 1,
  model_parallel: int = 1,
) -> MemoryEstimate:
  """What `sae_training.train` holds, first in training and then in evaluation.

  Args:
    config: How SAEs are trained.
    model: The whole model's.
    site: Of width W.
    layers: S of them.
    dtype: Of the model.
    context: T.
    harvest_batch: Rows per run of the model.
    uniformity: Whether it is measured, which takes gradients.
    data: Devices that share batches.
    model_parallel: Devices that share latents.
  """
  S, R, F, B = len(layers), len(config.runs), config.width, config.batch_size
  W, size = gj.site_width(model, site), jnp.dtype(dtype).itemsize
  f = _part(F, model_parallel)
  parameters = 4 * S * R * (2 * W * f + 2 * f + W)
  moments = (1 if config.adam_b1 == 0 else 2) * parameters
  truncated = model.truncated(max(layers) + 1)
  tokens = -(-harvest_batch // data) * context
  forward = _forward_bytes(truncated, tokens, context, size, model_parallel)
  at_once = config.runs_at_once or (1 if jax.default_backend() == 'cpu' else R)
  latents = 4 * S * min(R, at_once) * _part(B, data) * f
  fewer = '--width, fewer --sparsity, --seed or --layer'
  items = [
    (
      f'weights of {truncated.num_layers} layers',
      _weight_bytes(truncated, size, data, model_parallel),
      '--dtype=bfloat16, a lower --layer, --model_parallel',
    ),
    ('runs of the model', forward, '--harvest_batch, --context'),
    (
      'activations between model and bucket',
      3 * S * tokens * W * size,
      '--harvest_batch, fewer --layer',
    ),
    (
      'bucket',
      S * _part(config.bucket_size, data) * W * size,
      '--bucket_size, fewer --layer, --dtype=bfloat16',
    ),
    (
      'SAE weights and moments',
      parameters + moments,
      f'{fewer}, --model_parallel',
    ),
    (
      'SAE gradients and updates',
      2 * parameters,
      f'{fewer}, --model_parallel',
    ),
    (
      'latents of a batch',
      5 * latents,
      f'--runs_at_once, --batch_size, {fewer}',
    ),
    (
      'copy for a checkpoint',
      parameters + moments,
      fewer,
    ),
  ]
  return MemoryEstimate(
    items=_items('training', items)
    + _evaluation_items(
      model,
      W=W,
      S=S,
      parameters=parameters,
      width=F,
      size=size,
      tokens=tokens,
      context=context,
      uniformity=uniformity,
      data=data,
      model_parallel=model_parallel,
      fewer=fewer,
    )
  )


def estimate_evaluation(
  model: gj.ModelConfig,
  *,
  site: str,
  width: int,
  dtype,
  context: int,
  harvest_batch: int,
  uniformity: bool = True,
  data: int = 1,
  model_parallel: int = 1,
) -> MemoryEstimate:
  """What the evaluation of one SAE holds; arguments as above."""
  W = gj.site_width(model, site)
  return MemoryEstimate(
    items=_evaluation_items(
      model,
      W=W,
      S=1,
      parameters=4 * (2 * W * width + 2 * width + W),
      width=width,
      size=jnp.dtype(dtype).itemsize,
      tokens=-(-harvest_batch // data) * context,
      context=context,
      uniformity=uniformity,
      data=data,
      model_parallel=model_parallel,
      fewer='an SAE of fewer latents',
    )
  )


def _evaluation_items(
  model,
  *,
  W,
  S,
  parameters,
  width,
  size,
  tokens,
  context,
  uniformity,
  data,
  model_parallel,
  fewer,
) -> tuple[Item, ...]:
  rows = '--harvest_batch, --context'
  items = [
    (
      f'weights of {model.num_layers} layers',
      _weight_bytes(model, size, data, model_parallel),
      '--dtype=bfloat16, --model_parallel',
    ),
    (
      'runs of the model',
      _forward_bytes(model, tokens, context, size, model_parallel),
      rows,
    ),
    ('activations', (S + 4) * tokens * W * size, rows),
    ('SAE weights', parameters, fewer),
    (
      'latents of a batch',
      5 * 4 * tokens * _part(width, model_parallel),
      f'{rows}, {fewer}',
    ),
    (
      'logits',
      3 * min(gj.attribution.LOGITS_BYTES, 4 * tokens * model.vocab_size),
      rows,
    ),
  ]
  if uniformity:
    # Each block's input is kept for the way back; the rest is made anew.
    kept = model.num_layers * tokens * model.d_model * size
    items.append(('a backward pass', kept, f'--uniformity_tokens=0, {rows}'))
  return _items('evaluation', items)


def _items(stage, items) -> tuple[Item, ...]:
  return tuple(
    Item(stage=stage, name=name, num_bytes=int(size), knob=knob)
    for name, size, knob in items
  )


def _part(size: int, devices: int) -> int:
  """Of a dimension, on each of so many devices.

  What they do not divide is whole on each, see `gemma_jax/sharding.py`.
  """
  return size if size % devices else size // devices


def _weight_bytes(config, size, data, model_parallel) -> int:
  devices = {'data': data, 'model': model_parallel, None: 1}
  return size * sum(
    math.prod(
      _part(count, devices[WEIGHT_RULES.get(letter)])
      for letter, count in zip(letters, weight_shape(config, name), strict=True)
    )
    for name, letters in weight_letters(config).items()
  )


def _forward_bytes(config, tokens, context, size, model_parallel) -> int:
  """Temporaries of one block: two sets of scores, the MLP, the stream."""
  N, K, F = (
    _part(count, model_parallel)
    for count in (config.num_heads, config.num_kv_heads, config.d_ff)
  )
  scores = 2 * 4 * N * tokens * min(context, QUERY_CHUNK)
  mlp = (2 + config.gated) * size * F * tokens
  heads = size * tokens * config.head_dim * 2 * (N + K)
  stream = 4 * 4 * config.d_model * tokens
  return scores + mlp + heads + stream


def available_bytes() -> int | None:
  """Memory for arrays on the smallest device; None if that is not known.

  On CPU, what the host has left.
  """
  limits = []
  for device in jax.local_devices():
    stats = device.memory_stats() or {}
    if 'bytes_limit' in stats:
      limits.append(stats['bytes_limit'] - stats.get('bytes_in_use', 0))
  if limits:
    return min(limits)
  if jax.default_backend() != 'cpu':
    return None
  return available_memory()


def check_memory(
  estimate: MemoryEstimate, available: int | None, *, refuse: bool = True
) -> str:
  """Compares an estimate with what there is; returns what to print.

  Raises:
    OutOfMemory: clearly too much is needed, and `refuse`.
  """
  if available is None:
    return f'{estimate.table()}\nThis device does not say how much it has.'
  needed, item = estimate.peak, estimate.largest()
  said = (
    f'{needed / 2**20:,.0f} MiB are needed at the peak, '
    f'{available / 2**20:,.0f} MiB are free on each device'
  )
  remedy = (
    f'The largest part is "{item.name}" in {item.stage}, '
    f'{item.num_bytes / 2**20:,.0f} MiB: make it smaller with {item.knob}'
  )
  if needed > _REFUSE * available and refuse:
    raise OutOfMemory(
      f'{estimate.table()}\n{said}. {remedy}; or pass --nocheck_memory to try.'
    )
  if needed > _WARN * available:
    return f'{estimate.table()}\n{said}: it will be tight. {remedy}.'
  return f'{estimate.table()}\n{said}.'


@contextlib.contextmanager
def explain_out_of_memory(estimate: MemoryEstimate, stage: str):
  """Turns a device's error into one that names the knob.

  Raises:
    OutOfMemory: the block ran out of memory.
  """
  try:
    yield
  except (jax.errors.JaxRuntimeError, MemoryError) as error:
    out = isinstance(error, MemoryError) or 'RESOURCE_EXHAUSTED' in str(error)
    if not out:
      raise
    items = [item for item in estimate.items if item.stage == stage]
    items.sort(key=lambda item: -item.num_bytes)
    raise OutOfMemory(
      f'The device ran out of memory in {stage}. The largest parts, as '
      'estimated:\n'
      + '\n'.join(
        f'  {item.name}, {item.num_bytes / 2**20:,.1f} MiB: {item.knob}'
        for item in items[:3]
      )
      + f'\nWhat JAX said: {str(error).splitlines()[0] if str(error) else ""}'
    ) from error
