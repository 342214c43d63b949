"""The module against NumPy, and its latents in a language model's edits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gemma_jax as gj
from sae.folding import fold, normalise_decoder
from sae.jumprelu import JumpReLUSAE, Origin, Weights, decode, encode
from tests.tiny import count_traces, ours

D, F = 10, 33


def arrays(seed=0, D=D, F=F):
  rng = np.random.default_rng(seed)
  return Weights(
    W_enc=rng.standard_normal((D, F)).astype('f4'),
    W_dec=rng.standard_normal((F, D)).astype('f4'),
    b_enc=rng.standard_normal(F).astype('f4'),
    b_dec=rng.standard_normal(D).astype('f4'),
    threshold=rng.uniform(0.1, 3, F).astype('f4'),
  )


def make(dtype=np.float32, origin=None, **kwargs) -> JumpReLUSAE:
  w = [jnp.asarray(a, dtype) for a in arrays(**kwargs)[:4]]
  threshold = jnp.asarray(arrays(**kwargs).threshold)
  return JumpReLUSAE(Weights(*w, threshold), origin)


def x(*shape, seed=1):
  rng = np.random.default_rng(seed)
  return rng.standard_normal((*shape, D)).astype('f4') * 3


def reference(w, x):
  """Gemma Scope's formula in float64."""
  z = x.astype('f8') @ w.W_enc.astype('f8') + w.b_enc
  f = np.maximum(z, 0) * (z > w.threshold)
  return f, f @ w.W_dec.astype('f8') + w.b_dec


@pytest.mark.parametrize('shape', [(), (1,), (7,), (2, 5)])
def test_encode_and_decode(shape):
  sae, batch = make(), x(*shape)
  f, y = reference(arrays(), batch)
  np.testing.assert_allclose(sae.encode(batch), f, atol=1e-5)
  np.testing.assert_allclose(sae(batch), y, atol=1e-4)
  np.testing.assert_allclose(sae.decode(sae.encode(batch)), y, atol=1e-4)
  assert sae.encode(batch).shape == (*shape, F)


def test_strict_and_never_negative():
  eye = np.eye(4, dtype='f4')
  zero = jnp.zeros(4)
  threshold = jnp.asarray([1.0, 1.0, 0.0, -2.0])
  sae = JumpReLUSAE(Weights(eye, eye, zero, zero, threshold))
  above = np.nextafter(np.float32(1), np.float32(2))
  f = sae.encode(jnp.asarray([1.0, above, 0.0, -1.0]))
  np.testing.assert_array_equal(f, [0, above, 0, 0])


def test_what_is_not_finite_is_not_taken_for_silence():
  """Neither latents nor reconstruction hide a stream that overflowed."""
  sae = make()
  for bad in (np.nan, np.inf, -np.inf):
    x = np.ones((2, D), np.float32)
    x[1, 3] = bad
    assert not np.isfinite(sae.encode(jnp.asarray(x))[1]).all()
    found = np.isfinite(sae(jnp.asarray(x)))
    assert found[0].all() and not found[1].all()


def test_bfloat16_weights_compare_in_float32():
  sae, batch = make(jnp.bfloat16), jnp.asarray(x(200), jnp.bfloat16)
  rounded = Weights(*(np.asarray(a, 'f4') for a in sae.weights()))
  f, _ = reference(rounded, np.asarray(batch, 'f4'))
  got = sae.encode(batch)
  assert got.dtype == jnp.bfloat16
  assert sae.threshold.dtype == jnp.float32
  np.testing.assert_array_equal(np.asarray(got, 'f4') > 0, f > 0)
  np.testing.assert_allclose(np.asarray(got, 'f4'), f, rtol=8e-3)


@pytest.mark.parametrize('ids', [3, [3, 5], [[3, 5], [7, 3]], [32]])
def test_columns(ids):
  sae, w, batch = make(), arrays(), x(6)
  part = sae.select(ids)
  np.testing.assert_array_equal(
    part.encoder, np.moveaxis(w.W_enc[:, ids], 0, -1)
  )
  np.testing.assert_array_equal(part.decoder, w.W_dec[ids])
  np.testing.assert_array_equal(part.bias, w.b_enc[ids])
  np.testing.assert_array_equal(part.threshold, w.threshold[ids])
  np.testing.assert_array_equal(sae.directions(ids), w.W_dec[ids])
  if np.ndim(ids) == 1:
    np.testing.assert_allclose(
      encode(part, batch), sae.encode(batch)[:, ids], atol=1e-6
    )


@pytest.mark.parametrize(
  'ids, words',
  [
    (F, f'no latent {F}'),
    (-1, 'no latent -1'),
    (1.5, 'integers'),
    ([3, 5, 3], 'Latent 3 is named twice'),
    ([[3, 5], [7, 7]], 'Latent 7 is named twice'),
  ],
)
def test_columns_refuse(ids, words):
  with pytest.raises(ValueError, match=words):
    make().select(ids)


def test_clamping_in_the_model_is_surgery_on_the_reconstruction():
  """x + sae'(x) - sae(x), where sae' has the latents at their new values."""
  model = ours()
  D = model.config.d_model
  w = arrays(D=D)
  origin = Origin(site='resid_post', layer=2)
  sae = JumpReLUSAE(Weights(*map(jnp.asarray, w)), origin)
  tokens = np.array([[5, 6, 7, 8], [9, 10, 11, 12]])
  look = gj.capture('resid_post', layers=2)
  before = gj.run(model, tokens, capture=look)['resid_post', 2]
  active = np.asarray(sae.encode(before)).sum((0, 1))
  ids = np.argsort(-active)[[0, 4]]
  edit = gj.clamp_latents(sae.select(ids), 2.5)
  after = gj.run(model, tokens, capture=look, interventions=[edit])
  after = after['resid_post', 2]
  f, y = reference(w, np.asarray(before))
  f[..., ids] = 2.5
  want = before + (f @ w.W_dec.astype('f8') + w.b_dec) - y
  np.testing.assert_allclose(after, want, atol=2e-4)


def test_one_program_for_many_saes():
  run, traces = count_traces(lambda w, x: decode(w, encode(w, x)))
  for seed in range(4):
    origin = Origin(site='resid_post', layer=seed)
    sae = make(seed=seed, origin=origin)
    np.testing.assert_allclose(run(sae.weights(), x(3)), sae(x(3)), atol=1e-5)
  assert len(traces) == 1


def test_what_it_reads():
  sae = make(origin=Origin(site='z', layer=3, model='google/gemma-2-2b'))
  sae.check_reads('z', 3)
  sae.check_reads('z')
  for site, layer in (('resid_post', 3), ('z', 4)):
    with pytest.raises(ValueError, match=f'z of layer 3.*{site}'):
      sae.check_reads(site, layer)
  make().check_reads('anything', 9)  # nothing is known
  with pytest.raises(ValueError, match='D=10.*z of layer 3'):
    sae.encode(np.zeros((2, 11), 'f4'))
  with pytest.raises(ValueError, match=f'F={F}'):
    sae.decode(np.zeros((2, 11), 'f4'))


@pytest.mark.parametrize(
  'name, bad, words',
  [
    ('W_enc', np.zeros(3, 'f4'), r'W_enc .*\(3,\)'),
    ('W_dec', np.zeros((D, F), 'f4'), r'W_dec .*\[F, D\]'),
    ('b_dec', np.zeros(F, 'f4'), r'b_dec .*\[D\]'),
    ('threshold', np.zeros(F, 'f2'), 'float32'),
    ('b_enc', np.zeros(F, 'f2'), 'one dtype'),
  ],
)
def test_arrays_that_do_not_fit(name, bad, words):
  with pytest.raises(ValueError, match=words):
    JumpReLUSAE(arrays()._replace(**{name: bad}))


@pytest.mark.parametrize('kind', [np.asarray, jnp.asarray])
@pytest.mark.parametrize('subtract', [False, True])
def test_fold(kind, subtract):
  """Scaling and centring go into the arrays, to float32's precision."""
  w, s, batch = arrays(), 0.37, x(50)
  scaled = (s * batch - subtract * w.b_dec).astype('f8')
  z = scaled @ w.W_enc + w.b_enc
  f = np.where(z > np.maximum(w.threshold, 0), z, 0)
  y = (f @ w.W_dec + w.b_dec) / s
  folded = fold(Weights(*map(kind, w)), input_scale=s, subtract_b_dec=subtract)
  assert all(a.dtype == np.float32 for a in folded)
  sae = JumpReLUSAE(Weights(*map(jnp.asarray, folded)))
  scale = np.abs(y).max()
  np.testing.assert_allclose(sae.encode(batch), f / s, atol=1e-5 * scale)
  np.testing.assert_allclose(sae(batch), y, atol=1e-5 * scale)


@pytest.mark.parametrize('kind', [np.asarray, jnp.asarray])
def test_normalise_decoder(kind):
  w = arrays()
  w.W_dec[4] = 0
  unit = normalise_decoder(Weights(*map(kind, w)))
  norms = np.linalg.norm(unit.W_dec, axis=1)
  np.testing.assert_allclose(np.delete(norms, 4), 1, rtol=1e-6)
  a, b = (JumpReLUSAE(Weights(*map(jnp.asarray, v))) for v in (w, unit))
  np.testing.assert_allclose(a(x(40)), b(x(40)), atol=2e-4)
  np.testing.assert_array_equal(a.encode(x(40)) > 0, b.encode(x(40)) > 0)


def test_an_sae_is_a_pytree():
  sae = make(origin=Origin(site='resid_post', layer=1))
  half = jax.tree.map(lambda a: a / 2, sae)
  assert half.origin == sae.origin
  np.testing.assert_array_equal(half.W_enc[...], sae.W_enc[...] / 2)
