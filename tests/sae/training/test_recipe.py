"""Constants, schedules and what a configuration refuses."""

import dataclasses
import functools
import json
import math

import numpy as np
import pytest

from sae.training.recipe import TrainConfig

PAPER = TrainConfig(width=16384, num_steps=1_000_000)


def test_the_defaults_are_gemma_scopes():
  """arXiv 2408.05147, section 3.2."""
  for name, value in {
    'learning_rate': 7e-5,
    'warmup_steps': 1000,
    'adam_b1': 0,
    'adam_b2': 0.999,
    'adam_eps': 1e-8,
    'batch_size': 4096,
    'sparsity_warmup_steps': 10_000,
    'bandwidth': 0.001,
    'initial_threshold': 0.001,
    'threshold_learning_rate': None,
    'encoder_learning_rate': None,
    'bias_learning_rate': None,
    'encoder_scale': 1,
    'penalty': 'l0',
    'decay': 'none',
  }.items():
    assert getattr(PAPER, name) == value


def test_schedules():
  steps = np.array([0, 500, 1000, 5000, 10_000, 900_000])
  want = [0.1, 0.1 + 0.9 * 0.5, 1, 1, 1, 1]
  np.testing.assert_allclose(PAPER.rate_factor(steps), want, rtol=1e-6)
  np.testing.assert_allclose(
    PAPER.sparsity_factor(steps), [0, 0.05, 0.1, 0.5, 1, 1], rtol=1e-6
  )
  for decay, half in (('linear', 0.5), ('cosine', 0.5)):
    config = dataclasses.replace(PAPER, decay=decay, decay_steps=200_000)
    at = np.array([800_000, 900_000, 1_000_000])
    np.testing.assert_allclose(config.rate_factor(at), [1, half, 0], atol=1e-6)
  at_once = dataclasses.replace(PAPER, warmup_steps=0, sparsity_warmup_steps=0)
  assert at_once.sparsity_factor(np.array(1)) == 1


def test_a_sweep_pairs_its_lists():
  config = dataclasses.replace(PAPER, sparsity=[1e-3, 2e-3], seed=[4, 5])
  runs = [(r.sparsity, r.seed, r.target_l0) for r in config.runs]
  assert runs == [(1e-3, 4, None), (2e-3, 5, None)]
  assert hash(config) == hash(dataclasses.replace(config))
  assert config.shared == PAPER.shared
  targeted = dataclasses.replace(PAPER, target_l0=(20, 50, 100))
  assert [r.target_l0 for r in targeted.runs] == [20, 50, 100]
  assert targeted.shared != PAPER.shared


@pytest.mark.parametrize(
  'changes, words',
  [
    ({'width': 0}, 'width'),
    ({'num_steps': 2.5}, 'num_steps'),
    ({'learning_rate': 0}, 'learning_rate'),
    ({'learning_rate': math.nan}, 'learning_rate'),
    ({'threshold_learning_rate': -1}, 'threshold_learning_rate'),
    ({'bias_learning_rate': math.inf}, 'bias_learning_rate'),
    ({'adam_b2': 1.0}, 'adam_b2'),
    ({'penalty': 'l1'}, "'l0', 'tanh'"),
    ({'compute_dtype': 'float16'}, 'bfloat16'),
    ({'decay': 'linear'}, 'decay_steps=0'),
    ({'decay_steps': 5}, "decay='none'"),
    ({'decay': 'linear', 'decay_steps': 2_000_000}, 'num_steps=1000000'),
    ({'bucket_size': 5000}, 'multiple of batch_size=4096'),
    ({'sparsity': []}, 'sweep'),
    ({'sparsity': [1, 2], 'seed': [1, 2, 3]}, 'sweep'),
    ({'sparsity': [1e-3, -1]}, 'sparsity'),
    ({'sparsity': '0.1'}, "sparsity must be .* '0.1'"),
    ({'learning_rate': None}, 'learning_rate must be .* None'),
    ({'adam_b1': '0.9'}, 'adam_b1'),
    ({'encoder_learning_rate': '1'}, 'encoder_learning_rate'),
    ({'target_l0': '3'}, 'target_l0'),
    ({'seed': 0.5}, 'seed'),
    ({'seed': 2**32}, 'seed .* below 2'),
    ({'target_l0': 16384}, 'width=16384'),
    ({'target_l0': 50, 'sparsity': 0}, 'first coefficient'),
    ({'target_l0': (None, 4.0)}, 'all runs or none'),
    ({'target_l0': 50, 'num_steps': 10_000}, 'Shorten the warm-up'),
    ({'target_l0': 50, 'threshold_learning_rate': 0}, 'above 0'),
    ({'dead_after': 2**31}, 'dead_after'),
    ({'runs_at_once': 0}, 'runs_at_once'),
  ],
)
def test_refused(changes, words):
  with pytest.raises(ValueError, match=words):
    dataclasses.replace(PAPER, **changes)


def test_numpy_numbers_are_numbers():
  config = TrainConfig(
    width=np.int64(64),
    num_steps=np.int32(5),
    sparsity=np.geomspace(1e-3, 1e-1, 3),
    seed=tuple(np.arange(3)),
  )
  assert len(config.runs) == 3
  json.dumps(dataclasses.asdict(config))


@pytest.mark.parametrize('batch_size', [1000, 4096, 1 << 18])
@pytest.mark.parametrize(
  'recipe, rises',
  [
    (functools.partial(TrainConfig.fast, d_in=64), 750),
    (functools.partial(TrainConfig.fast, d_in=64, target_l0=20.0), 200),
    (TrainConfig.short, 200),
  ],
)
def test_recipes_of_few_updates(recipe, rises, batch_size):
  config = recipe(width=512, num_steps=1000, batch_size=batch_size)
  assert config.decay_steps == 200 and config.warmup_steps == 100
  assert config.sparsity_warmup_steps == rises
  assert config.bucket_size % batch_size == 0
  assert recipe(width=512, num_steps=7).num_steps == 7
  assert recipe(width=512, num_steps=7, adam_b2=0.5).adam_b2 == 0.5


@pytest.mark.parametrize('d_in, width', [(16, 16), (64, 512), (2304, 16384)])
def test_the_fast_recipe_is_scaled_to_its_activations(d_in, width):
  """A hundredth of the latents begin active; all would be about x together."""
  config = TrainConfig.fast(d_in=d_in, width=width, num_steps=100)
  rng = np.random.default_rng(0)
  x = rng.standard_normal((256, d_in)) / d_in**0.5
  rows = rng.standard_normal((width, d_in))
  rows /= np.linalg.norm(rows, axis=1, keepdims=True)
  z = config.encoder_scale * x @ rows.T
  assert (z > config.initial_threshold).mean() == pytest.approx(0.01, abs=0.005)
  if width > 2 * d_in:
    whole = np.maximum(z, 0) @ rows
    lengths = (whole**2).sum(1) / (x**2).sum(1)
    assert np.sqrt(lengths.mean()) == pytest.approx(1, rel=0.2)
  assert config.learning_rate == pytest.approx(abs(rows).mean(), rel=0.4)


@pytest.mark.parametrize('d_in', [0, -1, 64.0, None])
def test_the_fast_recipe_refuses_no_width(d_in):
  with pytest.raises(ValueError, match='d_in must be a whole number'):
    TrainConfig.fast(d_in=d_in, width=8, num_steps=10)
