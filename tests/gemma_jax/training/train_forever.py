"""A training to be killed.

  python -m tests.gemma_jax.training.train_forever SNAPSHOT

It prints every step, and at the end a hash of the weights and of the records.
"""

import hashlib
import json
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from gemma_jax.training import FitConfig, LoraConfig, fit, init_lora, merge

CONFIG = FitConfig(
  steps=24, learning_rate=0.01, warmup=4, average=0.9, snapshot_every=4
)
LORA = LoraConfig(rank=2, targets=('up', 'down'))


def loss(adapters, x, weights):
  """How far two layers of tanh are from swapping halves, summed and counted."""
  merged = merge(weights, adapters, LORA)
  y = x
  for up, down in zip(merged['up'], merged['down'], strict=True):
    y = y + jnp.tanh(y @ up.T) @ down.T
  error = (y - jnp.roll(x, 4, axis=1)) ** 2
  return error.sum(), error.size


def main(snapshot: str):
  """Trains adapters, in micro-batches, with a running mean and a judge."""
  rng = np.random.default_rng(0)
  weights = {
    name: jnp.asarray(rng.standard_normal(shape), jnp.float32) / 4
    for name, shape in {'up': (2, 16, 8), 'down': (2, 8, 16)}.items()
  }

  def batch(step):
    print(f'step {step}', flush=True)
    time.sleep(0.05)  # so that a kill falls inside
    rng = np.random.default_rng([1, step])
    return rng.standard_normal((6, 8)).astype(np.float32)

  adapters, records = fit(
    loss,
    init_lora(weights, LORA, jax.random.key(0)),
    batch,
    CONFIG,
    snapshot=snapshot,
    name='x',
    frozen=weights,
    accumulation=2,
    judge=lambda now: {'score': float(np.abs(now['down.lora_B']).mean())},
  )
  content = [np.asarray(adapters[name]).tobytes() for name in sorted(adapters)]
  content.append(json.dumps(records).encode())
  print('digest', hashlib.sha256(b''.join(content)).hexdigest(), flush=True)


if __name__ == '__main__':
  main(sys.argv[1])
