"""A small random model, questions of random tokens, and an edit of them."""

import functools

import numpy as np

from experiments.circuits.metric import Pairs
from experiments.circuits.tracing import LatentEdit, Tracer, steered
from experiments.latents import LatentId, Target
from experiments.steering.questions import Question
import gemma_jax as gj
from tests import tiny

LAYER = 1  # of resid_post; layers 2 to 4 follow
LENGTHS = (9, 10, 9, 8)
SPAN = (3, 5)


@functools.cache
def model() -> gj.Decoder:
  return tiny.ours()


@functools.cache
def questions() -> list[Question]:
  rng = np.random.default_rng(0)
  return [
    Question(
      entity=f'E{i // 2}',
      type='city',
      entity_class='known',
      prompt_type='city_country',
      answer='?',
      text='?',
      ids=(2, *map(int, rng.integers(3, 97, length - 1))),
      span=SPAN,
    )
    for i, length in enumerate(LENGTHS)
  ]


PAIRS = Pairs(refusal=np.array([5, 6, 5, 7]), answer=np.array([9, 9, 10, 11]))


def edit(positions: str = 'entity_last') -> LatentEdit:
  direction = np.random.default_rng(1).standard_normal(40).astype(np.float32)
  target = Target(
    label='unknown',
    id=LatentId('resid_post', LAYER, 0),
    direction=direction,
    controls={},
  )
  return steered(target, 8.0, positions)


@functools.cache
def tracer(positions: str = 'entity_last') -> Tracer:
  return Tracer(model(), questions(), PAIRS, edit(positions), rows_per_batch=8)


def padded():
  """tokens, positions int32 [4, 10], on the right."""
  return gj.pad_rows(
    [q.ids for q in questions()], 0, side='right', buckets=max(LENGTHS)
  )


def steering(positions: str = 'entity_last') -> gj.Edit:
  """The edit, by the library's own constructor."""
  to_end = positions.endswith('end')
  return gj.steer(
    'resid_post',
    np.asarray(edit().change.write)[0, 0],
    layers=LAYER,
    coefficient=8.0,
    positions=gj.per_row(
      [
        range(q.span[1] - 1, q.length if to_end else q.span[1])
        for q in questions()
      ]
    ),
  )


def metric_of(logits: np.ndarray) -> np.ndarray:
  """The metric of soft-capped logits [4, V]: the cap is undone."""
  cap = model().config.final_softcap
  raw = cap * np.arctanh(np.asarray(logits, np.float64) / cap)
  rows = np.arange(len(raw))
  return raw[rows, PAIRS.refusal] - raw[rows, PAIRS.answer]


def run(interventions=None) -> np.ndarray:
  """The metric of a plain run."""
  out = gj.run(
    model(), *padded(), interventions=interventions, logits_at='last'
  )
  return metric_of(out.logits[:, 0])


@functools.cache
def captured(edited: bool, positions: str = 'entity_last'):
  """A plain run, with site -> [L, 4, T, W]."""
  return gj.run(
    model(),
    *padded(),
    interventions=[steering(positions)] if edited else None,
    capture=gj.capture('z', 'attn_out', 'mlp_out', 'resid_post'),
  )
