"""Parts of logits, losses and divergences, against PyTorch on the HF model."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import gemma_jax as gj
from tests import tiny

# Post-norms; no post-norm; LayerNorm and biases; untied.
FAMILIES = ('gemma2', 'gemma', 'gpt2', 'llama')


@pytest.fixture(scope='module', params=FAMILIES)
def case(request):
  """HF's model without a final soft cap, ours, a batch and a run of it."""
  cap = {'final_logit_softcapping': None}
  hf, model = tiny.pair(
    0, request.param, **(cap if request.param == 'gemma2' else {})
  )
  tokens, positions = tiny.ragged(3, 7, 'right')
  out = gj.run(
    model,
    tokens,
    positions,
    capture=gj.capture(*gj.PART_SITES, positions='last'),
    logits_at='last',
  )
  return hf, model, tokens, positions, out


def test_parts_add_up_to_hfs_logits(case):
  hf, model, tokens, positions, _ = case
  out = case[-1]
  answer, other = np.array([5, 9, 11]), np.array([6, 3, 90])
  parts = gj.direct_logit_attribution(model, out, answer, minus=other)
  logits = tiny.hf_forward(hf, tokens, positions).logits.double().numpy()
  rows, last = np.arange(3), positions.max(1)
  want = logits[rows, last, answer] - logits[rows, last, other]
  np.testing.assert_allclose(parts.sum[:, 0], want, atol=2e-5)
  np.testing.assert_allclose(parts.logit[:, 0], want, atol=2e-5)
  assert np.abs(parts.heads).max() > 0.01 and np.abs(parts.mlps).max() > 0.01


def test_a_heads_part_is_its_output_through_hfs_matrices(case):
  """Every head of a layer, by hand in float64, from HF's own activations."""
  hf, model, tokens, positions, out = case
  config, layer, answer = model.config, 2, np.array([5, 9, 11])
  family = gj.FAMILIES[config.family]
  block = hf.get_submodule(family.layers)[layer]
  project = block.get_submodule(family.modules['z'].rpartition('.')[0])
  seen = {}
  handles = [
    project.register_forward_hook(
      lambda m, args, y: seen.update(z=args[0], raw=y)
    ),
    hf.get_output_embeddings().register_forward_pre_hook(
      lambda m, args: seen.update(final=args[0])
    ),
  ]
  parts = gj.direct_logit_attribution(model, out, answer)
  H = config.head_dim
  for row in range(3):
    tiny.hf_forward(hf, tokens[[row]], positions[[row]])
    last = positions[row].max()
    z, raw = (seen[k][0, last].double() for k in ('z', 'raw'))
    stream = out['resid_post', config.num_layers - 1][row, 0]
    x = torch.tensor(np.asarray(stream, np.float64), requires_grad=True)
    # The final norm with its scale held, as torch's own linear map.
    final = hf.get_submodule(family.layers.rpartition('.')[0])
    norm = getattr(final, {'gpt2': 'ln_f'}.get(config.family, 'norm'))
    gain = norm.weight.double() + config.norm_offset
    centred = x - x.mean() if config.norm == 'layer' else x
    scale = (centred.square().mean() + config.norm_eps).sqrt().detach()
    row_of = hf.get_output_embeddings().weight[answer[row]].double()
    (centred * gain / scale * row_of).sum().backward()
    weight = project.weight.double()
    weight = weight.T if config.family == 'gpt2' else weight
    for n in range(config.num_heads):
      added = weight[:, n * H : (n + 1) * H] @ z[n * H : (n + 1) * H]
      if config.post_norms:
        post = block.post_attention_layernorm
        added = added / (raw.square().mean() + post.eps).sqrt()
        added = added * (1 + post.weight.double())
      np.testing.assert_allclose(
        parts.heads[row, 0, layer, n],
        float((added @ x.grad).detach()),
        atol=2e-5,
      )
  for handle in handles:
    handle.remove()


def test_the_logit_lens_of_the_last_layer_is_the_logits(case):
  model, out = case[1], case[-1]
  last = out['resid_post', model.config.num_layers - 1]
  np.testing.assert_allclose(gj.logit_lens(model, last), out.logits, atol=1e-5)
  some = np.array([[[3, 5]]] * 3)
  np.testing.assert_allclose(
    gj.logit_lens(model, last, some), out.logits[:, :, [3, 5]], atol=1e-5
  )


def test_to_vocabulary_is_what_adding_a_vector_does(case):
  """With the scale held: the difference quotient of the final norm's logits."""
  model, out = case[1], case[-1]
  config = model.config
  stream = np.asarray(out['resid_post', config.num_layers - 1], np.float64)
  v = np.random.default_rng(0).standard_normal(config.d_model)
  scale = gj.norm_scale(config, stream)
  got = gj.to_vocabulary(model, np.broadcast_to(v, stream.shape), scale=scale)
  everything = np.arange(config.vocab_size)
  directions = gj.readout(model, everything)  # [V, D]
  want = v @ directions.T / scale[..., None]
  np.testing.assert_allclose(got, want, atol=1e-5)
  plain = gj.to_vocabulary(model, v, gain=False)
  np.testing.assert_allclose(
    plain, v @ np.asarray(model.unembedding).T, atol=1e-4
  )


def test_losses_are_hfs(case):
  hf, model, tokens, positions, _ = case
  out = gj.run(
    model,
    tokens,
    positions,
    capture=gj.capture('resid_post', layers=model.config.num_layers - 1),
  )
  losses = np.asarray(gj.token_losses(model, out['resid_post'][0], tokens))
  logits = tiny.hf_forward(hf, tokens, positions).logits
  log_p = torch.log_softmax(logits, -1).numpy()
  for row in range(3):
    for t in range(positions[row].max()):
      want = -log_p[row, t, tokens[row, t + 1]]
      np.testing.assert_allclose(losses[row, t], want, atol=2e-5)


def test_kl_is_torchs_and_0_of_equal_streams(case, monkeypatch):
  hf, model, tokens, positions, _ = case
  look = gj.capture('resid_post', layers=model.config.num_layers - 1)
  push = np.full(model.config.d_model, 0.5)
  push[::2] = -1.0
  changes = [gj.steer('resid_post', push, layers=1)]
  x, y = (
    gj.run(model, tokens, positions, capture=look, interventions=some)[
      'resid_post'
    ][0]
    for some in ([], changes)
  )
  # Pieces that do not divide the number of tokens.
  monkeypatch.setattr(gj.attribution, 'LOGITS_BYTES', 4 * 97 * 4)
  got = gj.kl_divergence(model, x, y)
  p, q = (
    torch.log_softmax(torch.tensor(np.asarray(gj.unembed(model, each))), -1)
    for each in (x, y)
  )
  want = (p.exp() * (p - q)).sum(-1).numpy()
  np.testing.assert_allclose(got, want, atol=1e-5)
  assert np.asarray(got).max() > 1e-3
  np.testing.assert_array_equal(gj.kl_divergence(model, x, x), 0)


def test_what_does_not_fit_is_refused(case):
  model, tokens, positions = case[1], case[2], case[3]
  some = gj.run(model, tokens, positions, capture=gj.capture('resid_post'))
  with pytest.raises(KeyError, match="'resid_pre' was not captured"):
    gj.direct_logit_attribution(model, some, 5)
  few = gj.run(
    model,
    tokens,
    positions,
    capture=gj.capture(*gj.PART_SITES, layers=[1, 2], positions='last'),
  )
  with pytest.raises(ValueError, match=r'all 5 layers; captured are \[1, 2\]'):
    gj.direct_logit_attribution(model, few, 5)
  with pytest.raises(ValueError, match=r'expected \[..., 40\]'):
    gj.to_vocabulary(model, np.ones(41))
  with pytest.raises(ValueError, match=r'tokens have shape \(2,\)'):
    gj.direct_logit_attribution(model, case[-1], [1, 2])


def test_bfloat16_streams_are_taken_apart_too():
  model = tiny.ours(jnp.bfloat16, family='llama')
  tokens, positions = tiny.ragged(2, 6, 'left')
  out = gj.run(
    model,
    tokens,
    positions,
    capture=gj.capture(*gj.PART_SITES, positions='last'),
  )
  parts = gj.direct_logit_attribution(model, out, 7)
  assert np.isfinite(parts.sum).all()
  # Activations are rounded to 8 bits, so parts add up to that.
  np.testing.assert_allclose(parts.sum, parts.logit, atol=0.1)
  assert jax.tree.leaves(model)[0].dtype == jnp.bfloat16
