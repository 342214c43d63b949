"""Pseudo-derivatives: a worked example, a closed form, a kernel estimate."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sae.straight_through import count_firings, heaviside, jumprelu

# Worked out by hand and in float64 NumPy (bandwidth 0.5, coefficient 0.1).
X = [[1, 0.5], [-0.5, 1]]
W_ENC = [[1, 0, -1], [0.5, 1, 0.25]]
W_DEC = [[0.6, 0.8], [0, 1], [-1, 0]]
B_ENC = [0, 0.1, 0.2]
B_DEC = [0.1, -0.1]
THRESHOLD = [1, 0.5, 0.6]
GOLDEN = {
  'W_enc': [[0.666, 0.894, -0.285], [0.444, 0.746, 0.5225]],
  'W_dec': [[-0.216, 1.272], [-0.696, 0.862], [-0.510625, 0.1075]],
  'b_enc': [0.74, 1.16, 0.475],
  'b_dec': [-0.92, -0.48875],
  'log_threshold': [-1.58, -0.58, 0],
}


def golden_parameters():
  arrays = {
    'W_enc': W_ENC,
    'W_dec': W_DEC,
    'b_enc': B_ENC,
    'b_dec': B_DEC,
    'log_threshold': np.log(THRESHOLD),
  }
  return {k: jnp.asarray(v, jnp.float32) for k, v in arrays.items()}


def golden_loss(p):
  x, theta = jnp.asarray(X, jnp.float32), jnp.exp(p['log_threshold'])
  z = jax.nn.relu((x - p['b_dec']) @ p['W_enc'] + p['b_enc'])
  y = jumprelu(z, theta, 0.5) @ p['W_dec'] + p['b_dec']
  l0 = heaviside(z, theta, 0.5).sum(-1)
  return (((x - y) ** 2).sum(-1) + 0.1 * l0).mean()


def test_golden_vector():
  loss, grads = jax.value_and_grad(golden_loss)(golden_parameters())
  np.testing.assert_allclose(loss, 0.8958125, rtol=1e-6)
  for name, want in GOLDEN.items():
    np.testing.assert_allclose(grads[name], want, atol=1e-6, err_msg=name)


def test_all_but_the_threshold_by_finite_differences():
  with jax.enable_x64(True):
    p = {k: v.astype(jnp.float64) for k, v in golden_parameters().items()}
    loss = lambda p: squared_error(p, jnp.float64)
    grads = jax.grad(loss)(p)
    for name in ('W_enc', 'W_dec', 'b_enc', 'b_dec'):
      for at in np.ndindex(p[name].shape):
        step = lambda h, name=name, at=at: loss(
          p | {name: p[name].at[at].add(h)}
        )
        slope = (step(1e-5) - step(-1e-5)) / 2e-5
        np.testing.assert_allclose(grads[name][at], slope, atol=1e-8)


def squared_error(p, dtype):
  x, theta = jnp.asarray(X, dtype), jnp.exp(p['log_threshold'])
  z = (x - p['b_dec']) @ p['W_enc'] + p['b_enc']
  y = jumprelu(z, theta, 0.5) @ p['W_dec'] + p['b_dec']
  return ((x - y) ** 2).sum(-1).mean()


@pytest.mark.parametrize('bandwidth', [0.02, 0.1])
def test_the_gradient_estimates_that_of_the_expected_loss(bandwidth):
  """One latent that may explain x ~ |N(0, 1)|; the expectation is smooth.

  E[(x - jump(x, t))^2] + c E[x > t] has the derivative p(t) (t^2 - c) for the
  density p, which is computed here without any of our code.
  """
  t, c, n = 0.7, 0.3, 2_000_000
  x = np.abs(np.random.default_rng(0).standard_normal((n, 1))).astype('f4')

  @jax.jit
  def loss(threshold):
    f = jumprelu(x, threshold, bandwidth)
    return ((x - f) ** 2).mean() + c * heaviside(x, threshold, bandwidth).mean()

  got = float(jax.grad(loss)(jnp.full(1, t))[0])
  density = np.sqrt(2 / np.pi) * np.exp(-(t**2) / 2)
  want = density * (t**2 - c)
  assert got == pytest.approx(want, rel=0.12)


def test_strict_at_the_threshold_and_at_the_window():
  z = jnp.asarray([[0.5, 0.75, 0.25, 0.51]])
  f = jumprelu(z, jnp.full(4, 0.5), 0.5)
  np.testing.assert_array_equal(f, np.float32([[0, 0.75, 0, 0.51]]))
  np.testing.assert_array_equal(heaviside(z, 0.5, 0.5), [[0, 1, 0, 1]])
  dt = jax.grad(lambda t: heaviside(z, t, 0.5).sum())(jnp.full(4, 0.5))
  # |z - t| < bandwidth / 2: the second and third are on the edge, outside.
  np.testing.assert_allclose(dt, [-2, 0, 0, -2])


def test_counts_are_the_heaviside_function_over_tokens():
  rng = np.random.default_rng(3)
  z = jnp.asarray(rng.integers(-8, 8, (5, 3, 6)) / 8, jnp.float32)  # has ties
  theta = jnp.asarray(rng.integers(1, 8, 6) / 8, jnp.float32)
  weights = jnp.asarray(rng.standard_normal(6), jnp.float32)
  active, near = count_firings(z, theta, 0.5)
  np.testing.assert_array_equal(active, heaviside(z, theta, 0.5).sum((0, 1)))
  np.testing.assert_array_equal(near, (abs(z - theta) < 0.25).sum((0, 1)))
  got = jax.grad(
    lambda z, t: weights @ count_firings(z, t, 0.5)[0], argnums=(0, 1)
  )(z, theta)
  want = jax.grad(
    lambda z, t: (weights * heaviside(z, t, 0.5)).sum(), argnums=(0, 1)
  )(z, theta)
  for mine, reference in zip(got, want, strict=True):
    np.testing.assert_allclose(mine, reference, rtol=1e-6)


def test_dtypes_and_axes():
  z = jnp.linspace(-1, 1, 24, dtype=jnp.bfloat16).reshape(2, 3, 4)
  theta = jnp.full(4, 0.1)
  assert heaviside(z, theta, 0.1).dtype == z.dtype
  dz, dt = jax.grad(
    lambda z, t: jumprelu(z, t, 0.5).astype('f4').sum(), argnums=(0, 1)
  )(z, theta)
  assert dz.shape == z.shape and dt.shape == theta.shape
  assert dt.dtype == jnp.float32
