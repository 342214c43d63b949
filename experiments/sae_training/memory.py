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

from experiments.runs import out_of_memory
from experiments.runs.out_of_memory import OutOfMemory
import gemma_jax as gj
from gemma_jax.model import QUERY_CHUNK
from gemma_jax.sharding import WEIGHT_RULES
from gemma_jax.weights import weight_letters, weight_shape
from sae.training.recipe import TrainConfig

# Beyond so many times what there is, a run is refused; beyond the other, the
# user is warned.
_REFUSE = 1.2
_WARN = 0.85


@dataclasses.dataclass(frozen=True, kw_only=True)
class Item:
  """Something in device memory.

  Attributes:
    stage: 'training' or 'evaluation', which follow each other.
    name: Name of what is held.
    num_bytes: Size in bytes on each device.
    knob: The flags that make it smaller.
  """

  stage: str
  name: str
  num_bytes: int
  knob: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
  """Holds the memory that a run needs.

  Attributes:
    items: Everything that is held.
  """

  items: tuple[Item, ...]

  def total(self, stage: str) -> int:
    """Returns the bytes of a stage."""
    return sum(item.num_bytes for item in self.items if item.stage == stage)

  @property
  def stages(self) -> tuple[str, ...]:
    """Returns the stages, in order."""
    return tuple(dict.fromkeys(item.stage for item in self.items))

  @property
  def peak(self) -> int:
    """Returns the bytes of the larger stage."""
    return max(map(self.total, self.stages))

  def largest(self) -> Item:
    """Returns the largest item of the larger stage."""
    stage = max(self.stages, key=self.total)
    items = [item for item in self.items if item.stage == stage]
    return max(items, key=lambda item: item.num_bytes)

  def table(self) -> str:
    """Returns a table for the terminal."""
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
    """Returns what results.json has."""
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
    data: Number of devices that share batches.
    model_parallel: Number of devices that share latents.
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
  evaluation = estimate_evaluation(
    model,
    site=site,
    width=F,
    dtype=dtype,
    context=context,
    harvest_batch=harvest_batch,
    uniformity=uniformity,
    data=data,
    model_parallel=model_parallel,
    parameters=parameters,
    num_layers=S,
    fewer=fewer,
  )
  return MemoryEstimate(items=_items('training', items) + evaluation.items)


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
  parameters: int | None = None,
  num_layers: int = 1,
  fewer: str = 'an SAE of fewer latents',
) -> MemoryEstimate:
  """Estimates what the evaluation of SAEs holds.

  Args:
    model: Configuration of the whole model.
    site: Site of width W.
    width: Number of latents of an SAE.
    dtype, context, harvest_batch, uniformity, data, model_parallel: As above.
    parameters: Bytes of all SAEs. Default: those of one SAE.
    num_layers: Number of layers whose activations are held.
    fewer: The flags that make SAEs smaller.
  """
  W, size = gj.site_width(model, site), jnp.dtype(dtype).itemsize
  tokens = -(-harvest_batch // data) * context
  if parameters is None:
    parameters = 4 * (2 * W * width + 2 * width + W)
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
    ('activations', (num_layers + 4) * tokens * W * size, rows),
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
  return MemoryEstimate(items=_items('evaluation', items))


def _items(stage, items) -> tuple[Item, ...]:
  return tuple(
    Item(stage=stage, name=name, num_bytes=int(size), knob=knob)
    for name, size, knob in items
  )


def _part(size: int, devices: int) -> int:
  """Returns the part of a dimension on each of so many devices.

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
  """Returns bytes for one block: two sets of scores, the MLP, the stream."""
  N, K, F = (
    _part(count, model_parallel)
    for count in (config.num_heads, config.num_kv_heads, config.d_ff)
  )
  scores = 2 * 4 * N * tokens * min(context, QUERY_CHUNK)
  mlp = (2 + config.gated) * size * F * tokens
  heads = size * tokens * config.head_dim * 2 * (N + K)
  stream = 4 * 4 * config.d_model * tokens
  return scores + mlp + heads + stream


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


def explain_out_of_memory(
  estimate: MemoryEstimate, stage: str
) -> contextlib.AbstractContextManager[None]:
  """Returns a context whose errors of memory name the largest parts of a stage.

  Raises:
    OutOfMemory: the block ran out of memory.
  """
  items = [item for item in estimate.items if item.stage == stage]
  items.sort(key=lambda item: -item.num_bytes)
  return out_of_memory.explain_out_of_memory(
    f'The device ran out of memory in {stage}. The largest parts, as '
    'estimated:\n'
    + '\n'.join(
      f'  {item.name}, {item.num_bytes / 2**20:,.1f} MiB: {item.knob}'
      for item in items[:3]
    )
  )
