"""One update, and many: against PyTorch, against each other, on a mesh."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sae.straight_through import heaviside, jumprelu
from sae.training import update as up
from sae.training.recipe import TrainConfig
from sae.training.train import export
from tests.sae.test_straight_through import GOLDEN, X, golden_parameters
from tests.sae.training import torch_recipe

D, F, B = 12, 40, 32


def config(**changes):
  defaults = {
    'width': F,
    'num_steps': 20,
    'batch_size': B,
    'bucket_size': 4 * B,
    'learning_rate': 3e-3,
    'warmup_steps': 6,
    'sparsity': 0.02,
    'sparsity_warmup_steps': 8,
    'bandwidth': 0.2,
    'initial_threshold': 0.1,
  }
  return TrainConfig(**(defaults | changes))


@functools.cache
def rows(sources: int = 1, n: int = 4 * B, seed: int = 0) -> np.ndarray:
  rng = np.random.default_rng(seed)
  x = rng.standard_normal((sources, n, D)) + rng.standard_normal(D)
  return (x * np.linspace(1, 4, D)).astype(np.float32)


def scale_of(x):
  return np.sqrt((x**2).sum(-1).mean(-1))


def trained(cfg, x, num_steps=4, mesh=None, calls=1):
  state = up.init_state(cfg, scale_of(x), D, mesh)
  order = np.random.default_rng(1).permutation(x.shape[1]).astype(np.int32)
  for _ in range(calls):
    state, metrics = up.run_updates(
      state, x, order, 0, config=cfg, num_steps=num_steps, mesh=mesh
    )
  return state, metrics, order


@pytest.mark.parametrize(
  'changes',
  [
    {},
    {
      'threshold_learning_rate': 0.05,
      'encoder_learning_rate': 2e-3,
      'bias_learning_rate': 1e-3,
      'decay': 'linear',
      'decay_steps': 17,
    },
    {'penalty': 'tanh', 'tanh_scale': 2.0},
    pytest.param(
      {'adam_b1': 0.9, 'warmup_steps': 0, 'sparsity_warmup_steps': 0},
      marks=pytest.mark.slow,
    ),
    {'initial_threshold': 0.01, 'seed': 3},
  ],
  ids=['paper', 'rates', 'tanh', 'momentum', 'window over zero'],
)
def test_updates_are_those_of_pytorch(changes):
  cfg = config(**changes)
  x = rows()
  state = up.init_state(cfg, scale_of(x), D)
  first = {k: np.asarray(v)[0, 0] for k, v in state.params._asdict().items()}
  state, metrics, order = trained(cfg, x, calls=4)
  batches = [x[0][order[i * B :][:B]] for i in range(4)] * 4
  want, history = torch_recipe.train(first, batches, cfg, scale_of(x)[0])
  for name, value in state.params._asdict().items():
    np.testing.assert_allclose(value[0, 0], want[name], atol=2e-5, err_msg=name)
  for name in ('loss', 'mse', 'l0'):
    np.testing.assert_allclose(
      getattr(metrics, name)[:, 0, 0],
      [record[name] for record in history[-4:]],
      rtol=1e-4,
    )


def test_gradients_of_the_worked_example():
  """Before Adam, which would hide a gradient that is wrong by a factor."""
  cfg = config(width=3, batch_size=2, bucket_size=2, bandwidth=0.5)
  params = up.Params(**golden_parameters())
  x, silent = jnp.asarray(X, jnp.float32), jnp.zeros(3, jnp.int32)
  grads, metrics, fired = up._gradients(cfg, params, x, 0.1, silent)
  for name, want in GOLDEN.items():
    got = getattr(grads, name)
    np.testing.assert_allclose(got, want, atol=1e-6, err_msg=name)
  np.testing.assert_allclose(metrics.loss, 0.8958125, rtol=1e-6)
  assert metrics.l0 == 2 and fired.all()
  # |z - theta| < 0.25 at the first two latents of the first token.
  np.testing.assert_allclose(metrics.window, 2 / 6, rtol=1e-6)


def test_gradients_are_those_of_the_loss_as_it_is_written():
  cfg = config(width=7, bandwidth=0.4)
  rng = np.random.default_rng(2)
  x = jnp.asarray(rng.standard_normal((9, 5)), jnp.float32)
  shapes = {'W_enc': (5, 7), 'W_dec': (7, 5), 'b_enc': 7, 'b_dec': 5}
  params = up.Params(
    **{k: jnp.asarray(rng.normal(size=v), 'f4') for k, v in shapes.items()},
    log_threshold=jnp.asarray(rng.uniform(-2, 0, 7), 'f4'),
  )

  def loss(p):
    z = jax.nn.relu((x - p.b_dec) @ p.W_enc + p.b_enc)
    theta = jnp.exp(p.log_threshold)
    y = jumprelu(z, theta, 0.4) @ p.W_dec + p.b_dec
    l0 = heaviside(z, theta, 0.4).sum(-1)
    return (((x - y) ** 2).sum(-1) + 0.3 * l0).mean()

  got, metrics, _ = up._gradients(cfg, params, x, 0.3, jnp.zeros(7, jnp.int32))
  value, want = jax.value_and_grad(loss)(params)
  np.testing.assert_allclose(metrics.loss, value, rtol=1e-5)
  for name, mine, reference in zip(up.Params._fields, got, want, strict=True):
    np.testing.assert_allclose(mine, reference, atol=2e-5, err_msg=name)


def test_initialisation_is_the_papers():
  params = up.init_state(config(seed=5), np.ones(2, np.float32), D).params
  W_dec = np.asarray(params.W_dec)
  np.testing.assert_allclose(np.linalg.norm(W_dec, axis=-1), 1, rtol=1e-6)
  np.testing.assert_array_equal(params.W_enc, W_dec.swapaxes(-1, -2))
  np.testing.assert_allclose(np.exp(params.log_threshold), 0.1, rtol=1e-6)
  shorter = up.init_state(config(encoder_scale=0.25), np.ones(1), D).params
  np.testing.assert_allclose(
    shorter.W_enc, 0.25 * shorter.W_dec.swapaxes(-1, -2), rtol=1e-6
  )
  assert not np.any(params.b_enc) and not np.any(params.b_dec)
  np.testing.assert_array_equal(W_dec[0], W_dec[1])  # of two sources
  # Uniform on a cube, before normalising: excess kurtosis -1.2, not 0.
  wide = up.init_state(config(width=4000), np.ones(1, np.float32), D).params
  w = np.asarray(wide.W_dec).ravel()
  assert (w**4).mean() / (w**2).mean() ** 2 < 2.2


def test_decoder_gradient_is_projected_and_rows_keep_their_norm():
  cfg, x = config(), rows()
  state, _, _ = trained(cfg, x, calls=3)
  norms = np.linalg.norm(state.params.W_dec, axis=-1)
  np.testing.assert_allclose(norms, 1, rtol=1e-6)
  # With one step of plain gradients Adam sees a vector normal to the row:
  # after Adam's scaling by signs that need not hold, so look at its moments.
  first = up.init_state(cfg, scale_of(x), D)
  second, _ = jax.jit(functools.partial(up.update, cfg))(first, x[:, :B])
  g = np.sqrt(np.asarray(second.adam.nu.W_dec[0, 0]) / (1 - cfg.adam_b2))
  W = np.asarray(first.params.W_dec[0, 0])
  signs = np.sign(np.asarray(first.params.W_dec - second.params.W_dec)[0, 0])
  assert g.max() > 1e-3
  along = np.abs((np.where(signs == 0, 1, signs) * g * W).sum(1))
  assert np.median(along) < 0.2 * np.median(np.linalg.norm(g, axis=1))


def test_flops_are_those_of_five_products():
  cfg = TrainConfig(
    width=2048, num_steps=4, batch_size=512, bucket_size=1024, sparsity=0.1
  )
  d_in = 256
  state = jax.eval_shape(lambda: up.init_state(cfg, jnp.ones(1), d_in))
  x = jax.ShapeDtypeStruct((1, 512, d_in), jnp.float32)
  compiled = jax.jit(functools.partial(up.update, cfg)).lower(state, x)
  flops = compiled.compile().cost_analysis()['flops']
  floor = 10 * 512 * d_in * 2048
  assert 1.0 <= flops / floor <= 1.05


@pytest.mark.parametrize('runs_at_once', [1, 2, 3])
def test_a_sweep_equals_its_runs_alone(runs_at_once):
  """One after another, all side by side, and two by two with one left."""
  values = {'sparsity': (0.0, 0.01, 0.05), 'seed': (0, 1, 1)}
  sweep = config(**values, runs_at_once=runs_at_once)
  together, metrics, _ = trained(sweep, rows(), calls=3)
  for i in range(3):
    one = config(**{name: value[i] for name, value in values.items()})
    alone, alone_metrics, _ = trained(one, rows(), calls=3)
    for name, value in together.params._asdict().items():
      np.testing.assert_allclose(
        value[:, i],
        getattr(alone.params, name)[:, 0],
        atol=1e-6,
        err_msg=f'{name} of run {i}',
      )
    np.testing.assert_allclose(
      metrics.loss[:, :, i], alone_metrics.loss[:, :, 0], rtol=1e-5
    )


def test_sources_together_equal_each_alone():
  x = rows(sources=2)
  cfg = config(sparsity=(0.01, 0.04))
  together, _, _ = trained(cfg, x, calls=3)
  for s in range(2):
    alone, _, _ = trained(cfg, x[s : s + 1], calls=3)
    for name, value in together.params._asdict().items():
      np.testing.assert_allclose(
        value[s], getattr(alone.params, name)[0], atol=1e-6, err_msg=name
      )


@pytest.mark.parametrize(
  'data, model',
  [pytest.param(8, 1, marks=pytest.mark.slow), (2, 4), (1, 8)],
)
def test_eight_devices_give_what_one_gives(data, model):
  axes = (jax.sharding.AxisType.Auto,) * 2
  mesh = jax.make_mesh((data, model), ('data', 'model'), axes)
  cfg = config(sparsity=(0.01, 0.04))
  one, one_metrics, _ = trained(cfg, rows(), calls=2)
  many, metrics, _ = trained(cfg, rows(), mesh=mesh, calls=2)
  for array in (many.params.W_dec, many.adam.nu.W_dec):
    assert array.sharding.shard_shape(array.shape)[2] == F // model
  for name, value in many.params._asdict().items():
    np.testing.assert_allclose(
      value, getattr(one.params, name), atol=1e-5, err_msg=name
    )
  np.testing.assert_allclose(metrics.loss, one_metrics.loss, rtol=1e-5)


def test_bfloat16_products_keep_float32_masters():
  """Thresholds must learn as they do in float32, with coarse products."""
  coarse = config(compute_dtype='bfloat16', threshold_learning_rate=0.02)
  fine = config(threshold_learning_rate=0.02)
  a, _, _ = trained(coarse, rows(), calls=5)
  b, _, _ = trained(fine, rows(), calls=5)
  for leaf in jax.tree.leaves((a.params, a.adam.nu)):
    assert leaf.dtype == jnp.float32
  moved = lambda s: np.asarray(s.params.log_threshold) - np.log(0.1)
  assert np.abs(moved(b)).mean() > 0.05
  difference = np.abs(moved(a) - moved(b)).mean()
  assert 0 < difference < 0.1 * np.abs(moved(b)).mean()
  text = (
    jax.jit(functools.partial(up.update, coarse))
    .lower(a, rows()[:, :B])
    .as_text()
  )
  products = [line for line in text.splitlines() if 'dot_general' in line]
  wide = [line for line in products if line.count('bf16') < 2]
  # What is left in float32 is small: projections and one matrix-vector.
  assert sum('bf16' in line for line in products) >= 5
  assert all('x32x' not in line for line in wide)


def test_export_acts_on_raw_activations():
  cfg, x = config(), rows()
  state, _, _ = trained(cfg, x, calls=3)
  sae = export(state)
  p = [np.asarray(v, np.float64)[0, 0] for v in state.params]
  W_enc, W_dec, b_enc, b_dec, log_threshold = p
  scale = float(scale_of(x)[0])
  scaled = x[0].astype(np.float64) / scale
  z = (scaled - b_dec) @ W_enc + b_enc
  f = np.where(z > np.maximum(np.exp(log_threshold), 0), z, 0)
  y = (f @ W_dec + b_dec) * scale
  np.testing.assert_allclose(sae.encode(x[0]), f * scale, atol=2e-5)
  np.testing.assert_allclose(sae(x[0]), y, atol=5e-5)
  norms = np.linalg.norm(sae.W_dec[...], axis=1)
  np.testing.assert_allclose(norms, 1, rtol=1e-6)


def test_the_state_is_donated_and_compiled_once():
  cfg, x = config(), rows()
  state = up.init_state(cfg, scale_of(x), D)
  order = np.arange(x.shape[1], dtype=np.int32)
  run = functools.partial(up.run_updates, config=cfg, num_steps=2)
  before = up._run_updates._cache_size()
  new, _ = run(state, x, order, 0)
  assert state.params.W_enc.is_deleted() and state.adam.nu.W_dec.is_deleted()
  for start in (B, 2 * B):
    new, _ = run(new, x, order, np.int32(start))
  assert up._run_updates._cache_size() - before <= 2


def test_silent_latents_are_counted_in_tokens():
  cfg = config(dead_after=3 * B, sparsity=0.0, learning_rate=1e-12)
  state = up.init_state(cfg, np.ones(1, np.float32), D)
  low = state.params.b_enc.at[0, 0, 7].set(-1e6)
  state = state._replace(params=state.params._replace(b_enc=low))
  order = np.arange(4 * B, dtype=np.int32)
  state, metrics = up.run_updates(
    state, rows(), order, 0, config=cfg, num_steps=4
  )
  assert state.silent[0, 0, 7] == 3 * B  # counted up to dead_after
  assert (np.delete(np.asarray(state.silent)[0, 0], 7) < B).all()
  np.testing.assert_allclose(metrics.dead[:, 0, 0], [0, 0, 0, 1 / F], rtol=1e-6)
