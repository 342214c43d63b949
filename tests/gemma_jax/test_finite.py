"""What overflows is refused, not read: generation, runs, interventions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gemma_jax as gj
from tests import tiny

# Its embedding is beyond float16 once scaled, and within it as stored.
HOT = 90


def half(family='gemma2', dtype=jnp.float16):
  """A model whose stream overflows float16 where token HOT is read."""
  # With an unembedding of its own: HOT would be the most likely of all.
  model = tiny.ours(dtype, family=family, tie_word_embeddings=False)
  weights = model.weights()
  weights['embed'] = weights['embed'].at[HOT].set(3e4)
  return gj.Decoder(model.config, weights)


def prompts(*rows):
  return np.array(rows, np.int32)


COLD, WARM = [3, 5, 7, 9], [3, HOT, 7, 9]


@pytest.mark.parametrize('stacked', [True, False])
def test_generation_refuses_a_stream_that_overflows(stacked):
  model = half() if stacked else gj.unstack_layers(half())
  both = prompts(COLD, WARM)
  with pytest.raises(ValueError, match='logits of row 1.*float16.*float32'):
    gj.generate(model, both, max_new_tokens=4, stop_ids=[])
  with pytest.raises(ValueError, match='logits of row 2 .*float16'):
    gj.generate(model, both, max_new_tokens=4, stop_ids=[], samples=2)
  assert gj.generate(model, both[:1], max_new_tokens=4).tokens.shape == (1, 4)
  gj.generate(half(dtype=jnp.bfloat16), both, max_new_tokens=4)


def test_what_overflows_while_decoding_is_refused():
  """The prompts are sound; the steered continuation is not."""
  model = half()
  steer = gj.steer(
    'resid_post',
    np.full(40, 6e4),
    layers=[0, 1],
    positions=gj.since(5),
  )
  with pytest.raises(ValueError, match='logits of row 0 are not finite'):
    gj.generate(
      *(model, prompts(COLD)),
      max_new_tokens=4,
      stop_ids=[],
      interventions=[steer],
    )


def test_a_row_that_has_stopped_does_not_raise():
  """What follows a stop token is not read, whatever is computed there."""
  model = half()
  first = int(gj.generate(model, prompts(COLD), max_new_tokens=1).tokens[0, 0])
  steer = gj.steer(
    'resid_post', np.full(40, 6e4), layers=[0, 1], positions=gj.since(4)
  )
  made = gj.generate(
    *(model, prompts(COLD)),
    max_new_tokens=4,
    stop_ids=[first],
    interventions=[steer],
  )
  assert made.lengths.tolist() == [1]


@pytest.mark.parametrize('side', ['left', 'right'])
@pytest.mark.parametrize('logits_at', ['last', 'all'])
def test_padding_that_overflows_does_not_raise(side, logits_at):
  model = half()
  row = [HOT, *COLD] if side == 'left' else [*COLD, HOT]
  at = [-1, 0, 1, 2, 3] if side == 'left' else [0, 1, 2, 3, -1]
  padded = prompts(row), prompts(at)
  out = gj.run(model, *padded, logits_at=logits_at)
  alone = gj.run(model, prompts(COLD), logits_at=logits_at)
  got = out.logits if logits_at == 'last' else out.logits[:, np.array(at) >= 0]
  np.testing.assert_allclose(got, alone.logits, rtol=0.01, atol=0.01)
  gj.generate(model, *padded, max_new_tokens=3)


@pytest.mark.parametrize('family', ['gemma2', 'llama', 'gpt2'])
@pytest.mark.parametrize('logits_at', ['last', 'all', [2, 3]])
def test_run_refuses_logits_that_are_not_finite(family, logits_at):
  model = half(family)
  weights = model.weights()
  weights['embed'] = weights['embed'].at[HOT].set(6e4)
  if family != 'gemma2':  # whose embedding is not scaled
    weights['up'] = weights['up'].at[1].set(100.0)
    weights['down'] = weights['down'].at[1].set(6e4)
  model = gj.Decoder(model.config, weights)
  with pytest.raises(ValueError, match='The logits of row 0 .*65,504'):
    gj.run(model, prompts(WARM), logits_at=logits_at)


@pytest.mark.parametrize('side', ['left', 'right'])
def test_activations_that_overflow_are_named(side):
  """The first layer whose activations do; padding has none."""
  model = tiny.ours(np.float16)
  weights = model.weights()
  weights['post_mlp_norm'] = weights['post_mlp_norm'].at[2].set(3e4)
  model = gj.Decoder(model.config, weights)
  look = gj.capture('resid_post', 'resid_mid', 'pattern')
  rows, at = tiny.ragged(3, 6, side)
  with pytest.raises(ValueError, match=r'\(resid_post of layer 2\) of row 0'):
    gj.run(model, rows, at, capture=look)
  with pytest.raises(ValueError, match=r'\(resid_mid of layer 3\) of row 0'):
    gj.run(model, rows, at, capture=gj.capture('resid_mid', layers=[3, 4]))
  whole = gj.run(
    model, rows, at, capture=gj.capture('resid_post', layers=[0, 1])
  )
  assert np.isfinite(whole['resid_post', 1]).all()


def test_run_may_be_traced():
  """With a coefficient that is data of the caller's own program."""

  @jax.jit
  def read(coefficient):
    edit = gj.steer(
      'resid_post', np.ones(40), layers=0, coefficient=coefficient
    )
    return gj.run(model, prompts(COLD), interventions=[edit], capture=look)[
      'resid_post'
    ][0]

  model, look = tiny.ours(), gj.capture('resid_post', layers=[0])
  added = read(2.0) - read(0.0)
  np.testing.assert_allclose(added, 2.0, rtol=1e-5)


def test_a_soft_cap_does_not_hide_infinity():
  model = tiny.ours()
  weights = model.weights()
  weights['final_norm'] = jnp.full(40, jnp.inf)
  with pytest.raises(ValueError, match='float32'):
    gj.run(gj.Decoder(model.config, weights), prompts(COLD), logits_at='last')


def test_check_finite_passes_while_tracing_and_names_the_row():
  values = np.array([[1.0, 2.0], [3.0, np.nan], [np.inf, 0.0]])

  @jax.jit
  def inside(x):
    gj.check_finite(x, jnp.float32, 'Losses')
    return x

  inside(values)
  with pytest.raises(ValueError, match='^Losses of row 1 are not.*in bfloat16'):
    gj.check_finite(values, jnp.bfloat16, 'Losses')
  gj.check_finite(values[:1], jnp.float16, 'Losses')


BAD = [np.nan, np.inf, -np.inf]


@pytest.mark.parametrize('bad', BAD)
def test_edits_refuse_what_is_not_finite(bad):
  vector = np.ones(40)
  vector[3] = bad
  one = np.ones(40)
  latents = {
    'encoder': one[None],
    'decoder': one[None],
    'bias': np.zeros(1),
    'threshold': np.zeros(1),
  }

  def of(**fields):
    made = type('Latents', (), latents | fields)()
    made.site, made.layer = 'resid_post', 1
    return made

  donor = jnp.ones((1, 1, 1, 40)).at[0, 0, 0, 2].set(bad)
  module = jax.tree_util.Partial(
    lambda array, x: x + array, jnp.asarray(vector)
  )
  wrong = {
    'direction': lambda: gj.steer('resid_post', vector, layers=1),
    'coefficient': lambda: gj.steer('z', one, layers=1, coefficient=bad),
    'mask over layers': lambda: gj.steer('z', one, layers=[0.0, bad]),
    'directions': lambda: gj.ablate_direction('resid_post', vector, layers=1),
    'value': lambda: gj.ablate_direction('z', one, layers=1, value=bad),
    'encoder of': lambda: gj.clamp_latents(of(encoder=vector[None]), 0.0),
    'decoder of': lambda: gj.scale_latents(of(decoder=vector[None]), 0.0),
    'bias of': lambda: gj.clamp_latents(of(bias=np.array([bad])), 0.0),
    'factor': lambda: gj.scale_latents(of(), bad),
    'value ?': lambda: gj.clamp_latents(of(), bad),
    'source for': lambda: gj.patch('resid_post', donor),
    'source': lambda: gj.patch('resid_post', bad),
    'array of': lambda: gj.splice(module, site='resid_post', layers=1),
  }
  for words, make in wrong.items():
    with pytest.raises(ValueError, match=f'{words}.* holds NaN or infinity'):
      make()
  with pytest.raises(ValueError, match='directions holds NaN'):
    gj.orthonormal_basis(np.stack([one, vector]))


def test_edits_are_made_while_tracing():

  @jax.jit
  def made(coefficient, direction):
    return gj.steer(
      'resid_post', direction, layers=1, coefficient=coefficient
    ).coefficient

  assert np.isnan(made(np.nan, np.ones(40))).all()
