"""Training: what it does to weights, how it stops, and that it resumes."""

import dataclasses
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gemma_jax as gj
from gemma_jax import sharding
from gemma_jax.training import (
  FitConfig,
  LoraConfig,
  completion_loss,
  completion_sums,
  draw,
  fit,
  init_lora,
  merge,
  pack,
)
from gemma_jax.training.fingerprint import fingerprint
from gemma_jax.weights import LETTERS
from tests import tiny
from tests.gemma_jax.training.examples import random_examples

CONFIG = FitConfig(steps=25, learning_rate=0.05, warmup=3, snapshot_every=5)


def squares(weights, x):
  return ((weights['w'] @ x - 1) ** 2).mean() + 0 * weights['norm'].sum()


def batch(step):
  return np.random.default_rng(step).standard_normal((4, 8)).astype(np.float32)


def start():
  return {'w': jnp.ones((3, 4)), 'norm': jnp.ones(2)}


def train(folder, *, loss=squares, weights=None, batch=batch, **more):
  """`fit` with what most tests have."""
  config = more.pop('config', CONFIG)
  weights = start() if weights is None else weights
  more = {'snapshot': folder / 's', 'name': 'x'} | more
  return fit(loss, weights, batch, config, **more)


def test_updates_are_those_of_adamw_by_hand(tmp_path):
  """Clipped to 1, warmed up, cosine to a twentieth, no decay of norms."""
  config = dataclasses.replace(CONFIG, steps=6, warmup=2, weight_decay=0.5)
  begin = {'w': jnp.full((3, 4), 2.0), 'norm': jnp.ones(2)}
  got, _ = train(tmp_path, weights=begin, config=config)
  w, m, v = np.full((3, 4), 2.0), 0.0, 0.0
  for step in range(6):
    x = batch(step).astype(np.float64)
    gradient = 2 * (w @ x - 1) @ x.T / (3 * 8)
    gradient = gradient / max(1, np.linalg.norm(gradient))
    m, v = 0.9 * m + 0.1 * gradient, 0.98 * v + 0.02 * gradient**2
    adam = m / (1 - 0.9 ** (step + 1))
    adam = adam / (np.sqrt(v / (1 - 0.98 ** (step + 1))) + 1e-8)
    if step < 2:
      rate = 0.05 * step / 2
    else:
      share = (1 + np.cos(np.pi * (step - 2) / 4)) / 2
      rate = 0.05 * (1 / 20 + 19 / 20 * share)
    w = w - rate * (adam + 0.5 * w)
  np.testing.assert_allclose(got['w'], w, rtol=1e-4)
  np.testing.assert_array_equal(got['norm'], 1)
  np.testing.assert_array_equal(begin['w'], 2)  # the caller's own


def test_resumes_to_the_same_bits(tmp_path):
  want, records = train(tmp_path, snapshot=tmp_path / 'whole')

  def killed(step):
    if step == 13:
      raise KeyboardInterrupt
    return batch(step)

  with pytest.raises(KeyboardInterrupt):
    train(tmp_path, batch=killed)
  seen = []

  def later(step):
    seen.append(step)
    return batch(step)

  got, again = train(tmp_path, batch=later)
  # The first and the last tell whether the data is the same.
  assert seen == [0, 24, *range(10, 25)]
  assert got['w'].tobytes() == want['w'].tobytes()
  assert again == records
  assert [r['step'] for r in records] == [5, 10, 15, 20, 25]
  assert records[-1]['loss'] < records[0]['loss']
  # What is done is not done again.
  assert train(tmp_path)[0]['w'].tobytes() == want['w'].tobytes()


def test_resumes_to_the_same_bits_after_kill_9(tmp_path):
  command = [sys.executable, '-m', 'tests.gemma_jax.training.train_forever']

  def begin(name):
    return subprocess.Popen(
      [*command, str(tmp_path / name)], stdout=subprocess.PIPE, text=True
    )

  def end(process, until=None):
    steps = []
    for line in process.stdout:
      kind, value = line.split()
      if kind == 'digest':
        return value, steps
      steps.append(int(value))
      # The two before it are of the check of the data.
      if len(steps) > 2 and steps[-1] == until:
        process.kill()
    assert process.wait() != 0
    return None, steps

  whole = begin('whole')
  assert end(begin('killed'), until=10) == (None, [0, 23, *range(11)])
  got, steps = end(begin('killed'))
  want, _ = end(whole)
  assert steps[2] == 8, 'the last snapshot'
  assert got == want


def test_the_best_judged_weights_are_kept(tmp_path):
  seen = []

  def judge(weights):
    seen.append(np.asarray(weights['w']))
    return {'score': [0.1, 0.7, 0.7, 0.3, 0.2][len(seen) - 1]}

  got, records = train(tmp_path, judge=judge)
  np.testing.assert_array_equal(got['w'], seen[1])  # the first of a tie
  assert [r['score'] for r in records] == [0.1, 0.7, 0.7, 0.3, 0.2]


def test_patience_stops_and_stays_stopped(tmp_path):
  scores = [0.1, 0.7, 0.7, 0.6, 0.9]
  seen = []

  def judge(weights):
    seen.append(np.asarray(weights['w']))
    return {'score': scores[len(seen) - 1]}

  got, records = train(tmp_path, judge=judge, patience=2)
  assert [r['score'] for r in records] == scores[:4]
  again, same = train(tmp_path, judge=judge, patience=2)
  assert same == records and len(seen) == 4
  for weights in (got, again):
    np.testing.assert_array_equal(weights['w'], seen[1])
  # More patience goes on from there.
  _, records = train(tmp_path, judge=judge, patience=3)
  assert [r['score'] for r in records] == scores


def test_a_running_mean_is_judged_and_returned(tmp_path):
  def every(average):
    seen = []

    def judge(weights):
      seen.append(np.asarray(weights['w'], np.float64))
      return {'score': len(seen)}

    config = dataclasses.replace(CONFIG, average=average, snapshot_every=1)
    got, _ = train(
      tmp_path, config=config, judge=judge, snapshot=tmp_path / str(average)
    )
    np.testing.assert_array_equal(got['w'], seen[-1])
    return seen

  mean = np.ones((3, 4))
  for last, found in zip(every(0.0), every(0.8), strict=True):
    mean = 0.8 * mean + 0.2 * last
    np.testing.assert_allclose(found, mean, rtol=1e-5)


def test_micro_batches_are_the_batch(tmp_path):
  """Also where they learn different numbers of tokens."""
  model = tiny.pair(num_hidden_layers=2)[1]
  data = pack(random_examples(24), 16, pad_id=0, pack=False)
  found = {}
  for accumulation in (1, 4):
    found[accumulation] = fit(
      lambda w, b: completion_sums(gj.Decoder(model.config, w), b),
      model.weights(),
      lambda step: draw(data, step, rows=12),
      FitConfig(steps=2, learning_rate=1e-3, warmup=1),
      snapshot=tmp_path / str(accumulation),
      name='x',
      accumulation=accumulation,
    )
  (whole, (record,)), (parts, (again,)) = found.values()
  assert again['loss'] == pytest.approx(record['loss'], rel=1e-5)
  for name in whole:
    # The first step is of rate 0, the second of 1e-3.
    np.testing.assert_allclose(parts[name], whole[name], atol=1e-5)
    assert np.abs(whole[name] - model.weights()[name]).max() > 5e-4


def test_means_of_micro_batches_are_averaged(tmp_path):
  """Those of squares are of one size: their mean is that of the batch."""

  def loss(weights, rows):  # [R, 8]
    return squares(weights, rows.T)

  rows = lambda step: batch(step).T  # 8 rows of 4
  one, _ = train(tmp_path, loss=loss, batch=rows)
  four, _ = train(
    tmp_path, loss=loss, batch=rows, accumulation=4, snapshot=tmp_path / '4'
  )
  np.testing.assert_allclose(one['w'], four['w'], rtol=1e-4)


def test_only_what_is_trained_changes(tmp_path):
  """Frozen arrays reach the loss as arguments: none is a constant of it."""
  frozen = {'x': jnp.arange(40_000.0).reshape(4, -1) / 40_000}
  texts = []

  def loss(weights, x, frozen):
    texts.append(type(frozen['x']).__name__)
    return squares(weights, x) + (weights['w'] @ frozen['x']).var()

  _, records = train(tmp_path, loss=loss, frozen=frozen)
  assert records[-1]['loss'] < records[0]['loss']
  assert all('Tracer' in name for name in texts) and texts


def test_trainings_of_one_loss_share_a_program(tmp_path):
  traces = []

  def loss(weights, x):
    traces.append(1)
    return squares(weights, x)

  for seed in range(3):
    train(
      tmp_path,
      loss=loss,
      batch=lambda step, seed=seed: batch(step + 100 * seed),
      snapshot=tmp_path / str(seed),
    )
  assert len(traces) == 1


def test_a_loss_or_score_that_is_not_finite_stops(tmp_path):
  with pytest.raises(ValueError, match='the loss is nan before step 10'):
    train(
      tmp_path,
      loss=lambda w, x: squares(w, x) * jnp.where(x[0, 0] == 7, jnp.nan, 1.0),
      batch=lambda step: np.full((4, 8), 7 if step == 7 else 1, np.float32),
    )
  with pytest.raises(ValueError, match='the score nan at step 5'):
    train(
      tmp_path, judge=lambda w: {'score': np.nan}, snapshot=tmp_path / 'other'
    )


def test_a_snapshot_of_other_work_is_refused(tmp_path):
  train(tmp_path)
  for more, message in (
    ({'weights': start() | {'w': jnp.full((3, 4), 2.0)}}, 'weights='),
    ({'weights': start() | {'w': jnp.ones((5, 4))}}, 'weights='),
    ({'batch': lambda step: batch(step + 1)}, 'data='),
    ({'batch': lambda step: batch(min(step, 23))}, 'data='),
    (
      {'config': dataclasses.replace(CONFIG, learning_rate=0.1)},
      r'learning_rate=0.05 \(now 0.1\)',
    ),
    ({'accumulation': 2}, r'accumulation=1 \(now 2\)'),
    ({'judge': lambda w: {'score': 1}}, r'judged=False \(now True\)'),
    (
      {'frozen': jnp.ones(3), 'loss': lambda w, x, f: squares(w, x)},
      'frozen=',
    ),
  ):
    with pytest.raises(ValueError, match=f'snapshot of other work.*{message}'):
      train(tmp_path, **more)


def test_a_damaged_snapshot_is_named(tmp_path):
  train(tmp_path)
  path = tmp_path / 's'
  path.write_bytes(path.read_bytes()[:100])
  with pytest.raises(ValueError, match='s is damaged.*Delete it'):
    train(tmp_path)


@pytest.mark.parametrize(
  'more, message',
  [
    ({'weights': {'w': jnp.ones((3, 4), jnp.bfloat16)}}, "'w'.*is bfloat16"),
    ({'accumulation': 3}, '4 rows does not split into accumulation=3'),
    ({'accumulation': 0}, 'accumulation=0'),
    ({'patience': 2}, 'patience=2 needs a judge'),
  ],
)
def test_arguments_that_do_not_fit(tmp_path, more, message):
  with pytest.raises(ValueError, match=message):
    train(tmp_path, **more)
  assert not (tmp_path / 's').exists()


@pytest.mark.parametrize(
  'name, value',
  [('steps', 0), ('learning_rate', np.nan), ('average', 1.0), ('warmup', -1)],
)
def test_bounds_of_the_configuration(name, value):
  with pytest.raises(ValueError, match=f'{name}={value} is out of bounds'):
    dataclasses.replace(CONFIG, **{name: value})


def test_a_mesh_gives_the_numbers_of_one_device(tmp_path):
  """Weights, and moments in a resumed snapshot, stay where they were put."""
  model = tiny.pair(num_hidden_layers=2)[1]
  mesh = gj.make_mesh(4, 2)
  placed = {
    name: jax.device_put(
      w, sharding.weight_sharding(LETTERS[name], w.shape, mesh)
    )
    for name, w in model.weights().items()
  }
  data = pack(random_examples(24), 16, pad_id=0, pack=False)
  config = FitConfig(steps=4, learning_rate=1e-3, warmup=1, snapshot_every=2)

  def loss(weights, rows):
    return completion_loss(gj.Decoder(model.config, weights), rows)

  def run(name, weights, stop=None):
    def batch(step):
      if step == stop:
        raise KeyboardInterrupt
      return draw(data, step, rows=8)

    return fit(
      loss, weights, batch, config, snapshot=tmp_path / name, name=name
    )

  one, records = run('one', model.weights())
  whole, again = run('many', placed)
  with pytest.raises(KeyboardInterrupt):
    run('killed', placed, stop=2)
  resumed, _ = run('killed', placed)
  assert [r['loss'] for r in again] == pytest.approx(
    [r['loss'] for r in records], rel=1e-5
  )
  for name, weight in whole.items():
    assert weight.sharding.is_equivalent_to(placed[name].sharding, weight.ndim)
    assert weight.tobytes() == resumed[name].tobytes()
    # Adam divides by the size of gradients: rounding of tiny ones shows.
    np.testing.assert_allclose(weight, one[name], atol=3e-4)


def test_adapters_of_weights_on_a_mesh(tmp_path):
  model = tiny.pair(num_hidden_layers=2)[1]
  mesh = gj.make_mesh(4, 2)
  lora = LoraConfig(rank=2, targets=('wv', 'down'))
  data = pack(random_examples(8), 16, pad_id=0, pack=False)

  def loss(adapters, rows, weights):
    merged = merge(weights, adapters, lora)
    return completion_loss(gj.Decoder(model.config, merged), rows)

  found = []
  for name, place in (('one', None), ('many', mesh)):
    weights = {
      name: jax.device_put(
        w, sharding.weight_sharding(LETTERS[name], w.shape, place)
      )
      for name, w in model.weights().items()
    }
    adapters, records = fit(
      loss,
      init_lora(model.weights(), lora, jax.random.key(0)),
      lambda step: data,
      FitConfig(steps=3, learning_rate=0.01, warmup=0, snapshot_every=1),
      snapshot=tmp_path / name,
      name=name,
      frozen=weights,
    )
    assert all(np.isfinite(x).all() for x in adapters.values())
    found.append([record['loss'] for record in records])
  assert found[0] == pytest.approx(found[1], rel=1e-4)
  assert found[0][2] < found[0][0]


def test_moments_live_where_weights_live():
  model = tiny.pair(num_hidden_layers=2)[1]
  mesh = gj.make_mesh(4, 2)
  wq = model.weights()['wq']
  placed = jax.device_put(wq, sharding.weight_sharding('LNHD', wq.shape, mesh))
  start = sys.modules['gemma_jax.training.fit']._start
  with jax.set_mesh(mesh):
    state, places = start(CONFIG, {'wq': placed})
  assert len(places) == len(jax.tree.leaves(state))
  big = [x for x in jax.tree.leaves(state) if x.shape == wq.shape]
  assert len(big) == 3 and all(x.sharding == placed.sharding for x in big)


def test_a_fingerprint_tells_values_places_and_names():
  x = np.arange(6, dtype=np.float32).reshape(2, 3)
  one = fingerprint({'x': x})
  assert one == fingerprint({'x': jnp.asarray(x)})
  others = ({'y': x}, {'x': x.T}, {'x': x[:, ::-1]}, {'x': np.nextafter(x, 9)})
  for other in others:
    assert fingerprint(other) != one
  assert fingerprint(None) != one
  rounded = x.astype(jnp.bfloat16)
  assert fingerprint(x + 1e-3, jnp.bfloat16) == fingerprint(
    (x + 1e-3).astype(jnp.bfloat16), jnp.bfloat16
  )
  assert fingerprint(rounded) != fingerprint(x)
