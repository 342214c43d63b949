"""Sums equal a loop over single prompts in HF and NumPy, however batched."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from experiments.activations import (
  gather,
  latent_activations,
  latents_at_positions,
  stream_scores,
  streaming,
)
import gemma_jax as gj
from gemma_jax.weights import BLOCK_LETTERS
from sae import JumpReLUSAE, Origin
from tests.experiments import worlds
from tests.experiments.activations import small

FIELDS = [field.name for field in dataclasses.fields(streaming.GroupSums)]
# Compiling takes most of the time, so shapes are few.
BUCKETS = (32,)


@pytest.fixture(scope='module')
def rows():
  return small.rows()


@pytest.fixture(scope='module')
def sums(rows):
  return stream(rows)


def stream(rows, model=None, saes=None, **options):
  return stream_scores(
    model or worlds.model(),
    saes or small.saes(),
    rows,
    rows.groups(small.groups()),
    4,  # nothing is in the last
    **{'buckets': BUCKETS} | options,
  )


def assert_same(got, expected, rtol):
  for one, other in zip(got, expected, strict=True):
    for name in FIELDS:
      a, b = getattr(one, name), getattr(other, name)
      if name in ('site', 'layer', 'n', 'active'):
        np.testing.assert_array_equal(a, b, err_msg=name)
      else:
        scale = np.abs(b).max()
        np.testing.assert_allclose(a, b, atol=rtol * scale, err_msg=name)


def test_equals_a_loop_over_single_prompts(rows, sums):
  groups = rows.groups(small.groups())
  activations = small.hf_activations()
  expected = []
  for sae in small.saes():
    place = sae.origin.site, sae.origin.layer
    n, F, D = 4, sae.width, sae.d_in
    one = {
      'n': np.zeros(n, np.int64),
      'active': np.zeros((n, F), np.int64),
      'total': np.zeros((n, F)),
      'squares': np.zeros((n, F)),
      'stream_total': np.zeros((n, D)),
      'norm_total': np.zeros(n),
    }
    for row, g in enumerate(groups):
      if g < 0:
        continue
      x = activations[place][row][rows.positions[row]]
      f = small.latents(sae, x)
      one['n'][g] += 1
      one['active'][g] += f > 1e-6
      one['total'][g] += f
      one['squares'][g] += f**2
      one['stream_total'][g] += x
      one['norm_total'][g] += np.sqrt((x.astype('f8') ** 2).sum())
    expected.append(streaming.GroupSums(site=place[0], layer=place[1], **one))
  assert expected[0].n.tolist() == [10, 9, 12, 0]
  assert 0 < expected[0].active[:3].mean() < 10
  assert_same(sums, expected, 1e-5)
  assert all(one.total.dtype == np.float64 for one in sums)
  assert all(one.active.dtype == one.n.dtype == np.int64 for one in sums)


def test_does_not_depend_on_batches_or_padding(rows, sums):
  assert_same(stream(rows, batch_size=1), sums, 1e-6)
  assert_same(stream(rows, side='left'), sums, 1e-6)


def test_a_truncated_model_gives_the_same(rows, sums):
  model = worlds.model()
  part = {
    name: w[:4] if name in BLOCK_LETTERS else w
    for name, w in model.weights().items()
  }
  truncated = gj.Decoder(model.config.truncated(4), part)
  one = stream(rows, truncated, small.saes()[:1])
  assert_same(one, sums[:1], 1e-6)


def test_one_compilation_per_bucket(rows, sums):
  options = {
    'batch_size': 7,
    'buckets': (16, 32, 64),
    'saes': small.saes()[:1],
  }
  count = streaming._add_batch._cache_size
  before = count()
  (one,) = stream(rows, **options)
  assert_same([one], sums[:1], 1e-6)
  assert count() == before + 2  # no row needs 64
  # Another SAE is the same program.
  weights = small.saes()[0].weights()
  weights = weights._replace(b_enc=weights.b_enc + 1)
  other = JumpReLUSAE(weights, Origin(site='resid_post', layer=3))
  (two,) = stream(rows, **options | {'saes': [other]})
  assert count() == before + 2
  assert two.active.sum() > one.active.sum()


def test_rows_of_no_group_are_not_run(rows, monkeypatch):
  seen = []
  make = streaming.make_batches

  def spy(rows, numbers, *args, **kwargs):
    seen.extend(numbers)
    return make(rows, numbers, *args, **kwargs)

  monkeypatch.setattr(streaming, 'make_batches', spy)
  stream(rows)
  groups = rows.groups(small.groups())
  assert seen == np.flatnonzero(groups >= 0).tolist()


def test_bfloat16_is_encoded_in_float32(rows):
  model = worlds.model()
  weights = {k: w.astype(jnp.bfloat16) for k, w in model.weights().items()}
  model = gj.Decoder(model.config, weights)
  sae = small.saes()[0]
  # With a group for each row, sums are the values themselves.
  (one,) = stream_scores(
    model, [sae], rows, range(41), 41, buckets=BUCKETS, batch_size=16
  )
  x = one.stream_total
  assert (x == x.astype(jnp.bfloat16)).all()
  w = sae.weights()
  z = x @ np.asarray(w.W_enc, 'f8') + np.asarray(w.b_enc)
  f = np.where(z > np.asarray(w.threshold), z, 0)
  np.testing.assert_allclose(one.total, f, atol=1e-5)
  np.testing.assert_allclose(one.squares, f**2, atol=1e-4)
  np.testing.assert_allclose(one.norm_total, np.linalg.norm(x, axis=1))


def test_wrong_input_is_refused_before_anything_runs(rows, monkeypatch):
  monkeypatch.setattr(streaming, '_add_batch', None)
  model, saes = worlds.model(), small.saes()

  def refused(message, saes=saes, groups=None, num_groups=4):
    groups = rows.groups(small.groups()) if groups is None else groups
    with pytest.raises(ValueError, match=message):
      stream_scores(model, saes, rows, groups, num_groups)

  def at(site, layer):
    return [JumpReLUSAE(saes[0].weights(), Origin(site=site, layer=layer))]

  refused('no SAEs', [])
  refused('layers 0 to 4', at('resid_post', 5))
  refused('vectors of 40; z of this model has 64', at('z', 1))
  refused('not known what this SAE reads', at(None, 1))
  refused('pattern has no vector', at('pattern', 1))
  refused('from -1 to 1', num_groups=2)
  refused('each of 41 rows', groups=[0])
  small_model = worlds.tiny.ours(vocab_size=97)
  with pytest.raises(ValueError, match='the model has 97 tokens'):
    stream_scores(small_model, saes, rows, [0] * 41, 1)


def test_activations_that_are_not_finite_are_refused(rows):
  model = worlds.model()
  weights = dict(model.weights())
  weights['down'] = weights['down'].at[3].mul(np.inf)
  with pytest.raises(
    ValueError, match=r'layer 3\) in the group of row 0 are not'
  ):
    stream(rows, gj.Decoder(model.config, weights))


def test_gather_gives_hf_activations_in_the_rows_order(rows):
  got = gather(worlds.model(), 'resid_post', [3, 1], rows, buckets=(32,))
  assert got.dtype == np.float32 and got.shape == (2, 41, 40)
  for i, layer in enumerate((3, 1)):
    seen = small.hf_activations()['resid_post', layer]
    expected = [x[at] for x, at in zip(seen, rows.positions, strict=True)]
    scale = np.abs(expected).max()
    np.testing.assert_allclose(got[i], expected, atol=1e-5 * scale)
  with pytest.raises(ValueError, match='distinct layers'):
    gather(worlds.model(), 'resid_post', [1, 1], rows)
  with pytest.raises(ValueError, match='no layer 5'):
    gather(worlds.model(), 'resid_post', [5], rows)


def test_chosen_latents_at_every_token_and_at_positions(rows):
  saes = small.saes()
  chosen = [(saes[0], 7), (saes[2], 0), (saes[0], 30), (saes[4], 23)]
  at = latents_at_positions(worlds.model(), chosen, rows, buckets=(32,))
  every = latent_activations(worlds.model(), chosen, rows, buckets=(32,))
  seen = small.hf_activations()
  assert at.shape == (4, 41)
  for k, (sae, latent) in enumerate(chosen):
    for row, x in enumerate(seen[sae.origin.site, sae.origin.layer]):
      expected = small.latents(sae, x, latent)
      assert every[row].shape == (4, len(rows.tokens[row]))
      np.testing.assert_allclose(every[row][k], expected, atol=2e-5)
      np.testing.assert_allclose(
        at[k, row], expected[rows.positions[row]], atol=2e-5
      )
  assert (at > 0).any(axis=1).sum() >= 3
  with pytest.raises(ValueError, match='no latent 24'):
    latent_activations(worlds.model(), [(saes[1], 24)], rows)
