"""Running on from the middle: what the whole run gives, and HF's streams."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import gemma_jax as gj
from tests import tiny

T = 7
TOKENS, POSITIONS = tiny.ragged(3, T, 'left')


@pytest.fixture(scope='module')
def model():
  return tiny.ours()


@pytest.fixture(scope='module')
def recording(model):
  record = jax.jit(lambda m, t, p: gj.record(m, t, p, sites=('attn_out', 'z')))
  return record(model, TOKENS, POSITIONS)


@pytest.fixture(scope='module')
def resume():
  """`gj.resume`, compiled; and how often that happened."""
  traces = []

  def traced(model, recording, layer, changes, slot):
    traces.append(slot)
    return gj.resume(
      model, recording, layer=layer, slot=slot, interventions=changes
    )[0]

  return jax.jit(traced, static_argnames='slot'), traces


def test_the_recorded_stream_is_that_of_hf(recording):
  hf = tiny.pair()[0]
  states = tiny.hf_forward(
    hf, TOKENS, POSITIONS, output_hidden_states=True
  ).hidden_states
  real = POSITIONS >= 0
  for layer in range(5):  # the last state is after the final norm
    np.testing.assert_allclose(
      np.asarray(recording.stream[layer])[real],
      states[layer].numpy()[real],
      atol=2e-4,
      rtol=1e-4,
    )
  with torch.no_grad():
    last = hf.model.norm(torch.tensor(np.array(recording.stream[5])))
  np.testing.assert_allclose(
    last.numpy()[real], states[5].numpy()[real], atol=1e-4, rtol=1e-4
  )


def test_recorded_activations_are_captured_ones(model, recording):
  out = gj.run(model, TOKENS, POSITIONS, capture=gj.capture('attn_out', 'z'))
  for site, x in out.activations.items():
    np.testing.assert_allclose(recording.activations[site], x, atol=1e-5)


def test_without_changes_every_start_ends_the_same(model, recording, resume):
  run, traces = resume
  real = POSITIONS >= 0
  for slot in (0, 4, T - 1):
    for layer in range(6):
      x = run(model, recording, layer, [], slot=slot)
      np.testing.assert_allclose(
        np.asarray(x)[real[:, slot:]],
        np.asarray(recording.stream[-1][:, slot:])[real[:, slot:]],
        atol=1e-5,
        rtol=1e-5,
      )
  assert traces == [0, 4, T - 1]  # layers are data


def test_changes_do_what_they_do_in_a_whole_run(model):
  """At a layer and a token, in rows without padding."""
  rng = np.random.default_rng(1)
  tokens = rng.integers(3, 97, (3, T))
  record = jax.jit(gj.record)
  kept, donor = record(model, tokens), record(model, tokens[::-1])
  vector = rng.standard_normal(40).astype(np.float32)
  resume = jax.jit(
    lambda m, k, layer, changes: gj.resume(
      m, k, layer=layer, slot=4, interventions=changes
    )[0][:, -1]
  )
  for layer in (0, 3, 4):
    changes = [
      gj.patch(
        'resid_pre',
        donor.stream[:-1],
        layers=layer,
        source_positions=np.arange(T),
        positions=4,
      ),
      gj.steer(
        'resid_post', vector, coefficient=2.0, layers=layer, positions=5
      ),
      gj.knock_out_attention(queries='last', keys=1, layers=layer),
    ]
    want = gj.run(
      model, tokens, interventions=changes, logits_at='last'
    ).logits[:, 0]
    answers = rng.integers(0, 97, (3, 2))
    x = resume(model, kept, layer, changes)
    logits = gj.unembed(model, x, jnp.asarray(answers))
    np.testing.assert_allclose(
      logits, np.take_along_axis(np.asarray(want), answers, 1), atol=1e-5
    )
    plain = gj.unembed(model, kept.stream[-1][:, -1], jnp.asarray(answers))
    assert np.abs(logits - plain).max() > 1e-3


def test_many_rows_go_on_from_one(model):
  tokens = np.arange(3, 3 + T)[None]
  kept = gj.record(model, tokens)
  rng = np.random.default_rng(2)
  streams = rng.standard_normal((3, 2, 40)).astype(np.float32)
  together, _ = gj.resume(model, kept, layer=2, slot=5, stream=streams)
  for row in range(3):
    alone, _ = gj.resume(
      model, kept, layer=2, slot=5, stream=streams[row : row + 1]
    )
    np.testing.assert_allclose(together[row], alone[0], atol=1e-5)


def test_captures_from_the_layer_on(model, recording):
  look = gj.capture('z', layers=[3, 1])
  _, seen = gj.resume(model, recording, layer=2, slot=4, capture=look)
  np.testing.assert_allclose(
    seen['z'][0], recording.activations['z'][3][:, 4:], atol=1e-5
  )
  assert not seen['z'][1].any()  # layer 1 was not run


@pytest.mark.parametrize(
  'options, said',
  [
    ({'layer': 6}, 'layer 6'),
    ({'layer': -1}, 'layer -1'),
    ({'layer': 0, 'slot': T}, 'slot 7'),
    ({'layer': 0, 'stream': np.zeros((3, 2, 40))}, 'shape'),
    ({'layer': 0, 'capture': gj.capture('z')}, 'Capture.layers'),
  ],
)
def test_what_does_not_fit_is_said(model, recording, options, said):
  with pytest.raises(ValueError, match=said):
    gj.resume(model, recording, **options)


def test_sites_that_do_not_exist_are_said(model, recording):
  look = gj.Capture(sites=('attn_outt',), layers=np.array([1]))
  for run in (
    lambda: gj.resume(model, recording, layer=0, capture=look),
    lambda: gj.record(model, TOKENS, POSITIONS, sites=('attn_outt',)),
    lambda: gj.run(model, TOKENS, POSITIONS, capture=look),
  ):
    with pytest.raises(KeyError, match="'attn_outt'"):
      run()


def test_layers_must_be_stacked(model, recording):
  with pytest.raises(ValueError, match='stack'):
    gj.resume(gj.unstack_layers(model), recording, layer=1)
