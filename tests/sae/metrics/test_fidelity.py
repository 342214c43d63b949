"""Loss that a model recovers, on a toy model: x to logits through tanh."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from sae.jumprelu import JumpReLUSAE, Weights
from sae.metrics import fidelity
from sae.metrics.fidelity import (
  Ablate,
  Reconstruct,
  measure_fidelity,
  ratio_estimate,
  sequence_losses,
)

D, V = 5, 7
_RNG = np.random.default_rng(0)
READOUT = _RNG.standard_normal((D, V)).astype(np.float32)


def make_batch(seed=1):
  """x, targets, what is spliced, what counts. Rows begin with BOS."""
  B, T = 3, 6
  rng = np.random.default_rng(seed)
  x = 3 * rng.standard_normal((B, T, D)).astype(np.float32) + 1
  x[:, 0] = 1e3
  targets = rng.integers(0, V, (B, T))
  present = np.arange(T) < rng.integers(2, T + 1, B)[:, None]
  x[~present] = np.nan
  spliced = present & (np.arange(T) > 0)
  return x, targets, spliced, spliced


def make_sae(seed=2, F=11, threshold=0.5):
  rng = np.random.default_rng(seed)
  W = rng.standard_normal((F, D)).astype(np.float32) / 2
  return JumpReLUSAE(
    Weights(
      *map(jnp.asarray, (W.T, W, np.zeros(F, np.float32), np.ones(D, 'f4'))),
      jnp.full(F, threshold, jnp.float32),
    )
  )


def identity_sae(scale=1.0):
  """Each dimension by one latent for its positive part, one for the other."""
  eye = np.concatenate([np.eye(D), -np.eye(D)]).astype(np.float32)
  zeros = jnp.zeros(2 * D)
  return JumpReLUSAE(
    Weights(
      jnp.asarray(eye.T), jnp.asarray(eye * scale), zeros, zeros[:D], zeros
    )
  )


@jax.jit
def losses(readout, x, targets, spliced, replace):
  if replace is not None:
    x = jnp.where(spliced[..., None], replace(x), x)
  logs = jax.nn.log_softmax(jnp.tanh(x + 0.5) @ readout)
  return -jnp.take_along_axis(logs, targets[..., None], axis=-1)[..., 0]


def run(batch, replace):
  x, targets, spliced, counts = batch
  return losses(READOUT, x, targets, spliced, replace), counts


def by_hand(batches, replace):
  """Sums of losses and numbers of tokens per row, in float64."""
  sums, tokens = [], []
  for x, targets, _, counts in batches:
    for row in range(len(x)):
      places = np.flatnonzero(counts[row])
      rows = replace(x[row, places].astype(np.float64))
      logits = np.tanh(rows + 0.5) @ READOUT.astype(np.float64)
      logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
      sums.append(-sum(logs[i, targets[row, t]] for i, t in enumerate(places)))
      tokens.append(len(places))
  return np.array(sums), np.array(tokens)


def reconstruct(sae):
  W_enc, W_dec, b_enc, b_dec, threshold = (
    np.asarray(array, np.float64) for array in sae.weights()
  )

  def replace(x):
    z = x @ W_enc + b_enc
    return np.where(z > threshold, z, 0) @ W_dec + b_dec

  return replace


def test_losses_are_those_of_a_loop_over_tokens():
  sae, batches = make_sae(), [make_batch(seed=seed) for seed in range(4)]
  mean = np.linspace(-1, 1, D)
  got = measure_fidelity(run, batches, sae, mean=mean)
  want, tokens = {}, None
  for name, replace in {
    'clean': lambda x: x,
    'spliced': reconstruct(sae),
    'zero': np.zeros_like,
    'mean': lambda x: np.broadcast_to(mean, x.shape),
  }.items():
    want[name], tokens = by_hand(batches, replace)
    np.testing.assert_allclose(got.losses[name], want[name], rtol=1e-5)
  np.testing.assert_array_equal(got.tokens, tokens)
  n = tokens.sum()
  assert (got.num_tokens, got.num_sequences) == (n, 12)
  H, spliced, zero, mean_loss = (sums.sum() / n for sums in want.values())
  for estimate, value in {
    got.clean_loss: H,
    got.spliced_loss: spliced,
    got.zero_ablation_loss: zero,
    got.mean_ablation_loss: mean_loss,
    got.delta_loss: spliced - H,
    got.loss_recovered_zero: (zero - spliced) / (zero - H),
    got.loss_recovered_mean: (mean_loss - spliced) / (mean_loss - H),
  }.items():
    np.testing.assert_allclose(estimate.value, value, rtol=1e-4)
    assert estimate.low < estimate.value < estimate.high


def test_a_perfect_sae_loses_nothing():
  got = measure_fidelity(run, [make_batch()], identity_sae())
  assert got.delta_loss.value == got.delta_loss.standard_error == 0
  assert got.loss_recovered_zero.value == 1
  assert got.mean_ablation_loss is got.loss_recovered_mean is None


def test_an_sae_that_says_nothing_recovers_nothing():
  # No latent ever fires: reconstructions are b_dec, which is all ones.
  got = measure_fidelity(
    run, [make_batch()], make_sae(threshold=1e9), mean=np.ones(D)
  )
  assert got.loss_recovered_mean.value == 0
  nothing = identity_sae(scale=0.0)
  got = measure_fidelity(run, [make_batch()], nothing)
  assert got.loss_recovered_zero.value == 0


def test_one_program_per_kind_of_replacement_serves_all_saes():
  losses.clear_cache()
  for seed in range(3):
    mean = np.full(D, seed, np.float32)
    measure_fidelity(run, [make_batch()], make_sae(seed), mean=mean)
  # None, reconstructions, ablations.
  assert losses._cache_size() == 3


def test_replacements_keep_the_dtype_of_activations():
  x = jax.ShapeDtypeStruct((2, 3, D), jnp.bfloat16)
  for replace in (Reconstruct(make_sae().weights()), Ablate(jnp.ones(D))):
    y = jax.eval_shape(replace, x)
    assert (y.dtype, y.shape) == (x.dtype, x.shape)


def test_the_error_of_rows_of_one_length_is_that_of_their_means():
  rng = np.random.default_rng(3)
  difference = rng.standard_normal((20, 8)) + rng.standard_normal((20, 1))
  got = ratio_estimate(difference.sum(axis=1), np.full(20, 8))
  means = difference.mean(axis=1)
  np.testing.assert_allclose(got.value, means.mean())
  np.testing.assert_allclose(got.standard_error, stats.sem(means))
  low, high = stats.t.interval(0.95, 19, means.mean(), stats.sem(means))
  np.testing.assert_allclose((got.low, got.high), (low, high))


def test_the_error_of_rows_of_any_length_is_the_cluster_robust_one():
  rng = np.random.default_rng(4)
  lengths = rng.integers(1, 30, 15)
  rows = [rng.standard_normal(n) + rng.standard_normal() for n in lengths]
  got = ratio_estimate(np.array([row.sum() for row in rows]), lengths)
  # Regression on a constant, the sandwich written out over tokens.
  y, cluster = np.concatenate(rows), np.repeat(np.arange(15), lengths)
  X = np.ones((len(y), 1))
  bread = np.linalg.inv(X.T @ X)
  residual = y - X @ (bread @ X.T @ y)
  scores = [X[cluster == c].T @ residual[cluster == c] for c in range(15)]
  meat = sum(np.outer(score, score) for score in scores)
  variance = 15 / 14 * bread @ meat @ bread
  np.testing.assert_allclose(got.standard_error, np.sqrt(variance[0, 0]))


def test_the_error_of_a_recovered_share_is_near_that_of_the_jackknife():
  rng = np.random.default_rng(5)
  below = rng.gamma(20, size=200)
  above = 0.9 * below + rng.standard_normal(200)
  got = ratio_estimate(above, below)
  left_out = [
    np.delete(above, i).sum() / np.delete(below, i).sum() for i in range(200)
  ]
  jackknife = np.sqrt(199 / 200 * ((left_out - np.mean(left_out)) ** 2).sum())
  np.testing.assert_allclose(got.standard_error, jackknife, rtol=0.02)


def test_intervals_cover_the_truth_as_often_as_they_say():
  rng = np.random.default_rng(6)
  hits = 0
  for _ in range(1000):
    lengths = rng.integers(5, 15, 12)
    sums = 0.3 * lengths + rng.standard_normal(12) * lengths**0.5
    got = ratio_estimate(sums, lengths)
    hits += got.low < 0.3 < got.high
  assert 925 <= hits <= 970


def test_rows_without_a_loss_that_counts_are_no_sequences():
  x, targets, spliced, counts = make_batch()
  none = counts.copy()
  none[1] = False
  got = measure_fidelity(run, [(x, targets, spliced, none)], make_sae())
  assert (got.num_sequences, got.tokens[1]) == (2, 0)
  whole = measure_fidelity(run, [(x, targets, spliced, counts)], make_sae())
  sums = np.delete(whole.losses['clean'], 1)
  want = ratio_estimate(sums, np.delete(whole.tokens, 1))
  assert got.clean_loss == want


def test_what_is_not_defined_is_none_in_json():
  # Zero ablation of zeros: nothing to recover. One row: no error.
  x, targets, spliced, counts = make_batch()
  counts = counts & (np.arange(3) == 2)[:, None]
  batch = (np.where(spliced[..., None], 0, x), targets, spliced, counts)
  got = measure_fidelity(run, [batch], make_sae())
  assert got.num_sequences == 1 and np.isnan(got.loss_recovered_zero.value)
  loaded = json.loads(json.dumps(got.to_dict(), allow_nan=False))
  assert loaded['loss_recovered_zero']['value'] is None
  assert loaded['delta_loss']['value'] == got.delta_loss.value != 0
  assert loaded['delta_loss']['standard_error'] is None
  assert loaded['confidence'] == fidelity.CONFIDENCE


def test_several_saes_share_the_clean_run():
  calls = []

  def counted(batch, replace):
    calls.append(replace)
    return run(batch, replace)

  batches = [make_batch(seed=seed) for seed in range(2)]
  saes = {f'sae {seed}': make_sae(seed) for seed in range(3)}
  tokens, sums = sequence_losses(
    counted,
    iter(batches),
    {'clean': None}
    | {name: Reconstruct(sae.weights()) for name, sae in saes.items()},
  )
  assert len(calls) == 8 and calls.count(None) == 2
  for name, sae in saes.items():
    alone = measure_fidelity(run, batches, sae)
    np.testing.assert_array_equal(sums[name], alone.losses['spliced'])
    np.testing.assert_array_equal(tokens, alone.tokens)


def test_wrong_input_is_refused():
  sae, batch = make_sae(), make_batch()
  with pytest.raises(ValueError, match='no batch was given'):
    measure_fidelity(run, iter([]), sae)
  none = (*batch[:3], np.zeros_like(batch[3]))
  with pytest.raises(ValueError, match='no loss counts in 2 batches'):
    measure_fidelity(run, [none, none], sae)
  with pytest.raises(ValueError, match=r'\(4,\), expected \(5,\)'):
    measure_fidelity(run, [batch], sae, mean=np.ones(4))
  with pytest.raises(ValueError, match='name at least one'):
    sequence_losses(run, [batch], {})
  # The target of BOS counts, and BOS is beyond float32 once squared.
  bad = (*batch[:3], np.ones_like(batch[3]))
  with pytest.raises(ValueError, match="batch 1 .*'clean'.* is nan"):
    measure_fidelity(run, [batch, bad], sae)

  def moving(batch, replace):
    values, counts = run(batch, replace)
    return values, counts if replace is None else np.zeros_like(counts)

  with pytest.raises(ValueError, match="'spliced'.* other losses"):
    measure_fidelity(moving, [batch], sae)

  def summed(batch, replace):
    values, counts = run(batch, replace)
    return values.sum(), counts

  with pytest.raises(ValueError, match=r'losses \(\)'):
    measure_fidelity(summed, [batch], sae)
  integers = lambda batch, replace: (
    run(batch, replace)[0],
    batch[3].astype(np.int32),
  )
  with pytest.raises(ValueError, match='mask int32'):
    measure_fidelity(integers, [batch], sae)
