import jax.numpy as jnp
import numpy as np
import pytest
import torch

from experiments.factual_recall import price as price_lib
from experiments.factual_recall.mitigation import random_directions
from experiments.factual_recall.plain_text import default_text, text_rows
from experiments.factual_recall.price import predictions, price, read_text
import gemma_jax as gj
from tests import tiny
from tests.gemma_jax import hf_hooks
from tests.gemma_jax.text import tiny_tokenizer

ROWS = np.random.default_rng(0).integers(3, 97, (5, 12)).astype(np.int32)
B = np.random.default_rng(1).standard_normal(40)


@pytest.mark.parametrize('family', ['gemma2', 'gpt2', 'llama', 'opt'])
def test_losses_are_those_of_transformers(family, monkeypatch):
  hf, model = tiny.pair(0, family)
  # A few tokens at a time, and rows that do not divide.
  monkeypatch.setattr(price_lib, '_LOGITS_BYTES', 4 * 97 * 9)
  found = price(model, read_text(model, ROWS, rows_per_batch=2), B)
  L, (R, T) = model.config.num_layers, ROWS.shape
  own = torch.eye(T, dtype=torch.bool)
  edges = (~own).expand(R, model.config.num_heads, T, T)
  (random,) = np.linalg.norm(B) * random_directions(1, len(B), 0)
  minus, other = (
    [('resid_post', L - 1, lambda x, b=b: x - torch.tensor(b, dtype=x.dtype))]
    for b in (B, random)
  )
  positions = np.broadcast_to(np.arange(T), (R, T))
  for arm, changes, cut in (
    ('none', [], None),
    ('mask', [], {L - 1: edges}),
    ('intercept', minus, None),
    ('both', minus, {L - 1: edges}),
    ('random', other, None),
  ):
    with hf_hooks.hooked(hf, changes, cut):
      logits = tiny.hf_forward(hf, ROWS, positions).logits[:, :-1]
    targets = torch.tensor(ROWS[:, 1:]).long()
    loss = torch.nn.functional.cross_entropy(
      logits.reshape(-1, 97), targets.reshape(-1)
    )
    got = found['arms'][arm]
    assert got['loss']['value'] == pytest.approx(float(loss), abs=2e-3)
    assert got['perplexity']['value'] == pytest.approx(
      float(loss.exp()), rel=2e-3
    )
    assert got['perplexity']['n'] == R * (T - 1)
    probabilities = logits.softmax(-1).max(-1)
    right = probabilities.indices == targets
    assert got['top1']['value'] == pytest.approx(right.float().mean().item())
    sure = probabilities.values
    assert got['confidence']['wrong']['value'] == pytest.approx(
      sure[~right].mean().item(), abs=1e-3
    )
    assert got['confidence']['wrong']['n'] == int((~right).sum())


def test_perplexity_is_of_the_library_s_losses():
  _, model = tiny.pair(0, 'llama')
  found = price(model, read_text(model, ROWS), None)
  assert list(found['arms']) == ['none', 'mask']
  out = gj.run(model, ROWS, capture=gj.capture('resid_post', layers=[4]))
  losses = gj.token_losses(model, out['resid_post', 4], jnp.asarray(ROWS))
  none = found['arms']['none']
  assert none['perplexity']['value'] == pytest.approx(
    float(np.exp(np.mean(losses[:, :-1]))), rel=1e-5
  )
  assert none['perplexity_ratio'] | {'n': 0} == {
    'value': 1,
    'low': 1,
    'high': 1,
    'n': 0,
  }
  mask = found['arms']['mask']
  ratio = mask['perplexity']['value'] / none['perplexity']['value']
  assert mask['perplexity_ratio']['value'] == pytest.approx(ratio)
  assert mask['loss_change']['value'] == pytest.approx(np.log(ratio))
  low, high = mask['perplexity_ratio']['low'], mask['perplexity_ratio']['high']
  assert low < ratio < high


def test_calibration_is_the_mean_distance_of_bins():
  _, model = tiny.pair(0, 'gemma2')
  found = price(model, read_text(model, ROWS), None)['arms']['none']
  out = gj.run(model, ROWS, capture=gj.capture('resid_post', layers=[4]))
  _, sure, right = predictions(model, np.asarray(out['resid_post', 4]), ROWS)
  order = np.argsort(sure.reshape(-1))
  bins = np.array_split(order, 15)  # equal mass
  want = sum(
    len(b) * abs(sure.reshape(-1)[b].mean() - right.reshape(-1)[b].mean())
    for b in bins
  )
  calibration = found['calibration']
  assert calibration['ece'] == pytest.approx(want / sure.size, abs=0.02)
  assert len(calibration['bins']) == 15
  assert found['confidence']['all']['value'] == pytest.approx(sure.mean())


def test_rows_have_bos_and_are_running_text():
  tokenizer = tiny_tokenizer.ours()
  _, model = tiny.pair(0, 'llama', vocab_size=tokenizer.vocab_size)
  text = default_text()[:3000]
  rows = text_rows(tokenizer, text, context=16, tokens=100, config=model.config)
  assert rows.shape == (6, 16) and rows.dtype == np.int32
  assert (rows[:, 0] == tokenizer.bos_id).all()
  assert not (rows[:, 1:] == tokenizer.bos_id).any()
  # Each is running text; together they are from all of it.
  places = []
  for row in rows:
    decoded = tokenizer.decode(row[1:].tolist()).strip()
    places.append(text.find(decoded))
    assert places[-1] >= 0
  assert places == sorted(set(places))
  assert places[0] == 0 and places[-1] > len(text) / 2
  short = text_rows(
    tokenizer, text[:200], context=16, tokens=10**6, config=model.config
  )
  decoded = ''.join(tokenizer.decode(row[1:].tolist()) for row in short)
  assert decoded.split()[:20] == text.split()[:20]
  found = price(model, read_text(model, rows), None)
  assert found['rows'] == 6 and found['context'] == 16
  with pytest.raises(ValueError, match='do not fill'):
    text_rows(tokenizer, 'Paris', context=16, tokens=9, config=model.config)
  with pytest.raises(ValueError, match='do not fit'):
    text_rows(tokenizer, text, context=10**9, tokens=9, config=model.config)
  small = tiny.pair(0, 'llama')[1].config
  with pytest.raises(ValueError, match='belong together'):
    text_rows(tokenizer, text, context=64, tokens=640, config=small)


def test_default_text_is_prose():
  text = default_text()
  assert text == default_text() and len(text) > 100_000
  for mark in ('::=', '>>>', '+--', '==', '***', '"'):
    assert mark not in text
  paragraphs = text.strip().split('\n\n')
  assert len(set(paragraphs)) == len(paragraphs)
  assert all(each[-1] in '.:' and '\n' not in each for each in paragraphs)
  letters = sum(c.isalpha() or c == ' ' for c in text)
  assert letters / len(text) > 0.92


def test_wrong_rows_are_refused():
  _, model = tiny.pair(0, 'llama')
  with pytest.raises(ValueError, match=r'\[R, T\]'):
    read_text(model, np.zeros((3, 1), int))
