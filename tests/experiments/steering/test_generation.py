"""Answers of many arms at once against each alone, and HF with a hook."""

import importlib

import numpy as np
import pytest
import torch

from experiments.steering.arm_batches import shared_tokens
from experiments.steering.arms import POSITIONS, Arm, steered_positions
from experiments.steering.generation import generate_answers
from experiments.steering.questions import Question
from tests import tiny

NEW = 5
OPENING = (2, 17, 40)


def question(length: int, span, seed: int = 0) -> Question:
  """Of random tokens after an opening that all questions share."""
  rng = np.random.default_rng(seed)
  ids = (*OPENING, *rng.integers(3, 97, length - len(OPENING)).tolist())
  return Question(
    entity=str(seed),
    type='player',
    entity_class='known',
    prompt_type='player_place_birth',
    answer='x',
    text='x',
    ids=ids,
    span=span,
  )


QUESTIONS = (
  question(15, (6, 8), 1),
  question(9, (4, 5), 2),
  question(21, (12, 15), 3),
)


def arm(name: str, seed: int = 0, **changes) -> Arm:
  direction = np.random.default_rng(seed).standard_normal(40)
  defaults = {
    'kind': 'steered',
    'direction': direction.astype(np.float32),
    'site': 'resid_post',
    'layer': 0,
    'coefficient': 20.0,
  }
  return Arm(name=name, **defaults | changes)


ARMS = (
  Arm(name='original', kind='original'),
  arm('a', 1),
  arm('other layer', 2, layer=1, coefficient=-40.0),
  arm('last token', 3, positions='entity_last'),
  arm('entity', 1, positions='entity', layer=0, coefficient=90.0),
  arm('decode too', 5, generated=True),
  arm('other site', 6, site='mlp_out', layer=1),
)
# Two layers, one of each kind of window, compile faster than five.
LAYERS = {'num_hidden_layers': 2}


def answer(model, questions, arms, **changes):
  options = {'stop_ids': (), 'max_new_tokens': NEW} | changes
  return generate_answers(model, questions, arms, **options)


@pytest.fixture(scope='module')
def model():
  return tiny.pair(**LAYERS)[1]


@pytest.fixture(scope='module')
def together(model):
  return answer(model, QUESTIONS, ARMS, rows_per_batch=9)


def steering_hook(hf, arm, question) -> list:
  """Has an HF model steer one layer; what is to be removed after."""
  if not arm.steers:
    return []
  start, stop = steered_positions(arm.positions, question)

  def hook(module, inputs, output):
    output = output.clone()
    added = torch.tensor(arm.coefficient * arm.direction)
    output[:, start:stop] += added
    if arm.generated:
      output[:, question.length :] += added
    return output

  layer = hf.model.layers[arm.layer]
  module = {
    'resid_post': layer,
    'mlp_out': layer.post_feedforward_layernorm,
  }[arm.site]
  return [module.register_forward_hook(hook)]


def by_hf(hf, arm, question):
  """Greedy tokens, one whole forward pass each, with a hook on one layer."""
  ids = list(question.ids)
  handles = steering_hook(hf, arm, question)
  with torch.no_grad():
    for _ in range(NEW):
      logits = hf(torch.tensor([ids]), use_cache=False).logits
      ids.append(int(logits[0, -1].argmax()))
  for handle in handles:
    handle.remove()
  return ids[question.length :]


def test_equals_hf_with_a_hook(together):
  """All arms, layers, sites and modes, in one batch of ragged rows."""
  hf, _ = tiny.pair(**LAYERS)
  for a, arm in enumerate(ARMS):
    for q, asked in enumerate(QUESTIONS):
      assert together[a][q] == by_hf(hf, arm, asked), (arm.name, q)
  for arm, row in zip(ARMS[1:], together[1:], strict=True):
    assert row != together[0], f'{arm.name} does nothing'


def test_does_not_depend_on_what_runs_beside_it(model, together):
  """One row alone, other batches and padding, no shared prefix."""
  assert answer(model, QUESTIONS[:1], [ARMS[3]]) == [[together[3][0]]]
  # Steering the first token of all leaves nothing to share.
  whole = arm('all', 9, positions='all')
  assert shared_tokens(QUESTIONS, ARMS) == len(OPENING)
  assert shared_tokens(QUESTIONS, [*ARMS, whole]) == 0
  assert answer(model, QUESTIONS, [*ARMS, whole])[:-1] == together


def test_one_program_for_all_arms_and_layers(model, together):
  program = importlib.import_module('gemma_jax.generate')._decode
  before = program._cache_size()
  changed = [
    ARMS[0],
    arm('b', 11, layer=0, coefficient=0.5),
    arm('c', 12, layer=1, positions='entity_to_end'),
    arm('d', 13, coefficient=-9.0),
    arm('e', 14, layer=0, positions='entity_and_eoi'),
    arm('f', 15, layer=0, generated=True),
    arm('g', 16, layer=0, site='mlp_out', positions='entity'),
  ]
  again = answer(model, QUESTIONS, changed, rows_per_batch=9)
  assert again[0] == together[0] and again[1:] != together[1:]
  assert program._cache_size() == before


def test_positions():
  asked = question(20, (6, 9))
  found = {mode: steered_positions(mode, asked) for mode in POSITIONS}
  assert found == {
    'all': (0, 20),
    'entity': (6, 9),
    'entity_last': (8, 9),
    'entity_and_eoi': (6, 15),
    'entity_to_end': (6, 20),
    'entity_last_to_end': (8, 20),
  }
  assert steered_positions('entity_and_eoi', question(11, (6, 9))) == (6, 11)
  with pytest.raises(ValueError, match="'entity_first'.*entity_last_to_end"):
    arm('x', positions='entity_first')
