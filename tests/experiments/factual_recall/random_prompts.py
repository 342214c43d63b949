"""Prompts of random tokens, for random models that have no tokenizer."""

import numpy as np

from experiments.factual_recall.task_prompts import Prompts
from experiments.factual_recall.tasks import Fact, Task

VOCABULARY = 97


def make(
  subjects: int = 6,
  templates: int = 3,
  prefix: int = 0,
  seed: int = 0,
  padded: int = 12,
) -> Prompts:
  """Prompts of different lengths: every subject in every template.

  Args:
    subjects: How many.
    templates: How many.
    prefix: Tokens of demonstrations, the same before all.
    seed: Of the tokens.
    padded: T.
  """
  rng = np.random.default_rng(seed)
  n = subjects * templates
  tokens = np.zeros((n, padded), np.int32)
  positions = np.full((n, padded), -1, np.int32)
  for row, size in enumerate(rng.integers(4, 10, n)):
    tokens[row, -size:] = rng.integers(3, VOCABULARY, size)
    positions[row, -size:] = prefix + np.arange(size)
  which = np.repeat(np.arange(subjects, dtype=np.int32), templates)
  answers, names = rng.choice(np.arange(3, VOCABULARY), (2, subjects), False)
  ones = np.ones(n, np.int32)
  return Prompts(
    task=Task(
      name='random',
      source='drawn',
      templates=tuple(f'{i} {{subject}}' for i in range(templates)),
      facts=tuple(
        Fact(subject=f'subject {i}', answer=f'answer {i}')
        for i in range(subjects)
      ),
      shot='',
      shots=(),
    ),
    shots=int(prefix > 0),
    texts=tuple(f'prompt {i}' for i in range(n)),
    prefix=rng.integers(3, VOCABULARY, prefix).astype(np.int32),
    tokens=tokens,
    positions=positions,
    spans=np.stack([positions[:, -2], positions[:, -1]], axis=1),
    subjects=which,
    templates=np.tile(np.arange(templates, dtype=np.int32), subjects),
    answers=answers[which].astype(np.int32),
    names=names[which].astype(np.int32),
    answer_sizes=ones,
    name_sizes=ones,
  )


def padded_right(prompts: Prompts) -> tuple[np.ndarray, np.ndarray]:
  """Tokens and positions [n, T'] of whole prompts, padded on the other side."""
  tokens, positions = prompts.whole()
  rows = [t[p >= 0] for t, p in zip(tokens, positions, strict=True)]
  size = max(map(len, rows)) + 1
  filled = np.zeros((len(rows), size), np.int32)
  places = np.full((len(rows), size), -1, np.int32)
  for i, row in enumerate(rows):
    filled[i, : len(row)], places[i, : len(row)] = row, np.arange(len(row))
  return filled, places
