"""Function application against runs of the model and plain sums."""

import functools
import json

import numpy as np
import pytest

from experiments.factual_recall.function_application import function_application
from experiments.factual_recall.regression import READ
from experiments.factual_recall.trace import Readout
import gemma_jax as gj
from tests.experiments.factual_recall.planted import LAYER, prompts, traced


class TestFunctionApplication:
  @pytest.mark.parametrize('family', ['gpt2', 'gemma2'])
  def test_removal_is_a_run_with_heads_held(self, family):
    model, run = traced(family)
    asked, rng = prompts(), np.random.default_rng(1)
    b = rng.standard_normal(model.config.d_model)
    c = rng.standard_normal((12, model.config.d_model))
    readout = Readout.of(model, asked.answers, asked.names)
    found = function_application(
      model,
      run,
      asked,
      readout,
      LAYER,
      b,
      c,
      control_intercept=-2 * b,
      seed=2,
      sets=5,
    )
    order = list(dict.fromkeys(asked.units))
    own = np.array([order.index(unit) for unit in asked.units])
    for name, vector in (
      ('intercept', b),
      ('control intercept', -2 * b),
      ('subject', c[own]),
    ):
      for how, sign in (('removed', -1), ('added', 1)):
        changes = [
          gj.patch('z', source=run['z'][:, :, None], positions='last'),
          gj.steer(
            'mlp_out',
            (sign * vector).astype(np.float32),
            layers=LAYER,
            positions='last',
          ),
        ]
        out = gj.run(
          model,
          asked.tokens,
          asked.positions,
          interventions=changes,
          capture=gj.capture('resid_post', positions='last'),
          logits_at='last',
        )
        before = read(model, run.final, asked)
        after = read(model, np.asarray(out['resid_post'][-1][:, 0]), asked)
        truth = (after - before).mean(0)
        effect = found.effects[name][how]
        np.testing.assert_allclose(
          [effect[each].value for each in READ], truth, atol=2e-5
        )

  def test_reads_tokens_of_an_intercept(self):
    model, run = traced('gpt2')
    asked = prompts()
    readout = Readout.of(model, asked.answers, asked.names)
    table = np.asarray(model.unembedding, np.float64)
    b = table[np.unique(asked.answers)].mean(0)
    found = function_application(
      model, run, asked, readout, LAYER, b, top=6, sets=200
    )
    gain = np.asarray(model.final_norm[...], np.float64)
    logits = table @ ((b - b.mean()) * gain)
    assert found.tokens.tolist() == np.argsort(-logits)[:6].tolist()
    np.testing.assert_allclose(
      found.values, np.sort(logits)[::-1][:6], rtol=1e-5
    )
    answers = set(asked.answers.tolist())
    share = np.mean([token in answers for token in found.tokens.tolist()])
    assert found.answer_fraction == share
    cosines = found.cosines['answers']
    assert cosines['value'] == pytest.approx(1)
    assert cosines['percentile'] == 100
    assert (cosines['size'], cosines['sets']) == (12, 200)
    assert abs(cosines['random']) < 0.9
    assert found.cosines['names']['value'] < 0.9
    assert list(found.effects) == ['intercept']
    json.dumps(found.to_results())

  def test_percentile_is_a_rank_among_random_sets(self):
    model, run = traced('gpt2')
    asked = prompts()
    readout = Readout.of(model, asked.answers, asked.names)
    b = np.random.default_rng(4).standard_normal(model.config.d_model)
    found = function_application(
      model, run, asked, readout, LAYER, b, seed=3, sets=300
    )
    table = np.asarray(model.unembedding, np.float64)
    cosine = lambda ids: (
      (b @ (mean := table[ids].mean(0)))
      / np.linalg.norm(b)
      / np.linalg.norm(mean)
    )
    value = cosine(np.unique(asked.answers))
    rng = np.random.default_rng(99)
    others = [cosine(rng.permutation(97)[:12]) for _ in range(2000)]
    rank = 100 * np.mean(np.array(others) < value)
    assert found.cosines['answers']['value'] == pytest.approx(value)
    assert found.cosines['answers']['percentile'] == pytest.approx(rank, abs=10)
    # Sets of one size are the same ones.
    assert (
      found.cosines['answers']['random'] == found.cosines['names']['random']
    )

  def test_says_what_a_function_would_do(self):
    model, run = traced('gpt2')
    asked = prompts()
    readout = Readout.of(model, asked.answers, asked.names)
    b = 3 * (readout.answer - readout.name).mean(0)
    last = model.config.num_layers - 1
    apply = functools.partial(
      function_application, model, run, asked, readout, last, sets=2
    )
    # In the last layer little but the final norm comes after.
    found = apply(b)
    effects = found.effects['intercept']
    assert found.raises_answer == (effects['removed']['answer'].high < 0)
    assert found.lowers_name == (effects['removed']['name'].low > 0)
    difference = lambda how: (
      effects[how]['answer'].value - effects[how]['name'].value
    )
    assert difference('removed') < 0 < difference('added')
    with pytest.raises(ValueError, match='intercept'):
      apply(b[:-1])
    with pytest.raises(ValueError, match='subject_intercepts'):
      apply(b, np.zeros((3, len(b))))
    with pytest.raises(ValueError, match='control_intercept'):
      apply(b, control_intercept=b[1:])


def read(model, streams, asked) -> np.ndarray:
  """pi(Y) and pi(N) [n, 2] from all logits, by hand."""
  config = model.config
  x = streams.astype(np.float64)
  if config.norm == 'layer':
    x = x - x.mean(-1, keepdims=True)
  x /= np.sqrt((x * x).mean(-1, keepdims=True) + config.norm_eps)
  x *= config.norm_offset + np.asarray(model.final_norm[...], np.float64)
  if model.final_norm_b is not None:
    x += np.asarray(model.final_norm_b[...], np.float64)
  logits = x @ np.asarray(model.unembedding, np.float64).T
  logits -= logits.mean(-1, keepdims=True)
  rows = np.arange(len(x))
  return np.stack([logits[rows, asked.answers], logits[rows, asked.names]], 1)
