import dataclasses

import numpy as np
import pytest
import torch

from experiments.factual_recall import least_squares, regression
from experiments.factual_recall.mitigation import (
  DIRECTIONS,
  mitigate,
  random_directions,
  run_alone,
  split_subjects,
)
from experiments.factual_recall.trace import trace
import gemma_jax as gj
from tests import tiny
from tests.experiments.factual_recall import random_prompts
from tests.gemma_jax import hf_hooks

FAMILIES = ['gemma2', 'gpt2', 'llama', 'opt', 'qwen3']


def intercept(mlp, heads, other=None):
  return least_squares.fit(mlp, heads, other).intercept


def log_probs_of(logits, answers):
  log_probs = torch.log_softmax(torch.tensor(np.array(logits)), -1).numpy()
  return log_probs[np.arange(len(answers)), answers]


@pytest.mark.parametrize('family', FAMILIES)
@pytest.mark.parametrize('prefix', [0, 5])
def test_arms_are_those_of_transformers(family, prefix):
  """The last layer's mask, and b taken off what leaves it, by hooks."""
  hf, model = tiny.pair(0, family)
  prompts = random_prompts.make(prefix=prefix)
  ran = trace(model, prompts)
  found = mitigate(model, ran, prompts)
  tokens, positions = random_prompts.padded_right(prompts)
  n, last = np.arange(len(prompts)), positions.argmax(1)
  B, T = tokens.shape
  edges = torch.zeros((B, model.config.num_heads, T, T), dtype=torch.bool)
  edges[n, :, last] = True
  edges[n, :, last, last] = False
  L = model.config.num_layers
  held_out = np.where(
    found.first_half[:, None], found.intercepts[2], found.intercepts[1]
  )

  def logits(cut, b):
    def subtract(x):
      x = x.reshape(B, T, -1).clone()
      x[n, last] -= torch.tensor(b, dtype=x.dtype)
      return x

    changes = [] if b is None else [('resid_post', L - 1, subtract)]
    mask = {L - 1: edges} if cut else None
    with hf_hooks.hooked(hf, changes, mask):
      out = tiny.hf_forward(hf, tokens, positions)
    return out.logits[n, last].numpy()

  whole = found.intercepts[:1]
  written, first = ran['mlp_out'][-1], found.first_half
  mean = np.empty_like(held_out)
  mean[first], mean[~first] = written[~first].mean(0), written[first].mean(0)
  for name, given in {
    'none': (False, None),
    'mask': (True, None),
    'intercept': (False, held_out),
    'both': (True, held_out),
    'intercept_in_sample': (False, whole),
    'both_in_sample': (True, whole),
    'mean': (False, mean),
  }.items():
    want, got = logits(*given), found.arms[name]
    np.testing.assert_allclose(
      got.log_prob, log_probs_of(want, prompts.answers), atol=3e-3
    )
    centred = want - want.mean(1, keepdims=True)
    np.testing.assert_allclose(
      got.pi, centred[n, prompts.answers], atol=3e-3, err_msg=name
    )
    np.testing.assert_array_equal(got.top, want.argmax(1))
  assert np.abs(found.arms['mask'].pi - found.arms['none'].pi).max() > 0.05
  size = np.linalg.norm(held_out, axis=1, keepdims=True)
  directions = random_directions(DIRECTIONS, model.config.d_model, 0)
  for row, direction in enumerate(directions):
    want, got = logits(False, size * direction), found.arms['random']
    np.testing.assert_allclose(
      got.log_prob[row], log_probs_of(want, prompts.answers), atol=3e-3
    )
    np.testing.assert_array_equal(got.top[row], want.argmax(1))


@pytest.mark.parametrize('family', FAMILIES)
def test_arms_are_a_knockout_and_steering(family):
  _, model = tiny.pair(0, family)
  prompts = random_prompts.make()
  found = mitigate(model, trace(model, prompts), prompts)
  L = model.config.num_layers
  cut = gj.knock_out_attention(
    queries='last', keys=range(prompts.tokens.shape[1]), layers=L - 1
  )
  minus_b = gj.steer(
    'resid_post', -found.intercepts[0], layers=L - 1, positions='last'
  )
  for name, changes in {
    'mask': [cut],
    'intercept_in_sample': [minus_b],
    'both_in_sample': [cut, minus_b],
  }.items():
    out = gj.run(
      model,
      prompts.tokens,
      prompts.positions,
      interventions=changes,
      logits_at='last',
    )
    np.testing.assert_allclose(
      found.arms[name].log_prob,
      log_probs_of(out.logits[:, 0], prompts.answers),
      atol=2e-4,
    )


@pytest.mark.parametrize('family', FAMILIES)
def test_frozen_norm_is_its_formula(family):
  _, model = tiny.pair(0, family)
  config = model.config
  prompts = random_prompts.make()
  ran = trace(model, prompts)
  found = mitigate(model, ran, prompts)
  x = ran.final.astype(np.float64)
  held_out = found.intercepts[np.where(found.first_half, 2, 1)]
  masked = run_alone(model, ran['resid_pre'][-1], prompts.ends)
  y = masked.astype(np.float64) - held_out
  if config.norm == 'layer':
    x, y = (each - each.mean(1, keepdims=True) for each in (x, y))
  scale = np.sqrt((x**2).mean(1, keepdims=True) + config.norm_eps)
  weights = {k: np.asarray(w, np.float64) for k, w in model.weights().items()}
  y = y / scale * (config.norm_offset + weights['final_norm'])
  y += weights.get('final_norm_b', 0)
  logits = y @ weights['embed' if config.tied else 'unembed'].T
  if config.final_softcap:
    logits = config.final_softcap * np.tanh(logits / config.final_softcap)
  got = found.arms['both_frozen']
  log_probs = torch.log_softmax(torch.tensor(logits), -1).numpy()
  rows = np.arange(len(prompts)), prompts.answers
  np.testing.assert_allclose(got.log_prob, log_probs[rows], atol=2e-4)
  np.testing.assert_allclose(
    got.pi, (logits - logits.mean(1, keepdims=True))[rows], atol=2e-4
  )
  np.testing.assert_array_equal(got.top, logits.argmax(1))
  entropy = -(np.exp(log_probs) * log_probs).sum(1)
  np.testing.assert_allclose(got.entropy, entropy, atol=2e-4)


def test_no_subject_is_changed_by_its_own_rows():
  _, model = tiny.pair(0, 'llama')
  prompts = random_prompts.make()
  ran = trace(model, prompts)
  one = prompts.subjects == 2
  moved = ran.activations | {'mlp_out': ran['mlp_out'].copy()}
  moved['mlp_out'][-1, one] += 3  # what is fitted, not what is run
  other = dataclasses.replace(ran, activations=moved)
  before, after = (mitigate(model, t, prompts) for t in (ran, other))
  half = before.first_half == before.first_half[one][0]
  for arm in ('intercept', 'both', 'both_frozen', 'mean', 'random'):
    old, new = before.arms[arm].log_prob, after.arms[arm].log_prob
    np.testing.assert_array_equal(old[..., half], new[..., half])
    assert (old[..., ~half] != new[..., ~half]).all()
  sample = 'intercept_in_sample'
  assert (before.arms[sample].pi != after.arms[sample].pi).all()
  heads, _ = regression.regressors(model, ran, model.config.num_layers - 1)
  first = before.first_half
  np.testing.assert_allclose(
    before.intercepts[1], intercept(ran['mlp_out'][-1][first], heads[first])
  )


def test_fit_is_the_intercept_of_the_regression():
  """Planted: the MLP writes half of a head, and a vector."""
  rng = np.random.default_rng(0)
  heads = rng.standard_normal((30, 2, 8))
  other, b = rng.standard_normal((30, 8)), rng.standard_normal(8)
  mlp = 0.5 * heads[:, 1] - 0.2 * other + b
  np.testing.assert_allclose(intercept(mlp, heads, other), b, atol=1e-8)
  np.testing.assert_allclose(intercept(mlp + 0.2 * other, heads), b, atol=1e-8)


def test_the_rest_is_a_regressor_only_if_asked():
  _, model = tiny.pair(0, 'gpt2')
  prompts = random_prompts.make()
  ran = trace(model, prompts)
  heads, rest = regression.regressors(model, ran, model.config.num_layers - 1)
  for with_other in (False, True):
    found = mitigate(model, ran, prompts, with_other=with_other)
    want = intercept(ran['mlp_out'][-1], heads, rest if with_other else None)
    np.testing.assert_allclose(found.intercepts[0], want)
    assert np.isfinite(found.intercepts).all()


def test_random_directions_are_seeded_and_of_length_1():
  found = random_directions(5, 400, 0)
  np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1)
  assert np.abs(found @ found.T - np.eye(5)).max() < 0.25
  np.testing.assert_array_equal(found[:2], random_directions(2, 400, 0))
  assert (found != random_directions(5, 400, 1)).all()


@pytest.mark.parametrize('templates', [1, 3])
def test_split_is_by_subject(templates):
  subjects = np.repeat(np.arange(9), templates)
  first = split_subjects(subjects, 0)
  by_subject = first.reshape(9, templates)
  assert (by_subject == by_subject[:, :1]).all()
  assert by_subject[:, 0].sum() == 4
  np.testing.assert_array_equal(first, split_subjects(subjects, 0))
  assert any((first != split_subjects(subjects, seed)).any() for seed in (1, 2))
  with pytest.raises(ValueError, match='1 subject'):
    split_subjects(np.zeros(3, int), 0)


def test_results_are_paired_means():
  _, model = tiny.pair(0, 'gpt2')
  prompts = random_prompts.make(templates=1)
  found = mitigate(model, trace(model, prompts), prompts)
  results = found.to_results()
  none, mask = found.arms['none'], found.arms['mask']
  assert list(results['arms'])[0] == 'none' and len(results['arms']) == 9
  got = results['arms']['mask']
  assert got['mean']['prob']['value'] == pytest.approx(mask.prob.mean())
  assert got['mean']['top1']['value'] == mask.says.mean()
  change = got['change']['log_prob']
  differences = (mask.log_prob - none.log_prob).astype(float)
  assert change['value'] == pytest.approx(differences.mean())
  assert change['low'] < change['value'] < change['high'] and change['n'] == 6
  # Of all directions alike: the mean of probabilities, not of their logarithms.
  random, got = found.arms['random'], results['arms']['random']
  assert random.prob.shape == random.says.shape == (DIRECTIONS, 6)
  assert got['mean']['prob']['value'] == pytest.approx(random.prob.mean())
  assert got['mean']['top1']['value'] == pytest.approx(random.says.mean())
  change = got['change']['entropy']
  gained = random.entropy.mean() - none.entropy.mean()
  assert change['value'] == pytest.approx(gained, abs=1e-6)
  assert change['low'] < change['value'] < change['high'] and change['n'] == 6
  assert results['arms']['none']['change']['pi'] == {
    'value': 0,
    'low': 0,
    'high': 0,
    'n': 6,
  }


def test_batches_do_not_matter():
  _, model = tiny.pair(0, 'gemma2')
  x = np.random.default_rng(0).standard_normal((7, 40)).astype(np.float32)
  np.testing.assert_allclose(
    run_alone(model, x, np.arange(7)),
    run_alone(model, x, np.arange(7), rows_per_batch=3),
    atol=1e-5,
  )
