"""The sweep against running every cell as a whole; and what it costs."""

import dataclasses

import numpy as np
import pytest

from experiments.attention import knockouts
from experiments.attention.cases import pad_cases
from experiments.attention.edges import Edges, edge_masks, places
from experiments.attention.knockout_runs import run_study
from experiments.attention.knockouts import (
  knock_out,
  rows_of,
  sweep_flops,
  tokens_again,
)
from experiments.attention.windows import parse_heads, parse_windows
import gemma_jax as gj
from sae.jumprelu import encode
from tests.experiments.attention import small

CONFIG = small.model().config
HEADS = parse_heads(['all', 'H1', 'L2H0+L3H2'], CONFIG)
WINDOWS = parse_windows([1, 3, 'from'], CONFIG)
WANTED = [case.answer_tokens for case in small.cases()]


def naive(cases, edge, cut, watched):
  """Whole runs of all prompts with one knockout per layer, cut [L, N].

  Returns log-probabilities [P, V], and latents [P, 2, k] as a Sweep has them.
  """
  batch = pad_cases(cases, 0, 10)
  queries, keys = edge_masks([edge], cases, 10)
  changes = [
    gj.knock_out_attention(
      queries=gj.per_row(queries[:, 0]),
      keys=gj.per_row(keys[:, 0]),
      layers=layer,
      heads=heads,
    )
    for layer, heads in enumerate(cut)
  ]
  out = gj.run(
    small.model(),
    *batch,
    interventions=changes,
    capture=gj.capture('resid_post'),
    logits_at='last',
  )
  logits = np.asarray(out.logits)[:, 0].astype(float)
  log_probs = logits - np.logaddexp.reduce(logits, axis=-1)[:, None]
  stream = np.asarray(out['resid_post'])  # [L, P, T, D]
  latents = [
    [
      [
        float(encode(each, stream[int(each.layer), p, at])[0])
        for each in watched
      ]
      for at in (case.span[1] - 1, case.length - 1)
    ]
    for p, case in enumerate(cases)
  ]
  return log_probs, np.array(latents)


@pytest.mark.parametrize(
  'names',
  [
    ('last:entity', 'last:rest', 'last:-2'),
    ('entity+after:bos+entity', 'entity+after:before'),
  ],
)
def test_a_sweep_is_what_whole_runs_give(names):
  """Windows, heads and edges at random, and the model as it is."""
  edges = [Edges.parse(name) for name in names]
  cases, watched = small.cases(), small.watched()
  sweep = knock_out(
    small.model(), cases, edges, WINDOWS, HEADS, WANTED, watched
  )
  rng = np.random.default_rng(0)
  rows = rows_of(edges, HEADS)
  moved = []
  for n in range(16):
    w, r = rng.integers(len(WINDOWS)), rng.integers(len(rows))
    edge, heads = rows[r]
    cut = WINDOWS[w].layers[:, None] & heads.heads
    if n == 0:
      w, cut = -1, np.zeros_like(cut)  # uncut
    log_probs, latents = naive(cases, edge, cut, watched)
    for p, wanted in enumerate(WANTED):
      right = np.logaddexp.reduce(log_probs[p, list(set(wanted))])
      assert sweep.log_prob[w + 1, p, r] == pytest.approx(right, abs=1e-5)
      assert sweep.says[w + 1, p, r] == (log_probs[p].argmax() in wanted)
    mine = sweep.latents[w + 1, :, r]
    again = np.isfinite(mine)
    assert again[:, 1].all() and again.all() == (names[0][0] == 'e')
    np.testing.assert_allclose(
      mine[again], latents[again], rtol=1e-4, atol=1e-4
    )
    moved.append(np.abs(sweep.log_prob[w + 1, :, r] - sweep.log_prob[0, :, r]))
  # Cutting matters, or the agreement would say nothing.
  assert moved[0].max() == 0 and np.max(moved) > 0.1


def test_other_windows_heads_and_edges_need_no_other_program():
  cases, model = small.cases(), small.model()
  edges = [Edges('last', 'entity'), Edges('last', 'bos')]
  before = knockouts._sweep._cache_size()
  knock_out(model, cases, edges, WINDOWS[:5], HEADS[:2], WANTED)
  made = knockouts._sweep._cache_size()
  assert made == before + 1
  others = [Edges('last', 'rest'), Edges('last', 'relation')]
  knock_out(model, cases, others, WINDOWS[7:12], HEADS[1:], WANTED)
  assert knockouts._sweep._cache_size() == made


def test_one_token_is_run_again_for_edges_of_the_last():
  cases = small.cases()
  last = [Edges('last', 'entity')]
  assert tokens_again(cases, last) == 1
  assert tokens_again(cases, [Edges('after', 'entity')]) == 4
  windows = parse_windows([1], CONFIG)
  flops = sweep_flops(CONFIG, cases, last, windows, HEADS[:1])
  L, T = CONFIG.num_layers, sum(case.length for case in cases)
  D, F = CONFIG.d_model, CONFIG.d_ff
  attention = 2 * D * CONFIG.head_dim * 2 * (4 + 2)
  layer = attention + 2 * 3 * D * F
  logits = 2 * D * CONFIG.vocab_size
  # Whole runs: every window, all layers of all tokens.
  assert flops['naive_flops'] == (1 + L) * (T * L * layer + 4 * logits)
  # Ours: a token per prompt from the window on, L (L + 1) / 2 in all.
  swept = 4 * L * (L + 1) // 2 * layer + L * 4 * logits
  assert flops['flops'] == (T + 4) * L * layer + 4 * logits + swept


def test_kept_sweeps_are_of_the_latents_that_are_asked_for(tmp_path):
  """Other weights or another layer: not those of the last call."""
  cases, edges = small.cases(), [Edges('last', 'entity')]
  first, second = small.watched()
  higher = dataclasses.replace(first, bias=first.bias + 3)
  for watched in (
    (first, second),
    (higher, second),
    (first, dataclasses.replace(second, layer=np.int32(2))),
    (first, second),
  ):
    arguments = (cases, edges, WINDOWS[-5:], HEADS[:1], WANTED, watched)
    study = run_study(small.model(), *arguments, folder=tmp_path, identity={})
    alone = knock_out(small.model(), *arguments)
    np.testing.assert_allclose(study.sweep.latents, alone.latents, rtol=1e-5)


def test_sets_of_tokens():
  case = small.cases()[0]  # 9 tokens, entity 3-4, relation 5-8
  at = lambda name: np.flatnonzero(places(name, case)).tolist()
  assert at('bos') == [0] and at('before') == [1, 2] and at('rest') == [1, 2]
  assert at('entity') == [3, 4] and at('entity_last') == [4]
  assert at('relation') == at('after') == [5, 6, 7, 8]
  assert at('last') == [8] and at('-2') == [7] and at('bos+-2') == [0, 7]
  queries, keys = edge_masks([Edges('last', 'entity')], [case], 12)
  assert np.flatnonzero(queries[0, 0]).tolist() == [8]
  assert np.flatnonzero(keys[0, 0]).tolist() == [3, 4]
  short = small.cases()[1]
  with pytest.raises(ValueError, match='no token in'):
    places('-8', short)


@pytest.mark.parametrize('text', ['last', 'last:', 'tail:entity', 'last:2'])
def test_what_names_no_edges_is_refused(text):
  with pytest.raises(ValueError, match='QUERIES:KEYS'):
    Edges.parse(text)


def test_windows_and_heads_as_flags_say_them():
  windows = parse_windows([2, 'from'], CONFIG)
  layers = [np.flatnonzero(w.layers).tolist() for w in windows]
  assert layers[:5] == [[0], [0, 1], [1, 2], [2, 3], [3, 4]]
  assert layers[5:] == [[*range(i, 5)] for i in range(5)]
  names = [each.name for each in parse_heads(['each', 'all'], CONFIG)]
  assert names == ['H0', 'H1', 'H2', 'H3', 'all']
  (some,) = parse_heads(['L1H2+H0'], CONFIG)
  assert some.heads.sum() == 6 and some.heads[1, 2] and some.heads[:, 0].all()
  for texts, parse in (
    ([0], parse_windows),
    ([9], parse_windows),
    ([], parse_windows),
    (['H4'], parse_heads),
    (['L5H0'], parse_heads),
    ([], parse_heads),
  ):
    with pytest.raises(ValueError, match='Give|names no head'):
      parse(texts, CONFIG)
