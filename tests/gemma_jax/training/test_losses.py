"""Losses and their gradients are those of torch, and closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import gemma_jax as gj
from gemma_jax.training import (
  as_model,
  completion_loss,
  completion_sums,
  dpo_loss,
  next_token_loss,
  pack,
  pack_pairs,
  sequence_logprobs,
)
from gemma_jax.weights import BLOCK_LETTERS
from tests import tiny
from tests.gemma_jax.training.examples import random_examples

FAMILIES = ['llama', 'gemma2']


def pair(seed=0, family='gemma2'):
  """Two layers, one of them local in Gemma 2: programs compile faster."""
  return tiny.pair(seed, family, num_hidden_layers=2)


def hf_logits(hf, rows):
  """HF's logits of rows padded on the right, with gradients."""
  return hf(
    torch.tensor(rows.tokens).long(),
    attention_mask=torch.tensor(rows.positions >= 0).long(),
    use_cache=False,
  ).logits


def hf_logprobs(hf, rows):
  """log p(completion | prompt) of every row, by torch alone."""
  logprobs = torch.log_softmax(hf_logits(hf, rows)[:, :-1].double(), -1)
  tokens = torch.tensor(rows.tokens).long()[:, 1:, None]
  each = logprobs.gather(-1, tokens)[..., 0]
  return (each * torch.tensor(rows.learnt[:, 1:])).sum(1)


def check_gradients(gradient, hf):
  """Of attention and MLP matrices, a norm and the embedding."""
  modules = dict(hf.named_parameters())
  for name, path in {
    'wq': 'self_attn.q_proj',
    'wo': 'self_attn.o_proj',
    'down': 'mlp.down_proj',
    'pre_attn_norm': 'input_layernorm',
  }.items():
    for layer in (0, 1):
      want = modules[f'model.layers.{layer}.{path}.weight'].grad.numpy()
      got = np.asarray(gradient[name][layer]).reshape(want.shape)
      np.testing.assert_allclose(got, want, atol=1e-5, rtol=1e-3)
      assert np.abs(want).max() > 1e-4
  want = modules['model.embed_tokens.weight'].grad.numpy()
  np.testing.assert_allclose(gradient['embed'], want, atol=1e-5, rtol=1e-3)


@pytest.mark.parametrize('family', FAMILIES)
def test_a_step_of_supervised_tuning_is_that_of_hf(family):
  """Labels of -100 on prompts and padding; the same loss, from packed rows."""
  hf, model = pair(family=family)
  examples = random_examples(6)
  rows = pack(examples, 16, pad_id=0, pack=False)
  labels = torch.tensor(np.where(rows.learnt, rows.tokens, -100)).long()
  hf.zero_grad()
  want = hf(
    torch.tensor(rows.tokens).long(),
    attention_mask=torch.tensor(rows.positions >= 0).long(),
    labels=labels,
    use_cache=False,
  ).loss
  want.backward()

  @jax.jit
  def loss(weights, batch):
    return jax.value_and_grad(
      lambda w: completion_loss(as_model(w, model.config), batch)
    )(weights)

  for batch in (rows, pack(examples, 32, pad_id=0)):
    got, gradient = loss(model.weights(), batch)
    assert float(got) == pytest.approx(want.item(), rel=1e-5)
    check_gradients(gradient, hf)
  hf.zero_grad()


def test_logits_at_learnt_places_give_what_all_logits_give():
  model = pair()[1]
  rows = pack(random_examples(7), 16, pad_id=0, pack=False)
  sparse = jax.grad(lambda w: completion_loss(as_model(w, model.config), rows))
  dense = jax.grad(
    lambda w: next_token_loss(
      w, model.config, rows.tokens, rows.learnt, rows.positions
    )
  )
  a, b = (jax.jit(grad)(model.weights()) for grad in (sparse, dense))
  for name in a:
    np.testing.assert_allclose(a[name], b[name], atol=1e-6, rtol=1e-4)


def test_weights_are_of_examples():
  """A weight of 3 is the example three times; of 0, it is not there."""
  model = pair()[1]
  first, second, third = random_examples(3)
  weighted = pack(
    [first, second._replace(weight=3.0), third._replace(weight=0.0)], 16, 0
  )
  repeated = pack([first, second, second, second], 16, 0, pack=False)
  loss = jax.jit(completion_loss)
  assert float(loss(model, weighted)) == pytest.approx(
    float(loss(model, repeated)), rel=1e-5
  )
  total, count = jax.jit(completion_sums)(model, weighted)
  assert count == len(first.completion) + 3 * len(second.completion)
  assert float(total / count) == float(loss(model, weighted))


def test_remat_changes_nothing():
  model = pair()[1]
  rows = pack(random_examples(4), 32, pad_id=0)

  def gradient(remat):
    def loss(weights):
      stacked = gj.Decoder(model.config, weights)
      return completion_loss(stacked, rows, remat=remat)

    return jax.jit(jax.grad(loss))(model.weights())['wv']

  np.testing.assert_allclose(gradient(False), gradient(True), atol=1e-6)


def test_bfloat16_computes_in_it_and_returns_float32_gradients():
  model = pair()[1]
  rows = pack(random_examples(6), 32, pad_id=0)

  @jax.jit
  @jax.value_and_grad
  def loss(weights):
    half = as_model(weights, model.config, jnp.bfloat16)
    assert half.dtype == jnp.bfloat16
    return completion_loss(half, rows)

  value, gradient = loss(model.weights())
  want = float(jax.jit(completion_loss)(model, rows))
  assert 0 < abs(float(value) - want) < 0.02 * want
  assert {str(g.dtype) for g in gradient.values()} == {'float32'}


@pytest.mark.parametrize('family', FAMILIES)
def test_dpo_is_that_of_torch(family):
  hf, model = pair(family=family)
  reference = pair(1, family)
  examples = random_examples(5)
  worse = [e._replace(completion=[7, 8, *e.completion]) for e in examples]
  pairs = pack_pairs(examples, worse, 20, pad_id=0)
  with torch.no_grad():
    held = [hf_logprobs(reference[0], rows) for rows in pairs]
  ours = [jax.jit(sequence_logprobs)(reference[1], rows) for rows in pairs]
  for a, b in zip(ours, held, strict=True):
    np.testing.assert_allclose(a, b.numpy(), atol=2e-4)
  hf.zero_grad()
  good, bad = (hf_logprobs(hf, rows) for rows in pairs)
  ratio = 0.3 * ((good - held[0]) - (bad - held[1]))
  want = torch.log(1 + torch.exp(-ratio)).mean()
  want.backward()

  @jax.jit
  def loss(weights):
    policy = as_model(weights, model.config)
    return dpo_loss(policy, tuple(ours), pairs, beta=0.3)

  got, gradient = jax.value_and_grad(loss)(model.weights())
  assert float(got) == pytest.approx(want.item(), rel=1e-5)
  # The loss is of order 1 and gradients too: 1e-5 of that.
  path = dict(hf.named_parameters())
  for layer in (0, 1):
    want = path[f'model.layers.{layer}.self_attn.v_proj.weight'].grad.numpy()
    found = np.asarray(gradient['wv'][layer]).reshape(want.shape)
    error = np.linalg.norm(found - want) / np.linalg.norm(want)
    assert error < 1e-4
  hf.zero_grad()


def test_dpo_in_closed_form():
  """log 2 where the policy is the reference; saturated ones stay finite."""
  model = pair()[1]
  examples = random_examples(3)
  worse = [e._replace(completion=[7, *e.completion]) for e in examples]
  pairs = pack_pairs(examples, worse, 20, pad_id=0)
  logprobs = jax.jit(sequence_logprobs)
  held = tuple(logprobs(model, rows) for rows in pairs)
  loss = jax.jit(dpo_loss)
  assert float(loss(model, held, pairs)) == pytest.approx(np.log(2))
  for shift in (-1e5, 1e5):
    got = loss(model, (held[0] + shift, held[1]), pairs)
    assert float(got) == pytest.approx(max(0.0, 0.1 * shift), rel=1e-3)


def test_a_model_without_all_layers_is_refused():
  model = pair()[1]
  weights = {
    name: array[:1] if name in BLOCK_LETTERS else array
    for name, array in model.weights().items()
  }
  short = gj.Decoder(model.config.truncated(1), weights)
  with pytest.raises(ValueError, match='1 of 2 layers'):
    completion_loss(short, pack(random_examples(2), 16, 0))


def test_next_token_loss_is_that_of_the_logits():
  model = pair()[1]
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
