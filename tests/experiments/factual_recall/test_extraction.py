"""Extraction against argmax in numpy and whole runs of the model."""

import numpy as np
import pytest

from experiments.factual_recall import vocabulary_ranks
from experiments.factual_recall.extraction import (
  extraction,
  extraction_after_early_patching,
)
from experiments.factual_recall.vocabulary_ranks import ranks
import gemma_jax as gj
from tests.experiments.factual_recall import dissected

L = dissected.LAYERS
# One target for every layer, so that events do happen and do not.
LAYERS = range(L)


def argmaxes(model, outputs):
  """int [L, n], the token that outputs [L, n, D] point most to."""
  table = np.asarray(model.embed[...], float)
  return (np.asarray(outputs, float) @ table.T).argmax(-1)


def normed(model, x):
  config, x = model.config, np.asarray(x, float)
  gain = config.norm_offset + np.asarray(model.final_norm[...], float)
  if config.norm == 'layer':
    x = x - x.mean(-1, keepdims=True)
  x = x / np.sqrt((x * x).mean(-1, keepdims=True) + config.norm_eps) * gain
  bias = model.final_norm_b
  return x if bias is None else x + np.asarray(bias[...], float)


def targets_of(tokens):
  return {str(layer): tokens[layer] for layer in LAYERS}


def check(found, name, tokens, targets):
  """Events of an output whose argmaxes are tokens [L, n]."""
  for target, wanted in targets.items():
    event = found['arrays'][f'event/{name}/{target}']
    np.testing.assert_array_equal(event, tokens == wanted)


@pytest.mark.parametrize('family', dissected.FAMILIES)
def test_events_are_argmaxes(family):
  """Of both sublayers, as they are and after the final norm."""
  prompts = dissected.prompts()
  model, trace = dissected.traced(family, prompts)
  targets = targets_of(argmaxes(model, trace['attn_out']))
  found = extraction(model, prompts, trace, targets, groups=['subject'])
  for site in ('attn_out', 'mlp_out'):
    tokens = argmaxes(model, trace[site])
    check(found, f'{site}/raw', tokens, targets)
    after = argmaxes(model, normed(model, trace[site]))
    check(found, f'{site}/normed', after, targets)
    rates = found['rates'][site]['raw']['2']
    event = tokens == targets['2']
    assert [e['value'] for e in rates['layers']] == event.mean(1).tolist()
    assert rates['any']['value'] == event.any(0).mean()
    assert rates['any']['n'] == len(prompts)
  assert found['rates']['attn_out']['raw']['2']['layers'][2]['value'] == 1


@pytest.mark.parametrize('prefix', [0, 5])
@pytest.mark.parametrize('family', dissected.FAMILIES)
def test_a_cut_group_is_what_a_whole_run_gives(family, prefix):
  """One layer at a time, before the softmax; and by the published defect."""
  prompts = dissected.prompts(prefix)
  model, trace = dissected.traced(family, prompts)
  tokens, positions = prompts.whole()
  recorded = gj.record(model, tokens, positions)
  clean = gj.run(
    model, tokens, positions, capture=gj.capture('pattern', positions='last')
  )
  for group in ('subject', 'non-subject', 'non-subject nor first'):
    keys = dissected.earlier(prompts, group)
    cut, published = [], []
    for layer in LAYERS:
      changes = [
        gj.knock_out_attention(
          queries='last', keys=gj.per_row(keys), layers=layer
        ),
        gj.patch(
          'z',
          source=resoftmaxed(model, recorded, clean, positions, keys, layer),
          layers=layer,
          positions='last',
        ),
      ]
      for change, into in zip(changes, (cut, published), strict=True):
        out = gj.run(
          model,
          tokens,
          positions,
          interventions=[change],
          capture=gj.capture('attn_out', layers=layer, positions='last'),
        )
        into.append(np.asarray(out['attn_out', layer])[:, 0])
    cut, published = argmaxes(model, cut), argmaxes(model, published)
    targets = targets_of(cut)
    found = extraction(
      model,
      prompts,
      trace,
      targets,
      groups=[group],
      reference=True,
      rows_per_batch=3,
    )
    assert found['skipped'] == {group: 0}
    name = f'attn_out without {group}'
    check(found, f'{name}/raw', cut, targets)
    check(found, f'{name}, published/raw', published, targets)


def resoftmaxed(model, recorded, clean, positions, keys, layer):
  """z [n, 1, N * H] of last tokens, of weights softmaxed twice."""
  config = model.config
  pattern = np.asarray(clean['pattern', layer], float)[:, :, 0]  # [n, N, S]
  values = np.asarray(recorded.v[layer], float)  # [n, K, S, H]
  values = values.repeat(config.num_heads // config.num_kv_heads, axis=1)
  z = np.zeros((len(keys), 1, config.num_heads, config.head_dim), np.float32)
  for row, at in enumerate(positions):
    real = np.flatnonzero(at >= 0)
    weights = np.where(keys[row, at[real]], -1e6, pattern[row][:, real])
    weights = np.exp(weights) / np.exp(weights).sum(-1, keepdims=True)
    z[row, 0] = np.einsum('NS,NSH->NH', weights, values[row][:, real])
  return z.reshape(len(keys), 1, -1)


@pytest.mark.parametrize('prefix', [0, 5])
@pytest.mark.parametrize('family', dissected.FAMILIES)
def test_early_states_are_what_patching_them_in_gives(family, prefix):
  prompts = dissected.prompts(prefix)
  model, trace = dissected.traced(family, prompts)
  tokens, positions = prompts.whole()
  early, groups = (0, 2), ('subject', 'non-subject', 'last')
  donor = gj.run(model, tokens, positions, capture=gj.capture('resid_pre'))
  naive = {}
  for group in groups:
    mask = dissected.earlier(prompts, group)
    for e in early:
      outputs = []
      for layer in range(e + 1, L):
        change = gj.patch(
          'resid_pre',
          source=donor['resid_pre', e],
          layers=layer,
          positions=gj.per_row(mask),
          source_positions=positions,
        )
        out = gj.run(
          model,
          tokens,
          positions,
          interventions=[change],
          capture=gj.capture('attn_out', layers=layer, positions='last'),
        )
        outputs.append(np.asarray(out['attn_out', layer])[:, 0])
      naive[group, e] = argmaxes(model, outputs)
  targets = {
    f'{group} {e} {layer}': row
    for (group, e), rows in naive.items()
    for layer, row in enumerate(rows, e + 1)
  }
  found = extraction_after_early_patching(
    model, prompts, trace, targets, early=(0, 2, 4, 20), rows_per_batch=3
  )
  assert (found['early'], found['dropped']) == ([0, 2], [4, 20])
  clean = argmaxes(model, trace['attn_out'])
  for (group, e), rows in naive.items():
    for target, wanted in targets.items():
      event = found['arrays'][f'event/{group}/{e}/{target}']
      np.testing.assert_array_equal(event, rows == wanted)
      rates = found['groups'][group][str(e)][target]
      assert rates['any']['value'] == event.any(0).mean()
      without = (clean[e + 1 :] == wanted).any(0).mean()
      assert rates['any_clean']['value'] == without


def test_a_model_of_one_layer_has_no_early_state():
  prompts = dissected.prompts()
  model, trace = dissected.traced('llama', prompts)
  found = extraction_after_early_patching(
    model, prompts, trace, {'answer': prompts.answers}, early=(4, 9)
  )
  assert (found['early'], found['dropped']) == ([], [4, 9])


@pytest.mark.parametrize('pieces', [(128, 8192), (3, 4), (2, 5)])
def test_ranks_are_those_of_a_stable_sort(pieces, monkeypatch):
  """With equal products, repeated tokens, and a last piece that overlaps."""
  for name, size in zip(('_VECTORS', '_TOKENS'), pieces, strict=True):
    monkeypatch.setattr(vocabulary_ranks, name, size)
  rng = np.random.default_rng(0)
  table = rng.integers(-1, 2, (23, 3)).astype(np.float32)
  vectors = rng.integers(-1, 2, (17, 3)).astype(np.float32)
  tokens = rng.integers(-1, 23, (17, 4))
  order = np.argsort(-(vectors @ table.T), axis=1, kind='stable')
  rank = np.argsort(order, axis=1)
  wanted = np.take_along_axis(rank, np.maximum(tokens, 0), axis=1)
  for limit in (1, 5, 100):
    capped = np.where(tokens < 0, limit, np.minimum(wanted, limit))
    np.testing.assert_array_equal(
      ranks(table, vectors, tokens, limit=limit), capped
    )
