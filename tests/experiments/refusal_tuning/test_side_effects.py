import numpy as np
import pytest
from scipy.special import log_softmax

from experiments import inputs
from experiments.entities import is_refusal
from experiments.knowledge_probing.formats import Format
from experiments.refusal_tuning import side_effects as lib
import gemma_jax as gj
from tests import tiny

ROWS = np.random.default_rng(0).integers(3, 97, (6, 12)).astype(np.int32)
PROMPTS = [[5, 9, 11], [7, 8], [3, 4, 5, 6, 30], [50]]


@pytest.fixture(scope='module')
def pair():
  return tiny.pair(0, 'gemma2')[1], tiny.pair(1, 'gemma2')[1]


def log_probs(model, rows):
  tokens, positions = gj.pad_rows(rows, 0, side='right', buckets=16)
  out = gj.run(model, tokens, positions, logits_at='all')
  return log_softmax(np.asarray(out.logits, float), axis=-1)


def test_perplexity_is_that_of_the_logits(pair):
  found = lib.perplexity(*pair, ROWS, rows_per_batch=4)
  losses = []
  for model in pair:
    p = log_probs(model, ROWS.tolist())[:, : ROWS.shape[1]]
    of_next = np.take_along_axis(p[:, :-1], ROWS[:, 1:, None], axis=2)
    losses.append(-of_next[..., 0].mean(1))
  assert found['before']['value'] == pytest.approx(
    np.exp(losses[0].mean()), rel=1e-3
  )
  assert found['after']['value'] == pytest.approx(
    np.exp(losses[1].mean()), rel=1e-3
  )
  change = losses[1] - losses[0]
  assert found['loss_change']['value'] == pytest.approx(change.mean(), abs=1e-3)
  assert found['ratio']['value'] == pytest.approx(
    np.exp(change.mean()), rel=1e-3
  )
  # Paired over rows: the width is that of the changes.
  width = found['loss_change']['high'] - found['loss_change']['low']
  assert width == pytest.approx(
    2 * 1.96 * change.std() / np.sqrt(len(ROWS)), rel=0.25
  )
  assert found['before']['n'] == 6 * 11 and found['rows'] == 6
  with pytest.raises(ValueError, match='T of at least 2'):
    lib.perplexity(*pair, ROWS[:, :1])


def test_one_row_has_no_interval(pair):
  found = lib.perplexity(*pair, ROWS[:1])
  assert found['ratio']['value'] > 0 and found['ratio']['low'] is None


def decode(ids):
  return ' '.join(map(str, ids))


def test_answers_are_scored_as_they_were_generated(pair):
  stop = [2]
  found = lib.ordinary_answers(
    *pair,
    PROMPTS,
    stop_ids=stop,
    decode=decode,
    refuses=lambda text: '5' in text,
    max_new_tokens=5,
    rows_per_batch=3,
  )
  said, own, other, kl, refused = [], [], [], [], []
  for prompt in PROMPTS:
    made = []
    for model in pair:
      ids = list(prompt)
      for _ in range(5):
        ids.append(int(log_probs(model, [ids])[0, len(ids) - 1].argmax()))
        if ids[-1] in stop:
          break
      made.append(ids[len(prompt) :])
    answer = made[0]
    said.append(made)
    refused.append(['5' in decode([t for t in m if t != 2]) for m in made])
    p, q = (log_probs(model, [prompt + answer])[0] for model in pair)
    at = len(prompt) - 1 + np.arange(len(answer))
    own.append(p[at, answer].sum())
    other.append(q[at, answer].sum())
    kl.append((np.exp(p[at[0]]) * (p[at[0]] - q[at[0]])).sum())
  tokens = sum(len(made[0]) for made in said)
  assert [each['before'] for each in found['answers']] == [
    decode([t for t in made[0] if t != 2]) for made in said
  ]
  assert found['log_prob']['before']['value'] == pytest.approx(
    sum(own) / tokens, abs=2e-3
  )
  assert found['log_prob']['after']['value'] == pytest.approx(
    sum(other) / tokens, abs=2e-3
  )
  assert found['kl']['value'] == pytest.approx(np.mean(kl), rel=5e-3)
  assert found['refusal_rate']['after']['value'] == pytest.approx(
    np.mean([after for _, after in refused])
  )
  assert found['same']['value'] == np.mean([a == b for a, b in said])


def test_an_unchanged_model_answers_the_same(pair):
  model = pair[0]
  fast = gj.unstack_layers(model)
  found = lib.ordinary_answers(
    model,
    model,
    PROMPTS,
    stop_ids=[2],
    decode=decode,
    refuses=lambda text: False,
    max_new_tokens=4,
    generators=(fast, fast),
  )
  assert found['same']['value'] == 1
  assert found['kl']['value'] == pytest.approx(0, abs=1e-6)
  assert found['log_prob']['change']['value'] == 0
  assert found['refusal_rate']['change']['value'] == 0
  assert found['refusal_rate']['change']['high'] > 0.1  # of four requests
  with pytest.raises(ValueError, match='no ordinary requests'):
    lib.ordinary_answers(
      model, model, [], stop_ids=[2], decode=decode, refuses=is_refusal
    )


def test_known_facts_are_counted():
  before = ['correct'] * 8 + ['incorrect'] * 3
  after = ['correct'] * 5 + ['abstained'] * 2 + ['incorrect'] + ['correct'] * 3
  found = lib.facts_kept(before, after, range(11))
  assert {k: v['value'] for k, v in found.items()} == {
    'correct': 5 / 8,
    'abstained': 2 / 8,
    'incorrect': 1 / 8,
  }
  assert found['correct']['n'] == 8
  assert lib.facts_kept(['incorrect'], ['correct'], [1])['correct'] == {
    'value': None,
    'low': None,
    'high': None,
    'n': 0,
  }


def test_ordinary_requests_are_ordinary():
  requests = lib.read_ordinary()
  assert 35 <= len(requests) <= 45
  assert len({each['id'] for each in requests}) == len(requests)
  assert len({each['request'] for each in requests}) == len(requests)
  assert len({each['kind'] for each in requests}) >= 20
  # None of them is mistaken for a refusal itself.
  assert not any(is_refusal(each['request']) for each in requests)
  tokenizer = gj.Tokenizer.from_pretrained(str(inputs.CHAT))
  format = Format(name='chat', tokenizer=tokenizer)
  prompts = lib.ordinary_prompts(format, requests)
  assert prompts[0] == format.prompt_ids(requests[0]['request'])
