"""Random pairs on a tiny random model."""

import functools

import numpy as np

from experiments.patching.runs import PairRun, record_run
import gemma_jax as gj
from tests import tiny

n, T, DIFFER = 4, 7, 2


@functools.cache
def model() -> gj.Decoder:
  return tiny.ours()


@functools.cache
def runs() -> tuple[PairRun, PairRun]:
  """Two sides of n pairs that differ in tokens 2 and 3."""
  rng = np.random.default_rng(0)
  base = rng.integers(3, 97, (n, T)).astype(np.int32)
  donor = base.copy()
  donor[:, DIFFER : DIFFER + 2] = (donor[:, DIFFER : DIFFER + 2] + 30) % 97
  answers = np.stack([rng.permutation(97)[:2] for _ in range(n)]).astype(
    np.int32
  )
  return tuple(record_run(model(), rows, answers) for rows in (base, donor))
