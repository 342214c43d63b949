"""The forward pass: parity with HF, padding, capture, chunks, gradients."""

import dataclasses
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gemma_jax as gj
from gemma_jax import layers
from tests import tiny
from tests.gemma_jax.parity import CASES, assert_equals_hf


@pytest.mark.parametrize(
  'family, case',
  [('gemma2', case) for case in CASES['gemma2']]
  + [(f, next(iter(CASES[f]))) for f in CASES if f != 'gemma2'],
)
def test_logits_and_all_sites_equal_hf(family, case):
  """Ragged prompts, one of a single token, padded on either side.

  Compiled as users run it; `test_families.py` has the other cases.
  """
  assert_equals_hf(family, case)


@pytest.mark.parametrize('dtype', [np.float32, jnp.bfloat16])
@pytest.mark.parametrize('side', ['left', 'right'])
def test_a_row_gives_the_same_alone_and_in_any_batch(side, dtype):
  model = tiny.ours(dtype)
  tokens, positions = tiny.ragged(5, 17, side)
  everything = np.asarray(
    gj.run(model, tokens, positions, logits_at='all').logits
  )
  assert np.isfinite(everything).all(), 'fully masked rows stay finite'
  for row in range(5):
    real = positions[row] >= 0
    alone = gj.run(model, tokens[row, real][None], logits_at='all').logits[0]
    tolerance = 1e-5 if dtype == np.float32 else 0.06
    np.testing.assert_allclose(everything[row, real], alone, atol=tolerance)


def test_padding_stays_the_embedding():
  model = tiny.pair()[1]
  tokens, positions = tiny.ragged(4, 9, 'left')
  out = gj.run(model, tokens, positions, capture=gj.capture('resid_post'))
  pads = positions < 0
  for layer in range(5):
    np.testing.assert_array_equal(
      np.asarray(out.activations['resid_post'][layer])[pads],
      np.asarray(gj.embed(model, tokens))[pads],
    )


@pytest.mark.parametrize('chunk', [1, 7, 16])
def test_chunks_of_queries_change_nothing(chunk):
  model = tiny.pair()[1]
  tokens, positions = tiny.ragged(3, 40, 'left')
  ask = {'logits_at': 'all', 'capture': gj.capture('z', 'pattern')}
  whole = gj.run(model, tokens, positions, **ask)
  parts = gj.run(model, tokens, positions, query_chunk=chunk, **ask)
  for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(parts), strict=True):
    np.testing.assert_allclose(a, b, atol=5e-5)


def shapes_2b(num_layers):
  """A 2B-shaped model as shapes only."""
  config = gj.preset('gemma-2-2b').truncated(num_layers)
  config = dataclasses.replace(config, truncated_from=None)
  return jax.eval_shape(lambda: gj.init_model(config, jax.random.key(0)))


@pytest.mark.parametrize('grad', [False, True])
def test_long_contexts_never_hold_all_scores(grad):
  """T = 8192 at 2B's shape: no array has half as many entries as [N, T, S].

  Forward, and the gradient with respect to a steering coefficient.
  """
  model = shapes_2b(2)
  T, N = 8192, model.config.num_heads
  tokens = jax.ShapeDtypeStruct((1, T), jnp.int32)

  def last_logit(model, tokens, coefficient):
    edit = gj.steer(
      'resid_post', jnp.ones(2304), layers=0, coefficient=coefficient
    )
    return gj.forward(
      model,
      tokens,
      interventions=[edit],
      logits_at=jnp.full((1, 1), T - 1),
      remat=grad,
    ).logits[0, 0, 0]

  function = jax.grad(last_logit, argnums=2) if grad else last_logit
  compiled = jax.jit(function).lower(model, tokens, jnp.float32(1)).compile()
  shapes = re.findall(r'(?:f32|bf16|pred)\[([\d,]+)\]', compiled.as_text())
  sizes = {shape: math.prod(map(int, shape.split(','))) for shape in shapes}
  embedding = f'{model.config.vocab_size},{model.config.d_model}'
  largest = max(
    (size, shape) for shape, size in sizes.items() if shape != embedding
  )
  # Neither at once nor stacked chunk by chunk.
  assert largest[0] < N * T * T / 2, largest


def test_logits_only_where_asked():
  model = tiny.pair()[1]
  tokens, positions = tiny.ragged(4, 9, 'left')
  everywhere = gj.run(model, tokens, positions, logits_at='all').logits
  at = np.array([[8, 0], [0, -1], [1, 0], [-1, 1]])
  some = np.asarray(
    gj.run(model, tokens, positions, logits_at=gj.per_row(at)).logits
  )
  for row in range(4):
    for slot, position in enumerate(at[row]):
      if position < 0:
        assert not some[row, slot].any()
      else:
        place = np.flatnonzero(positions[row] == position)[0]
        np.testing.assert_allclose(
          some[row, slot], everywhere[row, place], atol=1e-5
        )
  last = gj.run(model, tokens, positions, logits_at='last').logits[:, 0]
  np.testing.assert_allclose(last, everywhere[:, -1], atol=1e-5)
  both = gj.run(model, tokens, positions, logits_at=[0, 8]).logits
  np.testing.assert_allclose(both[0], everywhere[0, [0, 8]], atol=1e-5)
  assert gj.run(model, tokens, positions).logits is None


def test_capture_at_positions_equals_a_gather():
  model = tiny.pair()[1]
  tokens, positions = tiny.ragged(4, 9, 'left')
  whole = gj.run(model, tokens, positions, capture=gj.capture(*gj.SITES))
  at = np.array([[3, 8], [0, -1], [1, 0], [0, 1]])
  some = gj.run(
    model,
    tokens,
    positions,
    capture=gj.capture(*gj.SITES, positions=gj.per_row(at)),
  )
  for site in gj.SITES:
    full = np.asarray(whole.activations[site])
    part = np.asarray(some.activations[site])
    if site in ('pattern', 'attn_logits'):
      full, part = np.moveaxis(full, 2, 3), np.moveaxis(part, 2, 3)
    for row in range(4):
      for slot, position in enumerate(at[row]):
        got = part[:, row, slot]
        if position < 0:
          assert not got.any()
        else:
          place = np.flatnonzero(positions[row] == position)[0]
          np.testing.assert_allclose(got, full[:, row, place], atol=1e-5)


@pytest.mark.parametrize('stacked', [True, False])
def test_fewer_layers_give_the_same_streams(stacked):
  model = tiny.pair()[1]
  model = model if stacked else gj.unstack_layers(model)
  tokens, positions = tiny.ragged(3, 9, 'left')
  whole = gj.run(model, tokens, positions, capture=gj.capture('resid_post'))
  some = gj.run(
    model,
    tokens,
    positions,
    capture=gj.capture('resid_post', layers=[2, 0]),
  )
  assert some['resid_post'].shape[0] == 2
  for slot, layer in enumerate((2, 0)):
    np.testing.assert_allclose(
      some.activations['resid_post'][slot],
      whole.activations['resid_post'][layer],
      atol=1e-6,
    )


def test_unstacked_layers_give_the_same_numbers():
  model = tiny.pair()[1]
  tokens, positions = tiny.ragged(3, 20, 'right')
  ask = {'logits_at': 'all', 'capture': gj.capture(*gj.SITES, layers=[4, 1])}
  a = gj.run(model, tokens, positions, **ask)
  b = gj.run(gj.unstack_layers(model), tokens, positions, **ask)
  for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
    # As of chunks above; 3e-5 of attention scores near 7 was seen.
    np.testing.assert_allclose(x, y, atol=5e-5)


@pytest.mark.parametrize(
  'policy',
  [
    True,
    pytest.param(
      jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
      marks=pytest.mark.slow,
    ),
  ],
)
def test_rematerialised_gradients(policy):
  """Weights' gradients are those of torch, and remat does not change them."""
  hf, model = tiny.pair()
  tokens, positions = tiny.ragged(2, 12, 'right')

  def loss(model, remat):
    logits = gj.forward(
      model, tokens, positions, logits_at='all', remat=remat
    ).logits
    logp = jax.nn.log_softmax(logits[:, :-1])
    nll = -jnp.take_along_axis(logp, tokens[:, 1:, None], axis=-1)[..., 0]
    return (nll * (positions[:, 1:] >= 0)).sum()

  plain = jax.jit(jax.grad(lambda m: loss(m, False)))(model).weights()
  remat = jax.jit(jax.grad(lambda m: loss(m, policy)))(model).weights()
  for name, gradient in plain.items():
    np.testing.assert_allclose(remat[name], gradient, rtol=1e-4, atol=1e-4)

  import torch

  hf.zero_grad()
  with torch.enable_grad():
    logits = hf(
      torch.tensor(tokens).long(),
      attention_mask=torch.tensor(positions >= 0).long(),
    ).logits
    logp = torch.log_softmax(logits[:, :-1], -1)
    nll = -logp.gather(-1, torch.tensor(tokens[:, 1:, None]).long())[..., 0]
    (nll * torch.tensor(positions[:, 1:] >= 0)).sum().backward()
  got = np.asarray(plain['wq'][3]).reshape(-1, 40)
  want = hf.model.layers[3].self_attn.q_proj.weight.grad.numpy()
  np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3)
  hf.zero_grad()


def test_rms_norm_in_bfloat16_is_rounded_once():
  rng = np.random.default_rng(0)
  x = jnp.asarray(rng.standard_normal((8, 64)), jnp.bfloat16)
  w = jnp.asarray(rng.standard_normal(64) * 0.3, jnp.bfloat16)
  exact = np.asarray(x, np.float64)
  exact = exact / np.sqrt((exact**2).mean(-1, keepdims=True) + 1e-6)
  exact = exact * (1 + np.asarray(w, np.float64))
  got = np.asarray(layers.rms_norm(x, w, 1e-6, 1.0), np.float64)
  # Half a unit in the last place of 8 bits.
  assert (np.abs(got - exact) <= 2.0**-8 * np.abs(exact)).all()


def test_positions_are_not_rounded_in_bfloat16():
  """Position 257 is not a bfloat16 number; its angle must still be its own."""
  frequencies = tiny.pair()[1].config.frequencies[0]
  cos, _ = layers.rotary_angles(jnp.array([[256, 257]]), frequencies)
  np.testing.assert_allclose(cos[0, :, 0, 0], np.cos([256, 257]), atol=1e-4)


@pytest.mark.parametrize(
  'arguments, words',
  [
    ({'tokens': [[3, 97]]}, '97 is outside the vocabulary of 97'),
    ({'tokens': [3, 4]}, r'\[B, T\]'),
    ({'tokens': [[3.0, 4.0]]}, 'integers'),
    ({'tokens': [[3, 4]], 'positions': [[0, 0]]}, 'must increase'),
    ({'tokens': [[3, 4]], 'positions': [[0]]}, r'\(1, 1\)'),
    ({'tokens': [[3, 4]], 'logits_at': [2]}, 'position 2'),
    ({'tokens': [[3, 4]], 'logits_at': -1}, "logits_at='last'"),
    ({'tokens': [[3, 4]], 'logits_at': [0, -1]}, "logits_at='last'"),
    ({'tokens': [[3, 4]], 'logits_at': gj.per_row([[-1]])}, '-1 everywhere'),
    ({'tokens': [[3, 4]], 'logits_at': 'first'}, "word is 'last'"),
    ({'tokens': [[3, 4]], 'logits_at': [[0], [1]]}, 'per_row'),
    ({'tokens': [[3, 4]], 'logits_at': gj.per_row([0, 1])}, '2 rows'),
    (
      {'tokens': [[3, 4]], 'capture': gj.capture('z', layers=5)},
      'layer 5: .*layers 0 to 4',
    ),
    (
      {'tokens': [[3, 4]], 'capture': gj.capture('z', positions=2)},
      'position 2',
    ),
  ],
)
def test_run_refuses(arguments, words):
  with pytest.raises((ValueError, KeyError), match=words):
    gj.run(tiny.pair()[1], **arguments)


def test_forward_with_fewer_layers_has_no_logits():
  model = tiny.pair()[1]
  for num_layers, words in ((6, 'not 6'), (2, 'logit lens')):
    with pytest.raises(ValueError, match=words):
      gj.forward(
        model, np.array([[3, 4]]), num_layers=num_layers, logits_at='all'
      )
  with pytest.raises(ValueError, match='between 1 and'):
    gj.forward(model, np.array([[3, 4]]), num_layers=6)


def test_outputs_are_indexed_by_site_and_layer():
  tokens, positions = tiny.ragged(3, 9, 'left')
  ask = gj.capture('resid_post', 'z', layers=[3, 1])
  out = gj.run(tiny.pair()[1], tokens, positions, capture=ask)
  every = out.activations['resid_post']
  np.testing.assert_array_equal(out['resid_post'], every)
  np.testing.assert_array_equal(out['resid_post', 3], every[0])
  np.testing.assert_array_equal(out['blocks.1.hook_resid_post'], every[1])
  assert np.asarray(out.captured_layers).tolist() == [3, 1]
  np.testing.assert_array_equal(out.captured_at, positions)
  with pytest.raises(KeyError, match=r'layers \[3, 1\], not 2'):
    out['resid_post', 2]
  with pytest.raises(KeyError, match="'mlp_out' was not captured.*resid_post"):
    out['mlp_out', 3]
