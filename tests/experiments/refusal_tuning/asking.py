"""Prompts of random tokens about made-up entities."""

import numpy as np

from experiments.refusal_tuning.asked import Asked


def prompts(n=10, seed=0, known=None, shared=2, vocab=97) -> Asked:
  """n ragged prompts with names of one to three tokens, two per entity."""
  rng = np.random.default_rng(seed)
  head = rng.integers(3, vocab, shared).tolist()
  ids, spans = [], []
  for _ in range(n):
    before, name, after = rng.integers(0, 3), rng.integers(1, 4), 2
    length = shared + before + name + after + rng.integers(0, 3)
    ids.append((*head, *rng.integers(3, vocab, length - shared).tolist()))
    start = shared + before
    spans.append((start, start + name))
  if known is None:
    known = np.arange(n) % 4 < 2
  return Asked(
    ids=tuple(ids),
    spans=np.array(spans),
    entities=tuple(f'e{i // 2}' for i in range(n)),
    known=np.asarray(known, bool),
  )
