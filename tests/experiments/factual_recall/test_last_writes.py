import numpy as np
import pytest
from scipy import stats

from experiments.factual_recall.last_writes import (
  average_token,
  last_layer_writes,
  rank_correlation,
)
from experiments.factual_recall.plain_text import unigram_counts
from experiments.factual_recall.trace import trace
from tests import tiny
from tests.experiments.factual_recall import random_prompts
from tests.gemma_jax.text import tiny_tokenizer


def counts(size=97, seed=0):
  found = np.random.default_rng(seed).geometric(0.2, size) - 1
  found[3:20] = 0
  return found


@pytest.fixture(scope='module', params=['gemma2', 'gpt2', 'llama', 'opt'])
def studied(request):
  _, model = tiny.pair(0, request.param)
  prompts = random_prompts.make()
  ran = trace(model, prompts)
  intercepts = np.random.default_rng(0).standard_normal((5, 40))
  found = last_layer_writes(
    model, ran, counts(), units=prompts.units, intercepts=intercepts, top=4
  )
  return model, ran, intercepts, found


def test_heads_are_their_weights_times_the_unembedding(studied):
  model, ran, _, found = studied
  config = model.config
  weights = {k: np.asarray(w, np.float64) for k, w in model.weights().items()}
  seen = np.flatnonzero(counts())
  gain = config.norm_offset + weights['final_norm']
  for head in range(config.num_heads):
    at = slice(head * config.head_dim, (head + 1) * config.head_dim)
    written = []
    for z, raw in zip(ran['z'][-1], ran['attn_out_raw'][-1], strict=True):
      one = weights['wo'][-1][:, head] @ z[at].astype(np.float64)
      if config.post_norms:
        rms = np.sqrt((raw.astype(float) ** 2).mean() + config.norm_eps)
        one = one / rms * (config.norm_offset + weights['post_attn_norm'][-1])
      written.append(one)
    mean = np.mean(written, axis=0)
    if config.norm == 'layer':
      mean = mean - mean.mean()
    table = weights['embed' if config.tied else 'unembed']
    logits = table @ (mean * gain)
    got = found['heads'][head]
    want = stats.spearmanr(logits[seen], np.log(counts()[seen])).statistic
    assert got['frequency']['value'] == pytest.approx(want, abs=2e-3)
    assert got['frequency']['n'] == len(seen) == found['tokens_seen']
    assert [each['id'] for each in got['top']] == [*np.argsort(-logits)[:4]]
    np.testing.assert_allclose(
      [each['logit'] for each in got['top']], -np.sort(-logits)[:4], rtol=1e-3
    )
    assert found['layers'][-1]['frequency']['heads'][head] == got['frequency']


def test_average_token_by_a_loop(studied):
  model = studied[0]
  table = 'embed' if model.config.tied else 'unembed'
  rows = np.asarray(model.weights()[table], np.float64)
  want, total = 0, counts().sum()
  for token, count in enumerate(counts()):
    want = want + count / total * (rows[token] - rows.mean(0))
  got, mean = average_token(model, counts())
  np.testing.assert_allclose(got, want, atol=1e-9)
  np.testing.assert_allclose(mean, rows.mean(0), atol=1e-9)


def test_cosines_are_with_the_average_token(studied):
  model, ran, intercepts, found = studied
  average, _ = average_token(model, counts())
  config = model.config
  gain = config.norm_offset + np.asarray(model.final_norm[...], np.float64)
  gained = average * gain
  if config.norm == 'layer':
    gained = gained - gained.mean()
  cosine = lambda a, b: a @ b / np.linalg.norm(a) / np.linalg.norm(b)
  for layer, row in enumerate(found['layers']):
    mlp = ran['mlp_out'][layer].astype(float).mean(0)
    for key, direction in (('cosine', average), ('cosine_with_gain', gained)):
      got = row[key]
      assert got['mlp']['value'] == pytest.approx(
        cosine(mlp, direction), abs=1e-6
      )
      want = cosine(intercepts[layer], direction)
      assert got['intercept']['value'] == pytest.approx(want)
      assert got['mlp']['low'] <= got['mlp']['high']
      assert got['intercept']['low'] is None
      low, high = got['intercept']['chance']
      assert -1 <= low < high <= 1
  others = [row['cosine']['mlp']['value'] for row in found['layers']]
  less = found['last_less_others']['cosine']
  assert less['value'] == pytest.approx(others[-1] - np.mean(others[:-1]))


def test_planted_average_token_is_found():
  """An MLP that writes the average token is beyond what chance gives."""
  _, model = tiny.pair(0, 'llama')
  prompts = random_prompts.make()
  ran = trace(model, prompts)
  average, _ = average_token(model, counts())
  size = np.linalg.norm(ran['mlp_out'][-1], axis=1).mean()
  average *= 3 * size / np.linalg.norm(average)
  ran.activations['mlp_out'][-1] += average.astype(np.float32)
  found = last_layer_writes(model, ran, counts(), units=prompts.units)
  last = found['layers'][-1]['cosine']['mlp']
  assert last['value'] > last['chance'][1] and last['low'] > 0.8
  assert found['layers'][-1]['cosine']['intercept'] is None
  assert found['last_less_others']['cosine']['value'] > 0.5


def test_rank_correlation_is_scipys():
  rng = np.random.default_rng(0)
  x, y = rng.standard_normal((2, 200))
  y = np.round(x + y, 1)  # ties
  found = rank_correlation(x, y)
  assert found.value == pytest.approx(stats.spearmanr(x, y).statistic)
  assert 0 < found.low < found.value < found.high < 1 and found.n == 200
  # Coverage of the interval where the truth is 0.
  draws = [rank_correlation(*rng.standard_normal((2, 50))) for _ in range(300)]
  inside = np.mean([each.low < 0 < each.high for each in draws])
  assert 0.91 < inside < 0.98
  assert np.isnan(rank_correlation(np.ones(5), np.arange(5)).value)


def test_counts_are_of_the_text_and_of_the_vocabulary():
  tokenizer = tiny_tokenizer.ours()
  text = 'The player was born in Paris.\n\nThe city Paris is in Texas; so.\n'
  found = unigram_counts(tokenizer, text)
  assert len(found) == tokenizer.vocab_size
  paris = tokenizer.encode(' Paris', bos=False)
  assert found[paris[0]] >= 2 and found[tokenizer.bos_id] == 0
  _, model = tiny.pair(0, 'llama')
  prompts = random_prompts.make(templates=1)
  ran = trace(model, prompts)
  with pytest.raises(ValueError, match='another tokenizer'):
    last_layer_writes(model, ran, found, units=prompts.units)
  with pytest.raises(ValueError, match='No token'):
    last_layer_writes(model, ran, np.zeros(97), units=prompts.units)
  fewer = last_layer_writes(model, ran, counts(90), units=prompts.units)
  assert fewer['vocabulary'] == 97 and fewer['tokens'] == counts(90).sum()
