"""Uniformity of active latents, against SciPy token by token."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from sae.jumprelu import JumpReLUSAE, Weights, decode, encode
from sae.metrics import uniformity as uniformity_lib
from sae.metrics.uniformity import mean_uniformity

uniformity = jax.jit(uniformity_lib.uniformity)


def make_sae(D=5, F=11, threshold=0.5):
  rng = np.random.default_rng(0)
  arrays = (
    rng.standard_normal((D, F)),
    rng.standard_normal((F, D)),
    rng.standard_normal(F),
    rng.standard_normal(D),
    np.full(F, threshold),
  )
  return JumpReLUSAE(Weights(*(jnp.asarray(a, jnp.float32) for a in arrays)))


def make_tokens(*shape, seed=1):
  rng = np.random.default_rng(seed)
  x, grad = rng.standard_normal((2, *shape, 5)).astype(np.float32)
  grad.reshape(-1, 5)[0] = 0
  return x, grad


def by_hand(sae, x, grad):
  """r of each token [n], NaN where no latent has an effect."""
  W_enc, W_dec, b_enc, _, threshold = (
    np.asarray(array, np.float64) for array in sae.weights()
  )
  found = []
  for token, slope in zip(x.reshape(-1, 5), grad.reshape(-1, 5), strict=True):
    z = token.astype(np.float64) @ W_enc + b_enc
    y = np.where(z > threshold, z, 0) * (W_dec @ slope.astype(np.float64))
    y = np.abs(y[y != 0])
    found.append(np.exp(stats.entropy(y)) / len(y) if len(y) else np.nan)
  return np.array(found)


def test_uniformity_is_its_formula():
  sae = make_sae()
  x, grad = make_tokens(2, 9)
  want = by_hand(sae, x, grad)
  got = uniformity(sae.weights(), x, grad)
  assert got.shape == (2, 9) and got.dtype == jnp.float32
  np.testing.assert_allclose(np.ravel(got), want, rtol=1e-5)
  # The unit of the gradient does not matter.
  tiny = uniformity(sae.weights(), x, grad * np.float32(2.0**-60))
  np.testing.assert_allclose(tiny, got, rtol=1e-6)


@pytest.mark.parametrize(
  ('effects', 'want'),
  [
    ([1, 1, 1, 1], 1.0),
    ([3, -3, 3, 0], 1.0),
    ([1, 0, 0, 0], 1.0),
    ([1e6, 1e-9, 1e-9, 1e-9], 0.25),
    ([0, 0, 0, 0], np.nan),
  ],
)
def test_uniformity_of_known_effects(effects, want):
  eye = jnp.eye(4)
  weights = Weights(eye, eye, jnp.zeros(4), jnp.zeros(4), jnp.zeros(4))
  got = uniformity(weights, jnp.ones(4), jnp.array(effects, jnp.float32))
  np.testing.assert_allclose(got, want, rtol=1e-5)


def test_effects_add_up_to_the_change_of_a_linear_logit():
  # What y means: the logit moves by its sum when all latents are switched off.
  sae, readout = make_sae(), jnp.arange(5.0)

  @jax.jit
  def both(x, weights):
    grad = jax.grad(lambda x: x @ readout)(x)
    f = encode(weights, x)
    effects = f * (weights.W_dec @ grad)
    return effects.sum(), (decode(weights, f) - weights.b_dec) @ readout

  effects, change = both(make_tokens(1)[0][0], sae.weights())
  assert change != 0
  np.testing.assert_allclose(effects, change, rtol=1e-5)


def test_the_mean_is_over_tokens_with_an_effect():
  sae = make_sae(threshold=1.5)
  parts = [make_tokens(2, 9, seed=seed) for seed in range(3)]
  mask = np.random.default_rng(3).random((2, 9)) < 0.7
  mask[0, 0] = True
  batches = [parts[0], parts[1]]
  for array in parts[2]:
    array[~mask] = np.nan
  batches.append((*parts[2], mask))
  got = mean_uniformity(sae, batches)
  r = np.concatenate([by_hand(sae, *part) for part in parts[:2]])
  r = np.append(r, by_hand(sae, *(array[mask] for array in parts[2])))
  np.testing.assert_allclose(got.mean, np.nanmean(r), rtol=1e-6)
  assert got.num_tokens == np.isfinite(r).sum()
  assert got.num_skipped == np.isnan(r).sum() > 0


def test_no_effect_at_all_is_not_a_number():
  got = mean_uniformity(make_sae(threshold=1e9), [make_tokens(2, 9)])
  assert np.isnan(got.mean)
  assert got.to_dict() == {'mean': None, 'num_tokens': 0, 'num_skipped': 18}


def test_wrong_input_is_refused():
  sae, (x, grad) = make_sae(), make_tokens(2, 9)
  with pytest.raises(ValueError, match='no unmasked token in 0 batches'):
    mean_uniformity(sae, [])
  with pytest.raises(ValueError, match='no unmasked token in 1 batches'):
    mean_uniformity(sae, [(x, grad, np.zeros((2, 9), bool))])
  with pytest.raises(ValueError, match='int32'):
    mean_uniformity(sae, [(x, grad, np.ones((2, 9), np.int32))])
  with pytest.raises(ValueError, match=r'\(2, 9, 4\).*D=5'):
    uniformity(sae.weights(), x[..., :4], grad[..., :4])
  with pytest.raises(ValueError, match=r'Batch 1 \(from 0\)'):
    mean_uniformity(sae, [(x, grad), (x, grad * np.nan)])
