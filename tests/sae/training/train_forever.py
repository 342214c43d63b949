"""A training run to be killed.

  python -m tests.sae.training.train_forever FOLDER

Prints the update after every checkpoint interval, and a hash at the end.
"""

import hashlib
import sys
import time

import jax
import numpy as np

from sae.training.recipe import TrainConfig
from sae.training.train import train

CONFIG = TrainConfig.short(
  48,
  240,
  batch_size=32,
  bucket_size=32 * 24,
  sparsity=(0.01, 0.05),
  target_l0=(3.0, 6.0),
)


def stream(first_row):
  """Rows that depend on their number alone, in pieces that do not divide."""
  at = first_row
  while True:
    rng = np.random.default_rng(at // 50)
    piece = rng.standard_normal((50, 12)) * np.linspace(0.5, 3, 12)
    start = at % 50
    yield piece[start:].astype(np.float32)
    at += 50 - start
    print(f'row {at}', flush=True)
    time.sleep(0.004)  # so that a kill falls inside


def digest(trained) -> str:
  """Of all weights of all runs."""
  leaves = jax.tree.leaves([sae.weights() for sae in trained.saes[0]])
  return hashlib.sha256(
    b''.join(np.asarray(x).tobytes() for x in leaves)
  ).hexdigest()


if __name__ == '__main__':
  result = train(
    CONFIG, stream, out=sys.argv[1], log_every=8, checkpoint_every=8
  )
  print('digest', digest(result), flush=True)
