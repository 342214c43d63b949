"""Training: what it minimises, how it stops, and that it resumes exactly."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from experiments.miniworld.training import FitConfig, fit, next_token_loss
import gemma_jax as gj
from tests import tiny

CONFIG = FitConfig(steps=25, learning_rate=0.05, warmup=3, snapshot_every=5)


def squares(weights, x):
  return ((weights['w'] @ x - 1) ** 2).mean() + 0 * weights['norm'].sum()


def batch(step):
  return np.random.default_rng(step).standard_normal((4, 8)).astype(np.float32)


def start():
  return {'w': jnp.ones((3, 4)), 'norm': jnp.ones(2)}


def test_resumes_to_the_same_bits(tmp_path):
  want, records = fit(
    squares, start(), batch, CONFIG, snapshot=tmp_path / 'whole', name='x'
  )

  def killed(step):
    if step == 13:
      raise KeyboardInterrupt
    return batch(step)

  with pytest.raises(KeyboardInterrupt):
    fit(squares, start(), killed, CONFIG, snapshot=tmp_path / 'half', name='x')

  def later(step):
    assert step >= 10  # the last snapshot
    return batch(step)

  got, again = fit(
    squares, start(), later, CONFIG, snapshot=tmp_path / 'half', name='x'
  )
  assert got['w'].tobytes() == want['w'].tobytes()
  assert again == records
  assert [r['step'] for r in records] == [5, 10, 15, 20, 25]
  assert records[-1]['loss'] < records[0]['loss']


def test_the_best_judged_weights_are_kept(tmp_path):
  seen = []

  def judge(weights):
    seen.append(np.asarray(weights['w']))
    return {'score': [0.1, 0.7, 0.7, 0.3, 0.2][len(seen) - 1]}

  got, records = fit(
    squares,
    start(),
    batch,
    CONFIG,
    snapshot=tmp_path / 's',
    name='x',
    judge=judge,
  )
  np.testing.assert_array_equal(got['w'], seen[1])  # the first of a tie
  assert [r['score'] for r in records] == [0.1, 0.7, 0.7, 0.3, 0.2]


def test_a_running_mean_is_judged_and_returned(tmp_path):
  def every(average):
    seen = []

    def judge(weights):
      seen.append(np.asarray(weights['w'], np.float64))
      return {'score': len(seen)}

    config = dataclasses.replace(CONFIG, average=average, snapshot_every=1)
    got, _ = fit(
      squares,
      start(),
      batch,
      config,
      snapshot=tmp_path / str(average),
      name='x',
      judge=judge,
    )
    np.testing.assert_array_equal(got['w'], seen[-1])
    return seen

  mean = np.ones((3, 4))
  for last, found in zip(every(0.0), every(0.8), strict=True):
    mean = 0.8 * mean + 0.2 * last
    np.testing.assert_allclose(found, mean, rtol=1e-5)


def test_a_loss_that_is_not_finite_stops(tmp_path):
  with pytest.raises(ValueError, match='the loss is nan before step 10'):
    fit(
      lambda w, x: squares(w, x) * jnp.where(x[0, 0] == 7, jnp.nan, 1.0),
      start(),
      lambda step: np.full((4, 8), 7.0 if step == 7 else 1.0, np.float32),
      CONFIG,
      snapshot=tmp_path / 's',
      name='x',
    )


def test_a_snapshot_of_other_weights_is_refused(tmp_path):
  fit(squares, start(), batch, CONFIG, snapshot=tmp_path / 's', name='x')
  other = {'w': jnp.ones((5, 4)), 'norm': jnp.ones(2)}
  with pytest.raises(ValueError, match='snapshot of other weights'):
    fit(squares, other, batch, CONFIG, snapshot=tmp_path / 's', name='x')


def test_loss_is_that_of_the_model():
  model = tiny.ours()
  V = model.config.vocab_size
  rng = np.random.default_rng(0)
  tokens = rng.integers(0, V, (2, 6)).astype(np.int32)
  positions = np.array([[0, 1, 2, 3, 4, 5], [0, 1, 2, 3, -1, -1]], np.int32)
  counts = (positions >= 0) & (tokens != tokens[0, 2])
  got = next_token_loss(
    model.weights(), model.config, tokens, counts, positions
  )
  logits = np.asarray(
    gj.run(model, tokens, positions, logits_at='all').logits, np.float64
  )
  losses = []
  for b in range(2):
    for t in range(1, 6):
      if counts[b, t]:
        p = jax.nn.softmax(logits[b, t - 1])
        losses.append(-np.log(p[tokens[b, t]]))
  np.testing.assert_allclose(got, np.mean(losses), rtol=1e-5)
