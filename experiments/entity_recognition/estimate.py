"""What a run will take, said before it starts."""

import time

import jax
import jax.numpy as jnp

from experiments.entities import prompt_types_of
from experiments.entity_recognition.plan import RecognitionPlan
from experiments.entity_recognition.settings import Settings
from experiments.runs.host_memory import available_bytes
from gemma_jax.costs import block_flops
from sae.formats.releases import parse_width_label

# Typical tokens of a prompt, and of an answer until it stops.
_PROMPT, _ANSWER = 24, 12
# Share of the rate of a large matrix product that is left with small batches
# and attention.
_EFFICIENCY = 0.3


def estimate(plan: RecognitionPlan, settings: Settings) -> str:
  """Lines about work, time and memory.

  Time is that of the matrix products at 30 % of the rate that a large one has
  on this device just now, compilation left out: an order of magnitude.
  """
  config = plan.base.config
  questions = sum(
    len(prompt_types_of(entity))
    for of_type in plan.entities.values()
    for entity in of_type
  )
  answers = 0 if plan.records else questions * (1 + settings.num_samples)
  entities = sum(map(len, plan.entities.values()))
  # Per latent: it, its opposite, the mean difference and controls, at its
  # dose and over the sweep; and out of the weights.
  swept = (3 + 2 * settings.num_random) * len(settings.sweep)
  arms = 1 + 2 * (
    3 + 2 * settings.num_random + swept + len(settings.weight_ablation)
  )
  steered = 2 * len(plan.entities) * settings.questions * arms
  # Steered answers are generated, and the original's is read: divergence.
  tokens = (answers + 2 * steered) * (_PROMPT + _ANSWER) + entities * _PROMPT
  flops = config.num_layers * block_flops(config) * tokens
  seconds = flops / (_EFFICIENCY * _rate(plan.base.dtype))
  needed = _bytes(plan, settings)
  free = available_bytes()
  return '\n'.join(
    [
      f'{entities:,} entities of {len(plan.entities)} types, '
      f'{len(plan.saes)} SAEs.',
      f'Answers to generate: {answers:,} to label entities, at most '
      f'{steered:,} under {arms} arms of steering.',
      f'Estimate: {flops / 1e12:,.1f} TFLOP, about {_words(seconds)} here; '
      f'{needed / 2**30:.1f} GiB of memory, '
      + (
        'this device does not say how much is free.'
        if free is None
        else f'{free / 2**30:.1f} GiB are free.'
      ),
      *(
        ['Too much? Try --layers, a smaller --rows_per_batch, bfloat16.']
        if free is not None and needed > free
        else []
      ),
    ]
  )


def _bytes(plan: RecognitionPlan, settings: Settings) -> int:
  """Returns bytes of base model and SAEs, or chat model and cache if more."""
  config, size = plan.base.config, plan.base.dtype.itemsize
  numbers = config.num_layers * block_flops(config) // 2
  weights = (numbers + config.vocab_size * config.d_model) * size
  widths = [parse_width_label(s.sae_id.split('/')[1][6:]) for s in plan.saes]
  saes = sum(widths) * 2 * config.d_model * 4
  capacity = 2 * (_PROMPT + _ANSWER)
  cache = 2 * config.num_layers * config.num_kv_heads * config.head_dim
  rows = settings.rows_per_batch * (
    cache * capacity * size + config.vocab_size * 4
  )
  return weights + max(saes, rows)


def _rate(dtype) -> float:
  """FLOP/s of a square matrix product, the best of three."""
  n = 1024
  x = jnp.ones((n, n), dtype)
  product = jax.jit(jnp.dot)
  jax.block_until_ready(product(x, x))
  best = float('inf')
  for _ in range(3):
    start = time.perf_counter()
    jax.block_until_ready(product(x, x))
    best = min(best, time.perf_counter() - start)
  return 2 * n**3 / best


def _words(seconds: float) -> str:
  for size, name in ((3600, 'hours'), (60, 'minutes')):
    if seconds > 2 * size:
      return f'{seconds / size:.0f} {name}'
  return f'{max(seconds, 1):.0f} seconds'
