"""A world whose MLP writes a known sum, and least squares by other hands."""

import dataclasses
import functools

import numpy as np

from experiments.factual_recall import regression
from experiments.factual_recall.task_prompts import Prompts
from experiments.factual_recall.tasks import Fact, Task
from experiments.factual_recall.trace import trace
from tests import tiny

ALPHA = np.array([-1.0, 0.5, -0.25, 0.0])
BETA = 0.2
LAYER = 2


def flat(mlp, heads, other=None):
  """Rows [n * D, K] and targets [n * D] of the centred problem."""
  columns = [*heads.swapaxes(0, 1), *([] if other is None else [other])]
  rows = np.stack([(c - c.mean(0)).ravel() for c in columns], axis=1)
  return rows, (mlp - mlp.mean(0)).ravel()


def lstsq(mlp, heads, other=None):
  """Coefficients [K], by least norm."""
  rows, targets = flat(mlp, heads, other)
  return np.linalg.lstsq(rows, targets, rcond=1e-6)[0]


@functools.cache
def prompts(subjects: int = 12, templates: int = 4) -> Prompts:
  """Random tokens of different lengths; names and answers are some tokens."""
  n = subjects * templates
  tokens, positions = tiny.ragged(n, 8, 'left')
  which = np.repeat(np.arange(subjects), templates).astype(np.int32)
  # Subjects do not stand together.
  which = np.random.default_rng(3).permutation(which)
  task = Task(
    name='planted',
    source='this test',
    templates=tuple(f'{{subject}} {t}' for t in range(templates)),
    facts=tuple(
      Fact(subject=f'subject {i}', answer=f'answer {i}')
      for i in range(subjects)
    ),
    shot='',
    shots=(),
  )
  ones = np.ones(n, np.int32)
  return Prompts(
    task=task,
    shots=0,
    texts=tuple(f'prompt {i}' for i in range(n)),
    prefix=np.zeros(0, np.int32),
    tokens=tokens,
    positions=positions,
    spans=np.zeros((n, 2), np.int32),
    subjects=which,
    templates=np.zeros(n, np.int32),
    answers=(10 + which).astype(np.int32),
    names=(50 + which).astype(np.int32),
    answer_sizes=ones,
    name_sizes=ones,
  )


@functools.cache
def traced(family: str, subjects: int = 12, templates: int = 4):
  model = tiny.pair(0, family)[1]
  return model, trace(model, prompts(subjects, templates))


def planted(
  subject_share=0.0, noise=0.0, seed=0, family='gpt2', subjects=12, templates=4
):
  """(model, trace, b, c): the MLP of one layer writes a sum that is known."""
  model, run = traced(family, subjects, templates)
  asked = prompts(subjects, templates)
  heads, other = regression.regressors(model, run, LAYER)
  rng = np.random.default_rng(seed)
  D = model.config.d_model
  b = rng.standard_normal(D)
  c = subject_share * rng.standard_normal((subjects, D))
  mlp = np.einsum('nkD,k->nD', heads, ALPHA) + BETA * other + b
  mlp += c[asked.subjects] + noise * rng.standard_normal(mlp.shape)
  changed = run['mlp_out'].copy()
  changed[LAYER] = mlp
  run = dataclasses.replace(
    run, activations=run.activations | {'mlp_out': changed}
  )
  return model, run, b, c


def columns(model, run):
  """(mlp, heads, other) of the layer."""
  heads, other = regression.regressors(model, run, LAYER)
  return run['mlp_out'][LAYER].astype(np.float64), heads, other
