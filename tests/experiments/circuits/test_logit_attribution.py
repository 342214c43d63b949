"""The logits' parts add up, and are those of a plain computation."""

import numpy as np
import pytest

from experiments.circuits.logit_attribution import (
  attribute,
  last_token,
  project,
)
from experiments.circuits.metric import (
  Beginnings,
  choose_pairs,
  find_beginnings,
)
import gemma_jax as gj
from tests.experiments.circuits import small

WHERE = 'entity_last_to_end'


def parts(edited):
  return last_token(
    small.model(),
    small.questions(),
    small.edit(WHERE),
    edited=edited,
    rows_per_batch=3,  # the last batch is filled up
  )


def test_parts_add_up_to_the_metric():
  for edited in (False, True):
    found = attribute(small.model(), parts(edited), small.PAIRS)
    edit = [small.steering(WHERE)] if edited else None
    want = small.run(edit)
    np.testing.assert_allclose(found.metric, want, atol=3e-4)
    np.testing.assert_allclose(found.sum, want, atol=3e-4)
    assert bool(np.abs(found.edit).max() > 0.01) == edited
  assert np.abs(found.heads).max() > 0.05 and np.abs(found.mlps).max() > 0.05


def test_projections_add_up_to_all_logits():
  one, model = parts(False), small.model()
  config = model.config
  cap = config.final_softcap
  batch = small.padded()
  logits = gj.run(model, *batch, logits_at='last').logits
  want = cap * np.arctanh(np.asarray(logits[:, 0], np.float64) / cap)
  heads = sum(
    project(model, one, layer, head, 'default')
    for layer in range(config.num_layers)
    for head in range(config.num_heads)
  )
  rest = one.embedding + one.mlps.sum(axis=1)
  weights = {k: np.asarray(v, np.float64) for k, v in model.weights().items()}
  x = one.stream
  size = np.sqrt((x * x).mean(-1, keepdims=True) + config.norm_eps)
  rest = rest / size * (1 + weights['final_norm']) @ weights['embed'].T
  np.testing.assert_allclose(heads + rest, want, atol=2e-3)


def test_the_reference_projection_has_no_norms():
  model = small.model()
  weights = {k: np.asarray(v, np.float64) for k, v in model.weights().items()}
  last = np.array(small.LENGTHS) - 1
  z = np.asarray(small.captured(False)['z', 3])
  z = z[np.arange(4), last].reshape(4, 4, -1)
  out = z[:, 2].astype(np.float64) @ weights['wo'][3, :, 2].T
  want = out * (1 + weights['final_norm']) @ weights['embed'].T
  got = project(model, parts(False), 3, 2, 'reference')
  np.testing.assert_allclose(got, want, atol=1e-4)


def test_beginnings_go_to_what_they_begin_more_often():
  answers = [[5, 1], [5, 2], [6, 1], [7], [6, 2], [6], []]
  refused = [True, True, False, False, True, False, True]
  found = find_beginnings(answers, refused)
  assert found == Beginnings(refusals={5: 2}, answers={6: 2, 7: 1})
  logits = np.array([[0, 0, 0, 0, 0, 1.0, 3, 2], [0, 0, 0, 0, 0, 1, 2, 3]])
  pairs = choose_pairs(logits, found)
  assert pairs.refusal.tolist() == [5, 5] and pairs.answer.tolist() == [6, 7]
  with pytest.raises(ValueError, match='No token tells a refusal'):
    find_beginnings([[5]], [False])
