import numpy as np
import pytest
import torch

from experiments.factual_recall.restraint import (
  block_changes,
  one_per_subject,
  trajectory,
)
from experiments.factual_recall.trace import Readout, trace
from tests import tiny
from tests.experiments.factual_recall import random_prompts
from tests.gemma_jax import hf_hooks


def run(family, **options):
  hf, model = tiny.pair(0, family)
  prompts = random_prompts.make(**options)
  ran = trace(model, prompts)
  readout = Readout.of(model, prompts.answers, prompts.names)
  return hf, model, prompts, trajectory(model, ran, prompts, readout)


def lens(hf, x):
  """Logits [n, V] of HF's final norm and unembedding, before any soft cap."""
  base = hf.base_model
  base = getattr(base, 'decoder', base)
  norm = next(
    getattr(base, name)
    for name in ('norm', 'ln_f', 'final_layer_norm')
    if getattr(base, name, None) is not None
  )
  with torch.no_grad():
    return hf.lm_head(norm(torch.tensor(x))).numpy()


@pytest.mark.parametrize('family', ['gemma2', 'gpt2', 'llama', 'opt'])
@pytest.mark.parametrize('prefix', [0, 5])
def test_lens_is_that_of_transformers(family, prefix):
  hf, model, prompts, found = run(family, prefix=prefix)
  tokens, positions = random_prompts.padded_right(prompts)
  _, seen = hf_hooks.activations(hf, tokens, positions)
  n, last = np.arange(len(prompts)), positions.argmax(1)
  L = model.config.num_layers
  before = [seen['resid_pre'][layer][n, last] for layer in range(L)]
  after = [seen['resid_post'][layer][n, last] for layer in range(L)]
  middle = [
    x + seen['attn_out'][layer][n, last] for layer, x in enumerate(before)
  ]
  streams = [before[0]]
  for pair in zip(middle, after, strict=True):
    streams += pair
  for place, stream in enumerate(streams):
    logits = lens(hf, stream)
    centred = logits - logits.mean(1, keepdims=True)
    np.testing.assert_allclose(
      found.pi[place],
      np.stack([centred[n, prompts.answers], centred[n, prompts.names]], 1),
      atol=2e-3,
    )
    if cap := model.config.final_softcap:
      logits = cap * np.tanh(logits / cap)
    log_probs = torch.log_softmax(torch.tensor(logits), -1).numpy()
    rows = found.rows
    np.testing.assert_allclose(
      found.log_prob[place], log_probs[rows, prompts.answers[rows]], atol=2e-3
    )
    if place >= len(streams) - 3:
      np.testing.assert_allclose(
        found.last_log_prob[place - len(streams)],
        log_probs[n, prompts.answers],
        atol=2e-3,
      )
      np.testing.assert_array_equal(
        found.last_says[place - len(streams)],
        logits.argmax(1) == prompts.answers,
      )
  assert len(found.places) == len(streams) == 2 * L + 1
  assert found.places[:3] == ('resid_pre[0]', 'resid_mid[0]', 'resid_post[0]')


def test_changes_of_a_block_are_those_of_its_parts():
  values = np.random.default_rng(0).standard_normal((11, 7))
  found = block_changes(values)
  np.testing.assert_allclose(found['attn'] + found['mlp'], found['block'])
  np.testing.assert_allclose(found['block'].sum(0), values[-1] - values[0])
  for layer in range(5):
    np.testing.assert_array_equal(
      found['attn'][layer], values[2 * layer + 1] - values[2 * layer]
    )


def test_results_are_means_over_prompts():
  *_, found = run('llama')
  results = found.to_results()
  change = found.pi[-1, :, 0] - found.pi[-2, :, 0]
  last = results['last']
  assert last['pi']['mlp']['value'] == pytest.approx(change.mean())
  for part, estimate in last['pi'].items():
    assert results['blocks'][-1]['pi'][part] == pytest.approx(estimate)
  assert last['pi']['mlp']['n'] == len(change)
  whole = last['log_prob']['attn']['value'] + last['log_prob']['mlp']['value']
  assert last['log_prob']['block']['value'] == pytest.approx(whole)
  others = np.diff(found.pi[::2, :, 0], axis=0).mean(1)
  less = results['last_less_others']['pi']['block']
  assert less['value'] == pytest.approx(others[-1] - others[:-1].mean())
  assert less['low'] < less['value'] < less['high']
  rank = results['rank_of_last']['pi']['block']
  assert rank == 1 + (others < others[-1]).sum()
  assert results['log_prob'][0]['n'] == len(found.rows) == 6


def test_last_layer_that_writes_against_the_answer_holds_back():
  """Planted: the answer's readout is taken off in the last MLP alone."""
  hf, model, prompts, _ = run('llama')
  ran = trace(model, prompts)
  readout = Readout.of(model, prompts.answers, prompts.names)
  flat = {site: np.zeros_like(x) for site, x in ran.activations.items()}
  toward = (readout.answer / np.linalg.norm(readout.answer)).astype(np.float32)
  rest = np.random.default_rng(0).standard_normal(toward.shape)
  for site in ('resid_pre', 'resid_mid', 'resid_post'):
    flat[site] += (toward + 0.5 * rest).astype(np.float32)
  flat['resid_post'][-1] -= 0.5 * toward
  planted = type(ran)(
    activations=flat, pattern=ran.pattern, key_positions=ran.key_positions
  )
  results = trajectory(model, planted, prompts, readout).to_results()
  assert results['rank_of_last']['pi'] == {'attn': 1, 'mlp': 1, 'block': 1}
  assert results['last']['pi']['mlp']['high'] < 0
  assert results['last']['pi']['attn']['value'] == 0
  assert results['last_less_others']['pi']['block']['high'] < 0
  assert results['blocks'][0]['pi']['block']['value'] == 0


def test_one_prompt_per_subject():
  subjects = np.array([4, 4, 4, 7, 7, 7, 1])
  np.testing.assert_array_equal(one_per_subject(subjects), [0, 4, 6])
  *_, found = run('llama', templates=1)
  np.testing.assert_array_equal(found.rows, np.arange(6))
  np.testing.assert_array_equal(found.last_log_prob, found.log_prob[-3:])
