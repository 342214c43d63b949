import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logsumexp

from experiments.refusal_tuning import weight_patching
from experiments.refusal_tuning.weight_patching import (
  Component,
  components,
  patch_weights,
)
import gemma_jax as gj
from tests import tiny
from tests.experiments.refusal_tuning import asking

REFUSALS = [5, 11]
ATTENTION = {'wq', 'wk', 'wv', 'wo', 'bq', 'bk', 'bv', 'bo'}
MLP = {'gate', 'up', 'down', 'gate_b', 'up_b', 'down_b'}


def tuned(model, names=None, scale=0.05, only=slice(None)):
  """The model with noise on some weights, of some layers."""
  rng = np.random.default_rng(1)
  weights = {n: np.array(w) for n, w in model.weights().items()}
  for name, w in weights.items():
    if names is None or name in names:
      noise = rng.standard_normal(w.shape) * (scale * np.abs(w).mean() + 1e-3)
      at = only if names is not None else slice(None)
      w[at] += noise[at].astype(w.dtype)
  return gj.Decoder(
    model.config, {n: jnp.asarray(w) for n, w in weights.items()}
  )


def log_odds(model, asked, against=None):
  found = []
  for ids in asked.ids:
    one = gj.pad_rows([ids], 0, buckets=16)
    logits = gj.run(model, *one, logits_at='last').logits[0, 0]
    logits = np.asarray(logits, float)
    others = np.delete(logits, REFUSALS)
    found.append(
      logsumexp(logits[REFUSALS])
      - (others.max() if against is None else logsumexp(logits[against]))
    )
  return np.array(found)


def hybrid(before, after, component):
  """Written out by hand, weight by weight."""
  old, new = before.weights(), after.weights()
  mixed = {}
  for name, w in old.items():
    w, other = np.array(w), np.asarray(new[name])
    norm = 'norm' in name
    at = list(component.layers)
    if component.kind == 'all':
      w = other
    elif component.kind == 'norms' and norm:
      w = other
    elif component.kind == 'embedding':
      w = other if name in ('embed', 'positions', 'unembed') else w
    elif component.kind in ('attention', 'layers') and name in ATTENTION:
      w[at] = other[at]
    elif component.kind in ('mlp', 'layers') and name in MLP:
      w[at] = other[at]
    if component.kind in ('mlp', 'layers') and name in MLP:
      w[at] = other[at]
    if component.kind == 'head' and name in ('wq', 'bq', 'wo'):
      place = [at[0], component.head]
      if name == 'wo':
        w[at[0], :, component.head] = other[at[0], :, component.head]
      else:
        w[tuple(place)] = other[tuple(place)]
    mixed[name] = jnp.asarray(w)
  return gj.Decoder(before.config, mixed)


@pytest.mark.parametrize('family', ['gemma2', 'gpt2', 'qwen3', 'llama'])
def test_hybrids_are_made_by_hand(family):
  _, before = tiny.pair(0, family)
  after, asked = tuned(before), asking.prompts(8)
  which = [
    Component(kind='all'),
    Component(kind='layers', layers=(0, 1)),
    Component(kind='attention', layers=(2,)),
    Component(kind='mlp', layers=(3,)),
    Component(kind='head', layers=(1,), head=2),
    Component(kind='norms'),
    Component(kind='embedding'),
  ]
  found = patch_weights(before, after, asked, REFUSALS, which, rows_per_batch=3)
  start, end = log_odds(before, asked), log_odds(after, asked)
  assert found['log_odds']['change']['known']['value'] == pytest.approx(
    (end - start)[asked.known].mean(), abs=2e-3
  )
  known, unknown = asked.known, ~asked.known
  for component, row in zip(which, found['components'], strict=True):
    into = log_odds(hybrid(before, after, component), asked) - start
    back = end - log_odds(hybrid(after, before, component), asked)
    for name, effect in (('into', into), ('back', back)):
      means = effect[known].mean(), effect[unknown].mean()
      got = [
        row[name][k]['effect']['value'] for k in ('known', 'unknown', 'apart')
      ]
      assert got == pytest.approx([*means, means[1] - means[0]], abs=4e-3)
      assert row[name]['unknown']['share']['value'] == pytest.approx(
        means[1] / (end - start)[unknown].mean(), abs=2e-2
      )
      assert row[name]['unknown']['effect']['n'] == 4


def test_one_changed_mlp_gets_all_of_it():
  _, before = tiny.pair(0, 'gemma2')
  after = tuned(before, MLP, 0.3, only=slice(3, 4))
  which = components(before.config, heads_of=[1], cut=2)
  names = [component.name for component in which]
  assert names[:3] == ['all', 'layers 0 to 2', 'layers 3 to 4']
  assert names[-6:] == ['L1H0', 'L1H1', 'L1H2', 'L1H3', 'norms', 'embedding']
  found = patch_weights(before, after, asking.prompts(24), REFUSALS, which)
  for row in found['components']:
    mine = row['name'] in ('all', 'layers 3 to 4', 'mlp 3')
    for side in ('into', 'back'):
      for group in ('known', 'unknown', 'apart'):
        share = row[side][group]['share']
        assert share['value'] == pytest.approx(float(mine), abs=1e-4)
        assert share['low'] == pytest.approx(float(mine), abs=1e-4)
    assert (row['size'] > 0) == mine
  alone = next(r for r in found['components'] if r['name'] == 'mlp 3')
  old, new = before.weights(), after.weights()
  squares = [
    sum(np.square(np.asarray(f(n), float)).sum() for n in MLP & old.keys())
    for f in (lambda n: new[n][3] - old[n][3], lambda n: old[n][3])
  ]
  assert alone['size'] == pytest.approx(
    (squares[0] / squares[1]) ** 0.5, rel=1e-4
  )


def test_a_head_that_only_writes_more_is_found():
  _, before = tiny.pair(0, 'llama')
  weights = dict(before.weights())
  weights['wo'] = weights['wo'].at[2, :, 1].multiply(1.8)
  after = gj.Decoder(before.config, weights)
  which = components(before.config, heads_of=[2])
  found = patch_weights(
    before, after, asking.prompts(), REFUSALS, which, back=False
  )
  by_name = {row['name']: row for row in found['components']}
  assert by_name['L2H1']['into']['unknown']['share']['value'] == pytest.approx(
    1
  )
  assert by_name['attention 2']['into']['known']['share']['value'] == 1
  for other in ('L2H0', 'L2H3', 'attention 1', 'mlp 2', 'norms'):
    assert by_name[other]['into']['unknown']['effect']['value'] == 0
    assert by_name[other]['size'] == 0
  assert by_name['L2H1']['back'] is None


def test_a_component_is_data():
  _, before = tiny.pair(0, 'gemma2')
  after, asked = tuned(before), asking.prompts(7)
  patch_weights(before, after, asked, REFUSALS, [Component(kind='all')])
  compiled = weight_patching._log_odds._cache_size()
  patch_weights(
    before, after, asked, REFUSALS, components(before.config, heads_of=[0])
  )
  assert weight_patching._log_odds._cache_size() == compiled


def test_against_given_answers():
  _, before = tiny.pair(0, 'gpt2')
  after, asked = tuned(before), asking.prompts(6, known=[True] * 6)
  found = patch_weights(
    before, after, asked, REFUSALS, [Component(kind='all')], against=[20, 21]
  )
  assert found['log_odds']['before']['known']['value'] == pytest.approx(
    log_odds(before, asked, [20, 21]).mean(), abs=2e-3
  )
  # Nobody is unknown: no number is made up.
  assert list(found['log_odds']['change']) == ['known']


def test_nothing_changed_has_no_share():
  _, model = tiny.pair(0, 'gemma2')
  found = patch_weights(
    model, model, asking.prompts(4), REFUSALS, [Component(kind='all')]
  )
  share = found['components'][0]['into']['known']['share']
  assert share['value'] is None and share['low'] is None


def test_bad_input_is_named():
  _, model = tiny.pair(0, 'gemma2')
  asked, all_of_it = asking.prompts(4), [Component(kind='all')]
  with pytest.raises(ValueError, match='Tokens .97. were given'):
    patch_weights(model, model, asked, [97], all_of_it)
  with pytest.raises(ValueError, match='begin both'):
    patch_weights(model, model, asked, [5], all_of_it, against=[5])
  with pytest.raises(ValueError, match='layers 0 to 4'):
    patch_weights(
      model, model, asked, [5], [Component(kind='mlp', layers=(5,))]
    )
  with pytest.raises(ValueError, match='only heads'):
    Component(kind='mlp', layers=(1,), head=0)
  with pytest.raises(ValueError, match='A component is one of'):
    Component(kind='block')
  other = dataclasses.replace(model.config, attn_softcap=3.0)
  with pytest.raises(ValueError, match='attn_softcap'):
    patch_weights(
      model, gj.Decoder(other, model.weights()), asked, [5], all_of_it
    )
