"""Losses with a site replaced are HF's with a hook that replaces it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from experiments.sae_training import splicing
from experiments.sae_training.splicing import (
  Splicer,
  losses_that_count,
  own_gradients,
)
from experiments.sae_training.token_activations import Batch, read_batch
import gemma_jax as gj
from sae.jumprelu import JumpReLUSAE, Origin, Weights
from sae.metrics.fidelity import Ablate, measure_fidelity
from tests import tiny
from tests.experiments import worlds
from tests.gemma_jax.hf_hooks import hooked

SITES = [('resid_post', 2), ('z', 1), ('mlp_out', 3), ('resid_post', 4)]


@pytest.fixture(scope='module')
def batch(tmp_path_factory):
  """Rows of different lengths with EOS inside; the last one is empty."""
  texts = ['the player <eos> was born in art', 'Paris', *worlds.texts(2)]
  rows = worlds.write(tmp_path_factory.mktemp('rows') / 'rows', texts)
  some = read_batch(rows, 0, 6, stop=5)
  assert not some.keep[-1].any() and (some.positions[-2] >= 0).any()
  return some


def random_sae(width, layer, site='resid_post', F=16, seed=0):
  rng = np.random.default_rng(seed)
  W_dec = rng.standard_normal((F, width)).astype(np.float32)
  W_dec /= np.linalg.norm(W_dec, axis=1, keepdims=True)
  weights = Weights(
    W_enc=jnp.asarray(W_dec.T),
    W_dec=jnp.asarray(W_dec),
    b_enc=jnp.asarray(rng.standard_normal(F).astype(np.float32)),
    b_dec=jnp.asarray(rng.standard_normal(width).astype(np.float32)),
    threshold=jnp.full(F, 0.3),
  )
  return JumpReLUSAE(weights, Origin(site=site, layer=layer))


def hf_losses(batch, changes):
  """Sum of losses that count, per row, by HF and torch."""
  hf, _ = tiny.pair(vocab_size=worlds.VOCABULARY)
  with hooked(hf, changes):
    logits = tiny.hf_forward(hf, batch.tokens, batch.positions).logits
  targets = torch.tensor(np.roll(batch.tokens, -1, axis=1)).long()
  losses = torch.nn.functional.cross_entropy(
    logits.flatten(0, 1).float(), targets.flatten(), reduction='none'
  ).reshape(targets.shape)
  return (losses.numpy() * losses_that_count(batch)).sum(axis=1)


def test_which_losses_count():
  tokens = np.array([[2, 5, 6, 1, 7, 0], [2, 5, 6, 7, 8, 9]], np.int32)
  positions = np.array([[0, 1, 2, 3, 4, -1], [0, 1, 2, 3, 4, 5]], np.int32)
  keep = (positions >= 0) & (tokens > 2)
  got = losses_that_count(Batch(tokens, positions, keep))
  np.testing.assert_array_equal(got, [[0, 1, 0, 0, 0, 0], [0, 1, 1, 1, 1, 0]])


@pytest.mark.parametrize('site, layer', SITES[:2])
def test_identity_changes_no_bit(batch, site, layer):
  splicer = Splicer(worlds.model(), site, [layer])
  clean = splicer.losses(batch, layer, None)
  same = splicer.losses(batch, layer, jax.tree_util.Partial(lambda x: x))
  np.testing.assert_array_equal(clean, same)


@pytest.mark.parametrize('site, layer', SITES)
def test_reconstruction_equals_hf(batch, site, layer):
  model = worlds.model()
  sae = random_sae(gj.site_width(model.config, site), layer, site)
  keep = torch.tensor(batch.keep)[..., None]

  def swap(x):
    y = torch.tensor(np.asarray(sae(jnp.asarray(x.numpy()))))
    return torch.where(keep, y, x)

  clean = hf_losses(batch, [])
  spliced = hf_losses(batch, [(site, layer, swap)])
  run = Splicer(model, site, [layer]).runner(layer)
  found = measure_fidelity(run, [batch], sae)
  np.testing.assert_allclose(found.losses['clean'], clean, rtol=1e-5)
  np.testing.assert_allclose(found.losses['spliced'], spliced, rtol=1e-5)
  n = losses_that_count(batch).sum()
  assert found.num_tokens == n and found.num_sequences == 5
  expected = (spliced - clean).sum() / n
  assert abs(expected) > 0.001
  np.testing.assert_allclose(found.delta_loss.value, expected, rtol=1e-3)


def test_zero_ablation_equals_a_patch(batch):
  """One position after another, without slots."""
  model = worlds.model()
  splicer = Splicer(model, 'resid_post', [2])
  got = splicer.losses(batch, 2, Ablate(jnp.zeros(40)))
  # Columns are positions: padding is on the right.
  patch = gj.patch(
    'resid_post', 0.0, layers=2, positions=gj.per_row(batch.keep)
  )
  out = gj.run(
    model,
    batch.tokens,
    batch.positions,
    interventions=[patch],
    logits_at='all',
  )
  losses = -jax.nn.log_softmax(out.logits)
  targets = np.roll(batch.tokens, -1, axis=1)[..., None]
  expected = jnp.take_along_axis(losses, targets, axis=2)[..., 0]
  counts = losses_that_count(batch)
  np.testing.assert_allclose(
    np.asarray(got)[counts], np.asarray(expected)[counts], rtol=2e-6
  )


def test_clean_run_is_shared(batch, monkeypatch):
  calls = []
  run = gj.run
  monkeypatch.setattr(
    splicing.gj, 'run', lambda *a, **k: calls.append(1) or run(*a, **k)
  )
  splicer = Splicer(worlds.model(), 'resid_post', [1, 3])
  zero = Ablate(jnp.zeros(40))
  for layer, replace in [(1, None), (1, zero), (3, zero), (3, None)]:
    splicer.losses(batch, layer, replace)
  assert len(calls) == 3


@pytest.mark.parametrize('site, layers', [('resid_post', [1, 3])])
def test_own_gradients_equal_autograd(batch, site, layers):
  """torch's gradient of one token's centred logit, with respect to the site."""
  hf, _ = tiny.pair(vocab_size=worlds.VOCABULARY)
  at = np.array([1, -1, 3, 2, 1, -1], np.int32)
  x, gradient = own_gradients(worlds.model(), site, layers, batch, at)
  assert not np.asarray(gradient)[:, at < 0].any()
  for s, layer in enumerate(layers):
    seen = []

    def watch(x, seen=seen):
      x = x.detach().requires_grad_()
      seen[:] = [x]
      return x

    with hooked(hf, [(site, layer, watch)]):
      logits = hf(
        torch.tensor(batch.tokens).long(),
        attention_mask=torch.tensor(batch.positions >= 0).long(),
        position_ids=torch.tensor(np.maximum(batch.positions, 0)).long(),
        use_cache=False,
      ).logits
    for row in np.flatnonzero(at >= 0):
      t = at[row]
      own = logits[row, t]
      value = own[batch.tokens[row, t + 1]] - own.mean()
      (grad,) = torch.autograd.grad(value, seen[0], retain_graph=True)
      expected = grad[row, t].numpy()
      np.testing.assert_allclose(
        np.asarray(gradient)[s, row],
        expected,
        atol=2e-5 * np.abs(expected).max(),
      )
      np.testing.assert_allclose(
        np.asarray(x)[s, row],
        seen[0][row, t].detach().numpy(),
        atol=1e-5 * np.abs(np.asarray(x)).max(),
      )


def test_a_truncated_model_is_refused():
  model = worlds.model()
  model.config = model.config.truncated(3)
  with pytest.raises(ValueError, match='all 5 layers'):
    Splicer(model, 'resid_post', [1])
