"""Cosines of detectors and controllers, on streams made by hand and planted."""

import numpy as np
import pytest

from experiments.steering.controllers import cosines, last_streams
import gemma_jax as gj
from tests.experiments.steering import planted


def test_cosines_are_those_of_differences_of_means():
  rng = np.random.default_rng(0)
  x = rng.standard_normal((40, 6))
  refused = np.arange(40) % 3 == 0
  d = rng.standard_normal(6)
  towards = x[refused].mean(0) - x[~refused].mean(0)
  want = towards @ d / np.linalg.norm(towards) / np.linalg.norm(d)
  entities = [f'e{i // 2}' for i in range(40)]
  (found,) = cosines({3: x}, refused, entities, {'probe': (3, 5 * d)})
  assert (found['name'], found['layer']) == ('probe', 3)
  assert found['cosine']['value'] == pytest.approx(want)
  assert found['cosine']['low'] < want < found['cosine']['high']
  assert found['cosine']['n'] == 40


@pytest.mark.parametrize('refused', [True, False])
def test_without_both_answers_there_is_no_controller(refused):
  x = {0: np.ones((3, 2))}
  assert cosines(x, [refused] * 3, 'abc', {'d': (0, np.ones(2))}) == []


def test_the_planted_controller_is_s(questions):
  """What the planted model has where it declines, row by row."""
  streams = last_streams(
    planted.model(),
    questions,
    'resid_post',
    [planted.LAYER],
    rows_per_batch=3,
  )[planted.LAYER]
  for question, x in zip(questions, streams, strict=True):
    out = gj.run(
      planted.model(), [list(question.ids)], capture=gj.capture('resid_post')
    )
    want = np.asarray(out['resid_post'])[planted.LAYER, 0, -1]
    np.testing.assert_allclose(x, want, atol=1e-4)
  refused = [q.entity_class == 'unknown' for q in questions]
  (found,) = cosines(
    {planted.LAYER: streams},
    refused,
    [q.entity for q in questions],
    {'S': (planted.LAYER, planted.S)},
  )
  assert found['cosine']['value'] > 0.9
