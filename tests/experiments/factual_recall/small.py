"""Random prompts of ragged lengths, and what HF makes of them."""

import numpy as np
import torch

from experiments.factual_recall.task_prompts import Prompts
from experiments.factual_recall.tasks import Fact, Task
from tests import tiny
from tests.gemma_jax import hf_hooks

VOCABULARY = 97
_TASK = Task(
  name='random',
  source='random tokens',
  templates=('{subject} is',),
  facts=tuple(Fact(subject=letter, answer='x') for letter in 'ABCD'),
  shot='',
  shots=(),
)


def prompts(
  n: int = 5, longest: int = 6, prefix: int = 0, seed: int = 0
) -> Prompts:
  """Rows of 1 to `longest` tokens, behind `prefix` tokens that all share."""
  rng = np.random.default_rng([seed, 1])
  tokens, positions = tiny.ragged(n, longest, 'left', seed)
  # A column that is padding in every row.
  tokens = np.pad(tokens, ((0, 0), (1, 0)))
  positions = np.pad(positions, ((0, 0), (1, 0)), constant_values=-1)
  positions = np.where(positions >= 0, positions + prefix, -1)
  answers, names = (
    rng.integers(3, VOCABULARY, n).astype(np.int32) for _ in range(2)
  )
  first = np.where(positions >= 0, positions, 10**6).min(1)
  stops = positions.max(1) + 1
  starts = np.minimum(first + 1, stops - 1)
  return Prompts(
    task=_TASK,
    shots=0,
    texts=('',) * n,
    prefix=rng.integers(3, VOCABULARY, prefix).astype(np.int32),
    tokens=tokens,
    positions=positions,
    spans=np.stack([starts, np.minimum(starts + 2, stops)], 1).astype(np.int32),
    subjects=np.arange(n, dtype=np.int32) % 4,
    templates=np.zeros(n, np.int32),
    answers=answers,
    names=names,
    answer_sizes=np.ones(n, np.int32),
    name_sizes=np.ones(n, np.int32),
  )


def hf_logits(hf, prompts: Prompts, changes=()) -> np.ndarray:
  """HF's logits before the soft cap, float64 [n, V], at last tokens.

  Args:
    hf: The model.
    prompts: n of them.
    changes: For `hf_hooks.hooked`.
  """
  kept = []

  def keep(module, args, output):
    kept.append(output[:, -1].double().numpy())

  handle = hf.get_output_embeddings().register_forward_hook(keep)
  with hf_hooks.hooked(hf, changes):
    tiny.hf_forward(hf, *prompts.whole())
  handle.remove()
  return kept[0]


def hf_pi(hf, prompts: Prompts, changes=()) -> np.ndarray:
  """pi(Y) and pi(N), float64 [n, 2]: logits less the mean over all tokens."""
  logits = hf_logits(hf, prompts, changes)
  rows = np.arange(len(logits))
  both = [logits[rows, each] for each in (prompts.answers, prompts.names)]
  return np.stack(both, 1) - logits.mean(1, keepdims=True)


def hf_effects(hf, prompts: Prompts, donor, heads: int, direct: bool = False):
  """pi with one sender replaced, float64 [L, heads + 1, n, 2]: a plain loop.

  Every head's z is held at every token, and so is every MLP's output if
  `direct`; then one head's slice, or one MLP's output, is overwritten at the
  last token.

  Args:
    hf: The model.
    prompts: n of them.
    donor: Site -> [L, n or 1, W].
    heads: N.
    direct: Whether MLPs are held.
  """
  _, seen = hf_hooks.activations(hf, *prompts.whole())
  L = len(seen['z'])
  found = []
  for layer in range(L):
    width = seen['z'][layer].shape[-1] // heads
    for sender in range(heads + 1):
      held = {
        (site, each): torch.tensor(seen[site][each])
        for site in (('z', 'mlp_out') if direct else ('z',))
        for each in range(L)
      }
      changes = [
        (site, each, lambda x, value=value: value)
        for (site, each), value in held.items()
      ]
      if sender < heads:
        part = slice(sender * width, (sender + 1) * width)
        new = torch.tensor(donor['z'][layer][:, part])
        held['z', layer][:, -1, part] = new
      elif direct:
        new = torch.tensor(donor['mlp_out'][layer])
        held['mlp_out', layer][:, -1] = new
      else:
        new = torch.tensor(donor['mlp_out'][layer])
        changes.append(('mlp_out', layer, _at_last(new, len(prompts))))
      found.append(hf_pi(hf, prompts, changes))
  return np.stack(found).reshape(L, heads + 1, len(prompts), 2)


def _at_last(new, n):
  def change(x):
    rows = x.reshape(n, -1, x.shape[-1]).clone()
    rows[:, -1] = new
    return rows.reshape(x.shape)

  return change
