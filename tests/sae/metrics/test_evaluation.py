"""Metrics of SAEs, against formulas in float64 NumPy, and scikit-learn.

Weights and activations are small multiples of powers of two, so that latents
and reconstructions are exact in float32 and the same in any arithmetic.
"""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from sae.jumprelu import JumpReLUSAE, Weights
from sae.metrics import evaluation as metrics_lib
from sae.metrics.evaluation import (
  FREQUENCY_EDGES,
  L0_QUANTILES,
  evaluate,
  summarise,
)
from sae.metrics.metric_sums import add_batch, batch_sums, init_sums, merge_sums


def make_sae(D=13, F=37, seed=0):
  rng = np.random.default_rng(seed)

  def grid(*shape):
    return (rng.integers(-4, 5, shape) / 8).astype(np.float32)

  threshold = rng.integers(1, 64, F).astype(np.float32) / 32
  weights = Weights(grid(D, F), grid(F, D), grid(F), grid(D), threshold)
  # A latent that never fires, where there are some to spare.
  if F > 1:
    weights.threshold[0] = 1e6
  return JumpReLUSAE(Weights(*(jnp.asarray(array) for array in weights)))


def make_x(*shape, seed=1):
  rng = np.random.default_rng(seed)
  return (rng.integers(-16, 17, shape) / 4).astype(np.float32)


def reference(sae, x):
  """Latents and reconstructions of x [n, D], in float64."""
  W_enc, W_dec, b_enc, b_dec, threshold = (
    np.asarray(array, np.float64) for array in sae.weights()
  )
  z = x.astype(np.float64) @ W_enc + b_enc
  f = np.where(z > threshold, z, 0)
  return f, f @ W_dec + b_dec


def assert_same(a, b, rtol=1e-6):
  a, b = a.to_dict(per_latent=True), b.to_dict(per_latent=True)
  assert a.keys() == b.keys()
  for name in a:
    if isinstance(a[name], dict | str | int) or a[name] is None:
      assert a[name] == b[name], name
    else:
      np.testing.assert_allclose(
        np.array(a[name], float), np.array(b[name], float), rtol, err_msg=name
      )


@pytest.mark.parametrize(
  'shape',
  [
    pytest.param((13, 37, 4, 6), id='odd sizes'),
    pytest.param((1, 1, 1, 1), id='one of everything'),
  ],
)
def test_every_metric_is_its_formula(shape):
  D, F, B, T = shape
  sae, x = make_sae(D, F), make_x(B, T, D)
  mask = np.random.default_rng(2).random((B, T)) < 0.8
  mask[0, :2] = True
  # No direction and no ratio.
  x[0, 1:2] = 0
  got = evaluate(sae, [(x, mask)])
  rows = x[mask].astype(np.float64)
  f, y = reference(sae, rows)
  n = len(rows)
  active = f > 0
  l0 = active.sum(axis=1)

  assert (got.num_tokens, got.num_latents) == (n, F)
  np.testing.assert_allclose(got.l0, l0.mean(), 1e-12)
  np.testing.assert_allclose(got.l0_std, l0.std(), 1e-12, 1e-12)
  quantiles = np.quantile(l0, L0_QUANTILES, method='inverted_cdf')
  assert got.l0_quantiles == tuple(quantiles)
  close = functools.partial(np.testing.assert_allclose, rtol=3e-7)
  close(got.mse, ((rows - y) ** 2).sum(axis=1).mean())
  variance = ((rows - rows.mean(axis=0)) ** 2).sum(axis=1).mean()
  close(got.variance, variance)
  fvu = got.mse / variance if variance else np.nan
  close(got.fvu, fvu)
  close(got.explained_variance, 1 - fvu, atol=1e-6)
  close(got.mean, rows.mean(axis=0), atol=3e-7)

  x_norm, y_norm = (np.linalg.norm(array, axis=1) for array in (rows, y))
  both = (x_norm > 0) & (y_norm > 0)
  cosines = (rows * y).sum(axis=1)[both] / (x_norm * y_norm)[both]
  close(got.cosine, cosines.mean() if both.any() else np.nan)
  assert got.cosine_skipped == n - both.sum()
  ratios = y_norm[x_norm > 0] / x_norm[x_norm > 0]
  close(got.l2_ratio, ratios.mean() if ratios.size else np.nan)
  assert got.l2_ratio_skipped == (x_norm == 0).sum() == (n > 1)
  product = (rows * y).sum()
  bias = (y**2).sum() / product if product else np.nan
  close(got.relative_reconstruction_bias, bias)

  np.testing.assert_array_equal(got.frequency, active.mean(axis=0))
  for i in range(F):
    on = f[active[:, i], i]
    close(got.mean_activation[i], on.mean() if on.size else np.nan)
    assert got.max_activation[i] == f[:, i].max()
  dead = ~active.any(axis=0)
  assert got.num_dead == dead.sum()
  assert got.dead_share == dead.mean()
  assert got.num_above_1_percent == (active.mean(axis=0) > 0.01).sum()
  assert got.num_above_10_percent == (active.mean(axis=0) > 0.1).sum()
  logs = np.log10(active.mean(axis=0)[~dead])
  counts, _ = np.histogram(logs, FREQUENCY_EDGES)
  np.testing.assert_array_equal(got.frequency_histogram, counts)
  assert counts.sum() + got.num_dead == F


def test_unexplained_variance_is_that_of_sklearn():
  sae, x = make_sae(), make_x(192, 13)
  # Dimensions of unlike variance, which averaging over them would get wrong.
  x *= 2.0 ** np.arange(-6, 7, dtype=np.float32)
  _, y = reference(sae, x)
  r2 = sklearn_metrics.r2_score(x, y, multioutput='variance_weighted')
  got = evaluate(sae, x.reshape(8, 4, 6, 13))
  np.testing.assert_allclose(got.explained_variance, r2, rtol=1e-5)
  np.testing.assert_allclose(got.fvu, 1 - r2, rtol=1e-6)


def test_an_offset_of_input_and_output_changes_nothing_unexplained():
  sae, x = make_sae(), make_x(6, 4, 6, 13)
  offset = np.full(13, 2.0**13, np.float32)
  weights = sae.weights()
  moved = JumpReLUSAE(
    weights._replace(
      b_enc=weights.b_enc - offset @ weights.W_enc,
      b_dec=weights.b_dec + offset,
    )
  )
  plain = evaluate(sae, x)
  shifted = evaluate(moved, x + offset)
  np.testing.assert_allclose(shifted.fvu, plain.fvu, rtol=1e-6)
  np.testing.assert_allclose(shifted.variance, plain.variance, rtol=1e-6)
  assert (shifted.mse, shifted.l0) == (plain.mse, plain.l0)
  np.testing.assert_allclose(shifted.mean, plain.mean + offset, rtol=1e-10)


def test_masked_tokens_are_as_if_not_there():
  sae, x = make_sae(), make_x(4, 6, 13)
  mask = np.ones((4, 6), bool)
  mask[:, 0] = mask[1, 4:] = mask[3] = False
  # BOS has a huge norm and sets off latents by the hundred.
  weights = sae.weights()
  x[:, 0] = 2.0**10 * np.asarray(weights.W_enc).sum(axis=1)
  with_bos = evaluate(sae, [x])
  x[1, 4:], x[3] = np.nan, np.inf
  got = evaluate(sae, [(x, mask)])
  rows = x[mask].astype(np.float64)
  f, y = reference(sae, rows)
  error = ((rows - y) ** 2).sum()
  want = error / ((rows - rows.mean(axis=0)) ** 2).sum()
  np.testing.assert_allclose(got.fvu, want, rtol=1e-6)
  assert got.num_tokens == 13
  np.testing.assert_allclose(got.l0, (f > 0).sum(axis=1).mean(), rtol=1e-12)
  np.testing.assert_array_equal(got.max_activation, f.max(axis=0))
  np.testing.assert_array_equal(got.frequency, (f > 0).mean(axis=0))
  assert with_bos.l0 > got.l0 and abs(with_bos.fvu / got.fvu - 1) > 0.5


def test_how_tokens_are_split_into_batches_does_not_matter():
  sae, x = make_sae(), make_x(11, 6, 13) + np.float32(100)
  ragged = evaluate(sae, [x[:4], x[4:8], x[8:]])
  # In another order, without sequences, and padded.
  flat = np.full((72, 13), np.nan, np.float32)
  flat[:66] = x[::-1].reshape(-1, 13)
  mask = np.arange(72) < 66
  padded = evaluate(
    sae, zip(flat.reshape(3, 24, 13), mask.reshape(3, 24), strict=True)
  )
  assert np.isnan(padded.activations_per_sequence).all()
  per_sequence = {
    name: getattr(ragged, name)
    for name in ('activations_per_sequence', 'mean_activations_per_sequence')
  }
  assert_same(dataclasses.replace(padded, **per_sequence), ragged)
  np.testing.assert_allclose(padded.mean, ragged.mean, rtol=1e-7)


def test_ten_thousand_batches_agree_with_one_pass_in_float64():
  sae, x = make_sae(5, 9), make_x(10_000, 8, 5)
  # Drift, as of text that comes in an order.
  x += np.arange(10_000, dtype=np.float32)[:, None, None] // 64
  weights = sae.weights()

  @jax.jit
  def stream(x):
    step = lambda sums, x: (add_batch(sums, weights, x), None)
    return jax.lax.scan(step, init_sums(9, 5), x)[0]

  got = summarise(stream(x))
  rows = x.reshape(-1, 5).astype(np.float64)
  f, y = reference(sae, rows)
  norms = np.linalg.norm(rows, axis=1) * np.linalg.norm(y, axis=1)
  error = ((rows - y) ** 2).sum()
  want = {
    'num_tokens': len(rows),
    'l0': (f > 0).sum(axis=1).mean(),
    'mse': error / len(rows),
    'fvu': error / ((rows - rows.mean(axis=0)) ** 2).sum(),
    'cosine': (rows * y).sum(axis=1)[norms > 0] @ (1 / norms[norms > 0]),
    'relative_reconstruction_bias': (y**2).sum() / (rows * y).sum(),
    'frequency': (f > 0).mean(axis=0),
    'mean': rows.mean(axis=0),
  }
  want['cosine'] /= (norms > 0).sum()
  for name, number in want.items():
    np.testing.assert_allclose(
      getattr(got, name), number, rtol=1e-6, err_msg=name
    )


def test_a_first_batch_far_from_the_rest_costs_no_precision():
  sae = make_sae()
  far = np.full((1, 13), 2.0**12, np.float32)
  near = make_x(2976, 13) / 64
  first = np.concatenate([far, near[:23]]).reshape(4, 6, 13)
  first_only = np.zeros((4, 6), bool)
  first_only[0, 0] = True
  batches = [(first, first_only), (first, ~first_only)]
  batches += list(near[23:-1].reshape(123, 4, 6, 13))
  got = evaluate(sae, batches)
  rows = np.concatenate([far, near[:-1]]).astype(np.float64)
  assert got.num_tokens == len(rows)
  want = ((rows - rows.mean(axis=0)) ** 2).sum(axis=1).mean()
  np.testing.assert_allclose(got.variance, want, rtol=1e-6)
  np.testing.assert_allclose(got.mean, rows.mean(axis=0), atol=1e-5)


def test_variance_of_a_few_steps_of_float32_is_exact():
  # At 2**13 numbers are 2**-10 apart: the mean itself is not among them.
  x = np.float32(2**13) + make_x(3, 4, 6, 13) * np.float32(2.0**-9)
  rows = x.reshape(-1, 13).astype(np.float64)
  want = ((rows - rows.mean(axis=0)) ** 2).sum(axis=1).mean()
  got = evaluate(make_sae(), x).variance
  np.testing.assert_allclose(got, want, rtol=1e-6)


@pytest.mark.parametrize('value', [0.0, 0.1, -1234.567])
def test_data_that_do_not_vary_leave_nothing_to_explain(value):
  x = np.full((3, 4, 6, 13), value, np.float32)
  got = evaluate(make_sae(), x)
  assert got.variance == 0
  assert np.isnan(got.fvu) and np.isnan(got.explained_variance)
  assert got.mse > 0


def test_bfloat16_activations_are_measured_as_they_are():
  sae, x = make_sae(), make_x(4, 6, 13) * np.float32(1.37)
  rounded = jnp.asarray(x, jnp.bfloat16)
  assert_same(evaluate(sae, [rounded]), evaluate(sae, [rounded.astype('f4')]))


def one_latent(threshold):
  one = jnp.ones((1, 1))
  weights = Weights(one, one, *jnp.zeros((2, 1)), jnp.array([threshold]))
  return JumpReLUSAE(weights)


def test_a_latent_at_its_threshold_is_not_active():
  above = np.nextafter(np.float32(2), np.float32(3))
  x = np.array([2, above, 0, -3], np.float32).reshape(4, 1, 1, 1)
  for threshold, share in {2.0: 0.25, 0.0: 0.5, -1.0: 0.5}.items():
    got = evaluate(one_latent(threshold), x)
    assert got.frequency.tolist() == [share]
    assert got.max_activation.tolist() == [above]


def test_activations_are_counted_per_sequence_in_which_a_latent_fires():
  sae, x = make_sae(), make_x(8, 6, 13)
  mask = np.random.default_rng(3).random((8, 6)) < 0.6
  got = evaluate(sae, [(x[:4], mask[:4]), (x[4:], mask[4:])])
  for i in range(sae.width):
    counts = []
    for row in range(8):
      f, _ = reference(sae, x[row][mask[row]])
      counts.append((f[:, i] > 0).sum())
    counts = [count for count in counts if count]
    want = np.mean(counts) if counts else np.nan
    np.testing.assert_allclose(got.activations_per_sequence[i], want)
  np.testing.assert_allclose(
    got.mean_activations_per_sequence,
    np.nanmean(got.activations_per_sequence),
  )
  # Tokens without their sequences, even in one batch of several.
  mixed = evaluate(sae, [x[:4], x.reshape(-1, 13)])
  assert np.isnan(mixed.activations_per_sequence).all()
  assert np.isnan(mixed.mean_activations_per_sequence)


def test_directions_and_ratios_skip_what_has_none():
  x = np.array([2, 4, 0, -3], np.float32).reshape(4, 1, 1, 1)
  got = evaluate(one_latent(2.0), x)  # Reconstructed as 0, 4, 0, 0.
  assert (got.cosine, got.cosine_skipped) == (1, 3)
  assert (got.l2_ratio, got.l2_ratio_skipped) == (pytest.approx(1 / 3), 1)


@pytest.mark.parametrize(
  ('active', 'first_bin', 'last_bin', 'dead', 'above'),
  [
    (0, 0, 0, 1, (0, 0)),
    (1, 1, 0, 0, (0, 0)),
    (2, 1, 0, 0, (1, 0)),
    (10, 1, 0, 0, (1, 0)),
    (11, 1, 0, 0, (1, 1)),
    (100, 0, 1, 0, (1, 1)),
  ],
)
def test_latents_are_counted_by_frequency(
  active, first_bin, last_bin, dead, above, monkeypatch
):
  # Frequencies off the scale count in the first bin, dead latents in none.
  monkeypatch.setattr(metrics_lib, 'FREQUENCY_EDGES', np.linspace(-1, 0, 5))
  x = np.arange(1, 101, dtype=np.float32).reshape(100, 1, 1, 1)
  got = evaluate(one_latent(100.5 - active), x)
  assert got.frequency.tolist() == [active / 100]
  assert got.frequency_histogram.tolist() == [first_bin, 0, 0, last_bin]
  assert (got.num_dead, got.dead_share) == (dead, dead)
  assert (got.num_above_1_percent, got.num_above_10_percent) == above


def test_sums_of_two_hosts_merge():
  sae, x = make_sae(), make_x(3, 4, 6, 13) + np.float32(50)
  add = jax.jit(add_batch)
  hosts = []
  for part in (x[:1], x[1:]):
    sums = init_sums(sae.width, sae.d_in)
    for batch in part:
      sums = add(sums, sae.weights(), batch, np.ones((4, 6), bool))
    hosts.append(sums)
  merged = summarise(jax.jit(merge_sums)(*hosts))
  assert_same(merged, evaluate(sae, x))
  assert_same(merged, evaluate(sae, x[::-1]))


def test_several_saes_are_measured_side_by_side():
  saes, x = [make_sae(seed=seed) for seed in range(3)], make_x(4, 6, 13)
  stacked = Weights(
    *map(jnp.stack, zip(*(sae.weights() for sae in saes), strict=True))
  )
  sums = jax.jit(jax.vmap(batch_sums, (0, None)))(stacked, x)
  for i, sae in enumerate(saes):
    got = summarise(jax.tree.map(lambda array, i=i: array[i], sums))
    assert_same(got, evaluate(sae, [x]))


def test_one_program_serves_all_saes_of_a_shape():
  x, mask = make_x(4, 6, 13), np.ones((4, 6), bool)
  evaluate(make_sae(seed=0), [x])
  programs = metrics_lib._add_batch._cache_size()
  evaluate(make_sae(seed=1), [x, (x, mask), (-x, ~mask)])
  assert metrics_lib._add_batch._cache_size() == programs


def test_a_batch_without_tokens_changes_nothing():
  sae, x = make_sae(), make_x(4, 6, 13)
  nothing = (np.full((4, 6, 13), np.nan, np.float32), np.zeros((4, 6), bool))
  want = evaluate(sae, [x])
  assert_same(evaluate(sae, [nothing, x, nothing]), want, rtol=0)
  with pytest.raises(ValueError, match='no token of 2 batches'):
    evaluate(sae, [nothing, nothing])
  with pytest.raises(ValueError, match='no batch was given'):
    evaluate(sae, iter([]))


@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf, 1e30])
@pytest.mark.parametrize('where', [0, 2, 3])
def test_what_is_not_finite_is_refused_by_its_batch(bad, where):
  x = make_x(4, 4, 6, 13)
  x[where, 1, 2, 3] = bad
  seen = []
  batches = (seen.append(i) or batch for i, batch in enumerate(x))
  with pytest.raises(ValueError, match=rf'Batch {where} \(from 0\)'):
    evaluate(make_sae(), batches)
  # The next batch at most has been read.
  assert len(seen) <= where + 2


def test_a_reconstruction_that_is_not_finite_is_refused():
  sae, x = make_sae(), make_x(4, 6, 13)
  bad = JumpReLUSAE(sae.weights()._replace(b_dec=np.full(13, np.nan, 'f4')))
  with pytest.raises(ValueError, match=r'Batch 0 \(from 0\)'):
    evaluate(bad, [x])


@pytest.mark.parametrize(
  ('batch', 'message'),
  [
    (make_x(3, 12), r'Batch 1: .*\(3, 12\), expected .*13'),
    (make_x(13), r'\(13,\)'),
    (make_x(0, 13), 'at least one token'),
    (np.ones((3, 13), np.int32), 'int32'),
    ((make_x(3, 13), np.ones(3, np.int32)), 'int32'),
    ((make_x(4, 6, 13), np.ones((4, 5), bool)), r'\(4, 5\)'),
  ],
)
def test_a_batch_that_does_not_fit_is_refused(batch, message):
  with pytest.raises(ValueError, match=message):
    evaluate(make_sae(), [make_x(4, 6, 13), batch])


def test_sums_of_another_shape_are_refused():
  # Broadcasting would take these silently.
  with pytest.raises(ValueError, match='F=1.*F=37'):
    jax.eval_shape(
      add_batch, init_sums(1, 13), make_sae().weights(), make_x(4, 6, 13)
    )


def test_results_are_json_that_names_its_definitions():
  sae, x = make_sae(), make_x(4, 6, 13)
  got = evaluate(sae, [np.zeros_like(x)])
  text = json.dumps(got.to_dict(), allow_nan=False)
  loaded = json.loads(text)
  assert loaded['metric_version'] == metrics_lib.METRIC_VERSION
  assert loaded['fvu'] is None and loaded['num_tokens'] == 24
  assert set(loaded['l0_quantiles']) == set(map(str, L0_QUANTILES))
  assert 'frequency' not in loaded
  loaded = json.loads(json.dumps(got.to_dict(per_latent=True), allow_nan=False))
  assert len(loaded['frequency']) == sae.width
  assert loaded['mean_activation'][0] is None
