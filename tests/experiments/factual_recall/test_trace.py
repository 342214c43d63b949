"""Traces, readouts and outcomes against HF transformers."""

import dataclasses

import numpy as np
import pytest
import scipy.special

from experiments.factual_recall import trace as trace_lib
from experiments.factual_recall.trace import (
  SITES,
  Readout,
  batches,
  mean_readout,
  outcomes,
  trace,
)
import gemma_jax as gj
from tests import tiny
from tests.experiments.factual_recall import small
from tests.gemma_jax import hf_hooks

FAMILIES = ('gemma2', 'gemma3_text', 'llama', 'gpt2', 'opt')


def close(ours, reference, tolerance=2e-5):
  scale = max(1, np.abs(reference).max())
  np.testing.assert_allclose(ours, reference, atol=tolerance * scale, rtol=0)


@pytest.mark.parametrize(
  'family, prefix', [(f, 0) for f in FAMILIES] + [('gemma2', 3), ('gpt2', 4)]
)
def test_a_trace_is_hfs_last_token(family, prefix):
  hf, model = tiny.pair(family=family)
  prompts = small.prompts(prefix=prefix)
  found = trace(model, prompts)
  tokens, positions = prompts.whole()
  out, seen = hf_hooks.activations(hf, tokens, positions)
  L, N, n = model.config.num_layers, model.config.num_heads, len(prompts)
  for site in SITES:
    width = gj.site_width(model.config, site)
    assert found[site].shape == (L, n, width)
    assert found[site].dtype == np.float32
    close(found[site], np.stack(seen[site])[:, :, -1])
  np.testing.assert_array_equal(found.final, found['resid_post'][-1])
  # Slot by slot, whatever the order of padding and prefix.
  pattern = np.stack([each.numpy()[:, :, -1] for each in out.attentions])
  assert found.pattern.shape[:3] == (L, n, N)
  for row in range(n):
    ours, theirs = found.key_positions[row], positions[row]
    assert sorted(ours[ours >= 0]) == sorted(theirs[theirs >= 0])
    for position in range(positions[row].max() + 1):
      mine = found.pattern[:, row, :, np.flatnonzero(ours == position)[0]]
      its = pattern[:, row, :, np.flatnonzero(theirs == position)[0]]
      np.testing.assert_allclose(mine, its, atol=2e-5)
  np.testing.assert_allclose(found.pattern.sum(-1), 1, atol=1e-5)
  assert not (found.pattern * (found.key_positions < 0)[None, :, None]).any()


@pytest.mark.parametrize('prefix', [0, 3])
def test_attention_to_a_span(prefix):
  _, model = tiny.pair(family='llama')
  prompts = small.prompts(prefix=prefix)
  found = trace(model, prompts)
  spans = prompts.spans.copy()
  spans[2] = [0, prompts.ends[2] + 1]  # everything
  spans[3] = [2, 2]  # nothing
  got = found.attention_to(spans)
  L, n, N, S = found.pattern.shape
  want = np.zeros((L, n, N))
  for row, (start, stop) in enumerate(spans):
    for slot in range(S):
      if start <= found.key_positions[row, slot] < stop:
        want[:, row] += found.pattern[:, row, :, slot]
  assert got.shape == (L, n, N)
  np.testing.assert_allclose(got, want, atol=1e-6)
  np.testing.assert_allclose(got[:, 2], 1, atol=1e-5)
  assert not got[:, 3].any() and got[:, 0].any()


def test_batches_do_not_matter():
  _, model = tiny.pair(family='llama')
  prompts = small.prompts(n=5, prefix=3)
  whole = trace(model, prompts)
  for size in (1, 3):
    found = trace(model, prompts, rows_per_batch=size)
    for site in SITES:
      close(found[site], whole[site], 5e-6)
    np.testing.assert_allclose(found.pattern, whole.pattern, atol=5e-6)
    np.testing.assert_array_equal(found.key_positions, whole.key_positions)


def test_a_trace_of_a_changed_run():
  hf, model = tiny.pair(family='gemma2')
  prompts = small.prompts(prefix=0)
  vector = np.ones(model.config.d_model, np.float32)
  added = gj.steer('mlp_out', vector, layers=2, coefficient=3.0)
  found = trace(model, prompts, interventions=[added], rows_per_batch=2)
  close(
    Readout.of(model, prompts.answers, prompts.names).pi(found.final),
    small.hf_pi(hf, prompts, [('mlp_out', 2, lambda x: x + 3)]),
  )


@pytest.mark.parametrize(
  'count, size', [(1, 1), (5, 1), (5, 3), (5, 6), (6, 3)]
)
def test_batches(count, size):
  found = list(batches(count, size))
  assert {len(rows) for rows in found} == {min(size, count)}
  assert np.concatenate(found)[:count].tolist() == list(range(count))
  assert len(found) == -(-count // size)


@pytest.mark.parametrize('family', FAMILIES)
def test_pi_is_a_logit_less_the_mean(family):
  """Before the soft cap; with the bias of a LayerNorm."""
  hf, model = tiny.pair(family=family)
  prompts = small.prompts()
  _, seen = hf_hooks.activations(hf, *prompts.whole())
  final = seen['resid_post'][-1][:, -1]
  readout = Readout.of(model, prompts.answers, prompts.names)
  want = small.hf_pi(hf, prompts)
  close(readout.pi(final), want, 1e-5)
  # Leading axes are of senders.
  many = readout.pi(np.stack([final, 2 * final, final]))
  assert many.shape == (3, len(prompts), 2) and many.dtype == np.float64
  close(many[2], want, 1e-5)
  assert (model.final_norm_b is None) == (not readout.answer_bias.any())


def test_the_mean_over_a_large_vocabulary():
  hf, model = tiny.pair(family='gpt2', vocab_size=9001, n_layer=1)
  mean, bias = mean_readout(model)
  every = np.arange(9001)
  np.testing.assert_allclose(mean, gj.readout(model, every).mean(0), atol=1e-9)
  assert bias == pytest.approx(gj.readout_bias(model, every).mean())
  prompts = small.prompts()
  readout = Readout.of(model, prompts.answers, prompts.names)
  final = trace(model, prompts).final
  close(readout.pi(final), small.hf_pi(hf, prompts))


@pytest.mark.parametrize('family', ['gemma2', 'gpt2'])
def test_outcomes(family, monkeypatch):
  """Against HF's logits, after the soft cap; a few rows at a time."""
  hf, model = tiny.pair(family=family)
  prompts = small.prompts()
  tokens, positions = prompts.whole()
  logits = tiny.hf_forward(hf, tokens, positions).logits[:, -1].double().numpy()
  answers = logits.argmax(1).astype(np.int32)
  answers[::2] = prompts.answers[::2]
  log_probs = scipy.special.log_softmax(logits, axis=1)
  rows = np.arange(5)
  final = trace(model, prompts).final
  for held in (1 << 28, 2 * 4 * small.VOCABULARY, 1):
    monkeypatch.setattr(trace_lib, '_LOGITS_BYTES', held)
    found = outcomes(model, final, answers)
    close(found.log_prob, log_probs[rows, answers])
    close(found.prob, np.exp(log_probs[rows, answers]))
    close(found.pi, logits[rows, answers] - logits.mean(1))
    close(found.entropy, -(np.exp(log_probs) * log_probs).sum(1))
    assert found.top.tolist() == logits.argmax(1).tolist()
    assert found.says.tolist() == (logits.argmax(1) == answers).tolist()
    assert found.says[1::2].all()
    for field in dataclasses.fields(found):
      assert getattr(found, field.name).shape == (5,)


@pytest.mark.parametrize('family', FAMILIES)
def test_outcomes_with_the_norm_s_scale_held(family, monkeypatch):
  _, model = tiny.pair(family=family)
  x = trace(model, small.prompts(n=7)).final
  answers = np.arange(7, dtype=np.int32)
  scale = gj.norm_scale(model.config, x)
  free = outcomes(model, x, answers)
  for held in (1 << 28, 3 * 4 * small.VOCABULARY):
    monkeypatch.setattr(trace_lib, '_LOGITS_BYTES', held)
    own = outcomes(model, x, answers, scale)
    # A stream twice as long, over twice its scale, says the same.
    longer = outcomes(model, 2 * x, answers, 2 * scale)
    for field in dataclasses.fields(free):
      want = getattr(free, field.name)
      np.testing.assert_allclose(getattr(own, field.name), want, atol=2e-5)
      np.testing.assert_allclose(getattr(longer, field.name), want, atol=2e-5)
  longer = outcomes(model, 2 * x, answers, scale)
  assert (np.abs(longer.log_prob - free.log_prob) > 1e-3).all()
