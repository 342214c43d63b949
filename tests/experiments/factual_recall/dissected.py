"""Prompts and models that the tests of dissecting recall share."""

import dataclasses

import numpy as np

from experiments.factual_recall.task_prompts import Prompts
from experiments.factual_recall.trace import Trace, trace
import gemma_jax as gj
from tests import tiny
from tests.experiments.factual_recall import random_prompts

# Post-norms, caps and local layers; an embedding apart from the unembedding;
# biases and learned positions.
FAMILIES = ('gemma2', 'llama', 'gpt2')
LAYERS = 5


def model(family: str = 'gemma2') -> gj.Decoder:
  return tiny.pair(family=family)[1]


def prompts(prefix: int = 0, subjects: int = 4) -> Prompts:
  """Subjects of two tokens, one token before the last."""
  made = random_prompts.make(subjects, templates=2, prefix=prefix)
  ends = made.ends
  return dataclasses.replace(
    made, spans=np.stack([ends - 3, ends - 1], axis=1).astype(np.int32)
  )


def in_whole_rows(given: Prompts) -> Prompts:
  """The same prompts without a shared prefix: every row has it."""
  tokens, positions = given.whole()
  nothing = np.zeros(0, np.int32)
  return dataclasses.replace(
    given, prefix=nothing, tokens=tokens, positions=positions
  )


def with_one_token(given: Prompts) -> Prompts:
  """Row 0 being one token, which is its subject."""
  tokens, positions = given.tokens.copy(), given.positions.copy()
  spans = given.spans.copy()
  positions[0], positions[0, -1], spans[0] = -1, 0, (0, 1)
  return dataclasses.replace(
    given, tokens=tokens, positions=positions, spans=spans
  )


def traced(family: str, given: Prompts) -> tuple[gj.Decoder, Trace]:
  return model(family), trace(model(family), given)


def earlier(given: Prompts, group: str) -> np.ndarray:
  """bool [n, positions], written out: what a group has, row by row."""
  size = int(given.ends.max()) + 1
  mask = np.zeros((len(given), size), bool)
  for row, (start, stop) in enumerate(given.spans):
    end = given.ends[row]
    for at in range(size):
      of_subject = start <= at < stop
      mask[row, at] = {
        'subject': of_subject and at < end,
        'non-subject': not of_subject and at < end,
        'non-subject nor first': not of_subject and 0 < at < end,
        'last': at == end,
      }[group]
  return mask
