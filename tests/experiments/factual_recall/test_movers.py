"""Movers and source tokens against SciPy, loops and logit attribution."""

import numpy as np
import pytest
from scipy import stats

from experiments.factual_recall.movers import movers, source_attribution
from experiments.factual_recall.trace import Readout, trace
import gemma_jax as gj
from tests import tiny
from tests.experiments.factual_recall import random_prompts


def case(family, prefix):
  _, model = tiny.pair(0, family)
  prompts = random_prompts.make(prefix=prefix)
  clean = trace(model, prompts, rows_per_batch=5)
  readout = Readout.of(model, prompts.answers, prompts.names)
  return model, prompts, clean, readout


@pytest.mark.parametrize(
  ('family', 'prefix'), [('gemma2', 0), ('gpt2', 3), ('llama', 2)]
)
def test_sources_add_up_to_the_heads_contribution(family, prefix):
  model, prompts, clean, readout = case(family, prefix)
  sources = source_attribution(model, prompts, clean, readout, rows_per_batch=7)
  tokens, positions = prompts.whole()
  out = gj.run(
    model,
    tokens,
    positions,
    capture=gj.capture(*gj.PART_SITES, positions='last'),
  )
  mean = np.arange(model.config.vocab_size)
  heads = gj.direct_logit_attribution(model, out, prompts.answers).heads
  others = [
    gj.direct_logit_attribution(model, out, np.full(len(prompts), token)).heads
    for token in mean
  ]
  expected = (heads - np.mean(others, axis=0))[:, 0]  # [n, L, N]
  np.testing.assert_allclose(
    sources.sum(-1), np.moveaxis(expected, 0, -1), atol=2e-5
  )
  if not prefix:
    assert np.abs(sources[..., 0]).max() == 0


def test_a_head_that_sees_one_token_takes_all_from_there():
  """With every other edge cut, the whole contribution is the last token's."""
  model, prompts, _, readout = case('llama', 0)
  alone = trace(
    model,
    prompts,
    interventions=[gj.knock_out_attention(queries='last', keys=range(20))],
  )
  assert np.abs(alone.attention_to(prompts.spans)[:, :, :]).max() <= 1
  attention = alone.pattern.max(-1)
  np.testing.assert_allclose(attention, 1, atol=1e-6)


def test_correlations_are_scipys():
  model, prompts, clean, _ = case('gemma2', 2)
  found = movers(model, clean, prompts, seed=3)
  estimates = found.correlations(resamples=200)
  rows = np.asarray(model.unembedding)[prompts.names].astype(float)
  for layer in range(model.config.num_layers):
    outputs = gj.head_outputs(
      model, layer, clean['z'][layer], clean['attn_out_raw'][layer]
    )
    for head in range(model.config.num_heads):
      write = (outputs[:, head] * rows).sum(-1)
      np.testing.assert_allclose(found.write[layer, head], write, rtol=1e-9)
      attention = clean.attention_to(prompts.spans)[layer, :, head]
      expected = stats.pearsonr(attention.astype(float), write).statistic
      one = estimates[layer][head]
      np.testing.assert_allclose(one.value, expected, atol=1e-7)
      assert -1 <= one.low <= one.high <= 1


def test_intervals_are_those_of_resampled_subjects():
  """As refitted on the rows of the subjects that were drawn."""
  model, prompts, clean, _ = case('llama', 0)
  found = movers(model, clean, prompts, seed=5)
  one = found.correlations(resamples=300)[1][0]
  rng = np.random.default_rng(5)
  drawn = rng.multinomial(6, np.full(6, 1 / 6), size=300)
  x, y = found.attention[1, 0], found.write[1, 0]
  values = []
  for counts in drawn:
    rows = np.repeat(np.arange(len(x)), counts[prompts.subjects])
    values.append(np.corrcoef(x[rows], y[rows])[0, 1])
  low, high = np.quantile(values, [0.025, 0.975])
  np.testing.assert_allclose([one.low, one.high], [low, high], atol=1e-6)


def test_what_never_varies_has_no_correlation():
  model, prompts, clean, _ = case('llama', 0)
  found = movers(model, clean, prompts)
  found.attention[0, 0] = 0.5
  assert np.isnan(found.correlations(resamples=20)[0][0].value)
