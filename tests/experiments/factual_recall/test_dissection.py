"""Knockouts in windows against whole runs, and against HF transformers."""

import dataclasses

import jax
import numpy as np
import pytest
import torch

from experiments.factual_recall.dissection import (
  ANSWER,
  GROUPS,
  LAST,
  SAID,
  CutEdges,
  can_cut,
  group_masks,
  record_prompts,
  said_and_answer,
)
from experiments.factual_recall.knockout_windows import (
  knock_out_windows,
  log_probs,
  windows,
)
import gemma_jax as gj
from tests import tiny
from tests.experiments.factual_recall import dissected
from tests.gemma_jax.hf_hooks import hooked

L = dissected.LAYERS


def published_window(layer, width):
  """As the authors' notebook has it."""
  return range(max(0, layer - width // 2), min(L, layer - (-width // 2)))


def cut(prompts, group, layers):
  """The cut as a change, by the library where it can do it."""
  keys = dissected.earlier(prompts, group)
  if group == LAST:
    return CutEdges.from_last(keys, list(layers))
  return gj.knock_out_attention(
    queries='last', keys=gj.per_row(keys), layers=list(layers)
  )


def last_log_probs(logits, tokens):
  logits = np.asarray(logits, float)
  rows = np.arange(len(tokens))
  return logits[rows, tokens] - np.logaddexp.reduce(logits, axis=-1)


@pytest.mark.parametrize('width', [1, 2, 3, 9])
def test_windows_are_the_published_ones(width):
  found = [range(*each) for each in windows(L, width)]
  assert found == [published_window(layer, width) for layer in range(L)]


@pytest.mark.parametrize('prefix', [0, 5])
@pytest.mark.parametrize('family', dissected.FAMILIES)
def test_a_window_is_what_a_whole_run_gives(family, prefix):
  """Every group and layer, for what the model says and for the answer."""
  prompts = dissected.prompts(prefix)
  model, trace = dissected.traced(family, prompts)
  targets = said_and_answer(model, prompts, trace)
  found = knock_out_windows(
    model, prompts, trace, targets, width=3, rows_per_batch=3
  )
  assert found['windows'] == [[0, 2], [0, 3], [1, 4], [2, 5], [3, 5]]
  batch = prompts.whole()
  clean = gj.run(model, *batch, logits_at='last').logits[:, 0]
  assert np.array_equal(targets[SAID], np.asarray(clean).argmax(-1))
  assert targets[ANSWER] is prompts.answers
  for g, group in enumerate(GROUPS):
    assert found['groups'][group]['skipped'] == 0
    for layer in range(L):
      change = cut(prompts, group, published_window(layer, 3))
      out = gj.run(model, *batch, interventions=[change], logits_at='last')
      for name, tokens in targets.items():
        naive = last_log_probs(out.logits[:, 0], tokens)
        array = found['arrays'][f'log_prob/{name}']
        np.testing.assert_allclose(array[g, layer], naive, atol=2e-4)


@pytest.mark.parametrize('family', dissected.FAMILIES)
def test_a_window_is_what_hf_gives(family):
  prompts = dissected.prompts()
  model, trace = dissected.traced(family, prompts)
  hf = tiny.pair(family=family)[0]
  targets = {ANSWER: prompts.answers}
  found = knock_out_windows(model, prompts, trace, targets, width=3)
  tokens, positions = prompts.tokens, prompts.positions
  n, T = tokens.shape
  for g, group in enumerate(GROUPS):
    keys = dissected.earlier(prompts, group)
    edges = np.zeros((n, model.config.num_heads, T, T), bool)
    for row in range(n):
      for slot in range(T):
        if (at := positions[row, slot]) >= 0:
          edges[row, :, -1, slot] = keys[row, at]
    for layer in (0, 2, 4):
      layers = dict.fromkeys(published_window(layer, 3), torch.tensor(edges))
      with hooked(hf, cut=layers):
        logits = tiny.hf_forward(hf, tokens, positions).logits[:, -1]
      np.testing.assert_allclose(
        found['arrays'][f'log_prob/{ANSWER}'][g, layer],
        last_log_probs(logits.numpy(), prompts.answers),
        atol=2e-3,
      )


def test_the_last_token_loses_its_view_of_itself():
  """And of nothing else; the library's own knockout keeps that view."""
  model, prompts = dissected.model(), dissected.prompts()
  keys = dissected.earlier(prompts, LAST)

  def pattern(change):
    out = gj.run(
      model,
      prompts.tokens,
      prompts.positions,
      interventions=[change],
      capture=gj.capture('pattern'),
    )
    return np.asarray(out['pattern'])  # [L, n, N, T, S]

  mine = pattern(CutEdges.from_last(keys, [1, 2]))
  theirs = pattern(
    gj.knock_out_attention(queries='last', keys=gj.per_row(keys), layers=[1, 2])
  )
  assert (mine[1:3, ..., -1, -1] == 0).all()
  assert (theirs[1:3, ..., -1, -1] > 0).all()
  np.testing.assert_allclose(mine[1:3, ..., -1, :].sum(-1), 1, atol=1e-5)
  np.testing.assert_array_equal(mine[:2, ..., :-1, :], theirs[:2, ..., :-1, :])
  rest = theirs[1, ..., -1, :-1] / theirs[1, ..., -1, :-1].sum(-1)[..., None]
  np.testing.assert_allclose(mine[1, ..., -1, :-1], rest, atol=1e-5)


def test_jax_does_not_take_the_cut_for_the_librarys():
  """Else `jit` may run the one's program for the other."""
  keys = np.ones((1, 4), bool)
  mine = CutEdges.from_last(keys, [1])
  theirs = gj.knock_out_attention(
    queries='last', keys=gj.per_row(keys), layers=[1]
  )
  assert jax.tree.structure(mine) != jax.tree.structure(theirs)


def test_what_cannot_be_cut_is_skipped_and_counted():
  prompts = dissected.with_one_token(dissected.prompts())
  model, trace = dissected.traced('llama', prompts)
  targets = {ANSWER: prompts.answers}
  found = knock_out_windows(model, prompts, trace, targets)
  n = len(prompts)
  for group in GROUPS:
    of_group = found['groups'][group]
    assert (of_group['n'], of_group['skipped']) == (n - 1, 1)
    assert of_group[ANSWER]['change'][0]['n'] == n - 1
  array = found['arrays'][f'log_prob/{ANSWER}']
  assert np.isnan(array[:, :, 0]).all() and np.isfinite(array[:, :, 1:]).all()


def test_a_token_that_a_layer_shows_nothing_else_keeps_itself():
  prompts = dissected.prompts()
  config = dissected.model('llama').config
  narrow = dataclasses.replace(
    config, window=1, local_layers=(True, *[False] * (L - 1))
  )
  fits = can_cut(narrow, prompts, group_masks(prompts, GROUPS))
  assert fits[:3].all() and not fits[3].any()


def test_groups_part_the_tokens():
  """Also where the subject ends the prompt: the last token is 'last' alone."""
  prompts = dissected.prompts(prefix=4)
  ends = prompts.ends
  moved = dataclasses.replace(prompts, spans=np.stack([ends - 1, ends + 1], 1))
  for each in (prompts, moved):
    masks = group_masks(each, ('subject', 'non-subject', 'last'))
    inside = np.arange(masks.shape[-1]) <= ends[:, None]
    np.testing.assert_array_equal(masks.sum(0), inside)
    for group in GROUPS:
      mask = group_masks(each, [group])[0]
      np.testing.assert_array_equal(mask, dissected.earlier(each, group))
  with pytest.raises(ValueError, match='subjects'):
    group_masks(prompts, ['subjects'])


def test_changes_are_the_published_means():
  prompts = dissected.prompts()
  model, trace = dissected.traced('gpt2', prompts)
  targets = {ANSWER: prompts.answers}
  found = knock_out_windows(model, prompts, trace, targets, groups=['subject'])
  after = np.exp(found['arrays'][f'log_prob/{ANSWER}'][0])
  before = np.exp(found['arrays'][f'clean/{ANSWER}'])
  of_group = found['groups']['subject'][ANSWER]
  np.testing.assert_allclose(
    [each['value'] for each in of_group['change']],
    (100 * (after - before) / before).mean(1),
  )
  np.testing.assert_allclose(
    [each['value'] for each in of_group['change_of_mean']],
    100 * (after.mean(1) - before.mean()) / before.mean(),
  )
  assert all(e['low'] <= e['value'] <= e['high'] for e in of_group['change'])


@pytest.mark.parametrize('family', dissected.FAMILIES)
def test_a_shared_prefix_changes_nothing(family):
  """What is recorded with it is what whole rows record."""
  model, prompts = dissected.model(family), dissected.prompts(prefix=5)
  mine, whole = (
    record_prompts(model, prompts),
    record_prompts(model, dissected.in_whole_rows(prompts)),
  )
  for row in range(len(prompts)):
    here, there = mine.positions[row] >= 0, whole.positions[row] >= 0
    np.testing.assert_array_equal(
      mine.positions[row][here], whole.positions[row][there]
    )
    for a, b in (
      (mine.stream[:, row][:, here], whole.stream[:, row][:, there]),
      (mine.k[:, row][:, :, here], whole.k[:, row][:, :, there]),
      (mine.v[:, row][:, :, here], whole.v[:, row][:, :, there]),
    ):
      np.testing.assert_allclose(a, b, atol=2e-4)


def test_log_probs_do_not_depend_on_batches(monkeypatch):
  model, prompts = dissected.model(), dissected.prompts()
  _, trace = dissected.traced('gemma2', prompts)
  tokens = np.stack([prompts.answers, prompts.names], axis=1)
  at_once = log_probs(model, trace.final, tokens)
  monkeypatch.setattr(
    'experiments.factual_recall.trace._LOGITS_BYTES', 4 * 97 * 3
  )
  np.testing.assert_allclose(
    log_probs(model, trace.final, tokens), at_once, atol=1e-5
  )
