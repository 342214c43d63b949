"""The attributes rate against loops, and with sublayers against whole runs."""

import functools
import types

import numpy as np
import pytest

from experiments.factual_recall.attributes import Attributes, attribute_tokens
from experiments.factual_recall.enrichment import MOST, PLACES, attributes_rate
from experiments.factual_recall.sublayer_ablation import rate_without_sublayers
from experiments.factual_recall.task_prompts import make_prompts
from experiments.factual_recall.tasks import miniworld_task
from experiments.inputs import BASE
import gemma_jax as gj
from tests.experiments.factual_recall import dissected

L = dissected.LAYERS


def lists(prompts):
  """Attribute tokens: three, two or one for each subject, drawn apart."""
  rng = np.random.default_rng(1)
  of = {s: rng.choice(97, 3 - s % 3, False).tolist() for s in range(8)}
  return [of[s] for s in prompts.subjects]


def rate(model, stream, tokens, top):
  """The share of tokens among the `top` nearest."""
  table = np.asarray(model.embed[...], float)
  nearest = np.argsort(-(table @ np.asarray(stream, float)))[:top]
  return np.mean([token in nearest for token in tokens])


def test_a_rate_is_the_share_of_attributes_among_the_nearest():
  """By hand: the embedding is the identity, so products are the stream's."""
  model = types.SimpleNamespace(embed=np.eye(6, dtype=np.float32))
  attributes = Attributes(
    own=np.array([[1, 2, -1], [0, 4, 5], [-1, -1, -1]]),
    control=np.array([[3, -1], [-1, -1], [3, -1]]),
  )
  streams = np.array(
    [[0, 9, 0, 8, 0, 0], [1, 1, 1, 1, 1, 1], [0, 0, 0, 9, 0, 0]], np.float32
  )
  rates = attributes.rates(model, streams, np.arange(3), (None, 1, 6))
  nan = np.nan
  wanted = [
    # K is 2: of 1 and 2 only the first is among {1, 3}; the control is.
    [[0.5, 1], [0.5, 0], [1, 1]],
    # Equal products: the first tokens are nearest. It has no control.
    [[1 / 3, nan], [1 / 3, nan], [1, nan]],
    [[nan, nan], [nan, nan], [nan, nan]],
  ]
  np.testing.assert_allclose(rates, wanted)


def test_controls_are_of_other_subjects():
  """Each subject serves one other, none itself, without what both have."""
  prompts = dissected.prompts(subjects=6)
  tokens = [[int(s), 50] for s in prompts.subjects]
  for seed in range(5):
    control = Attributes.of(prompts, tokens, seed).control
    found = {}
    for subject, row in zip(prompts.subjects, control, strict=True):
      assert found.setdefault(subject, row.tolist()) == row.tolist()
    assert all(each != [subject] for subject, each in found.items())
    assert sorted(sum(found.values(), [])) == list(range(6))
  with pytest.raises(ValueError, match='one for each'):
    Attributes.of(prompts, tokens[:-1], 0)


@pytest.mark.parametrize('prefix', [0, 5])
@pytest.mark.parametrize('family', dissected.FAMILIES)
def test_rates_are_those_of_whole_runs(family, prefix):
  model, prompts = dissected.model(family), dissected.prompts(prefix)
  tokens = lists(prompts)
  found = attributes_rate(model, prompts, tokens, rows_per_batch=3)
  tokens_, positions = prompts.whole()
  out = gj.run(model, tokens_, positions, capture=gj.capture('resid_post'))
  streams = np.asarray(out['resid_post'])
  control = Attributes.of(prompts, tokens, 0).control
  for row in range(len(prompts)):
    subject, end = prompts.spans[row, 1] - 1, prompts.ends[row]
    others = [p for p in range(prefix, end) if p != subject]
    where = dict(zip(PLACES, ([subject], [end], others), strict=True))
    known = tokens[row], [t for t in control[row] if t >= 0]
    for name, top in (('K', len(tokens[row])), (str(MOST), MOST)):
      for place, at in where.items():
        slots = [list(positions[row]).index(p) for p in at]
        naive = [
          [
            np.mean([rate(model, x[row, s], some, top) for s in slots])
            if some
            else np.nan
            for some in known
          ]
          for x in streams
        ]
        array = found['arrays'][f'rate/{place}/{name}']
        np.testing.assert_allclose(array[:, row], naive)
  for place in PLACES:
    values = found['arrays'][f'rate/{place}/K'][..., 0].mean(1)
    estimates = found['rates'][place]['K']['own']
    np.testing.assert_allclose([e['value'] for e in estimates], values)


@pytest.mark.parametrize('site', ['mlp_out', 'attn_out'])
@pytest.mark.parametrize(
  ('family', 'prefix'), [('gemma2', 5), ('llama', 0), ('gpt2', 5)]
)
def test_ablation_is_what_a_whole_run_gives(family, prefix, site):
  model, prompts = dissected.model(family), dissected.prompts(prefix)
  tokens = lists(prompts)
  ends = prompts.spans[:, 1] - 1
  found = rate_without_sublayers(
    model, prompts, tokens, site=site, width=2, rows_per_batch=3
  )
  assert found['windows'] == [[0, 2], [1, 3], [2, 4], [3, 5], [4, 5]]
  batch = prompts.whole()
  for i, (first, stop) in enumerate(found['windows']):
    change = gj.patch(
      site,
      0.0,
      layers=range(first, stop),
      positions=gj.per_row(ends),
    )
    out = gj.run(
      model,
      *batch,
      interventions=[change],
      capture=gj.capture('resid_post', positions=gj.per_row(ends)),
      logits_at='last',  # so that all layers are run
    )
    for name, layer in (('at_layer', 4), ('after_window', stop - 1)):
      naive = [
        rate(model, x[0], own, len(own))
        for x, own in zip(out['resid_post', layer], tokens, strict=True)
      ]
      np.testing.assert_allclose(found['arrays'][name][i, :, 0], naive)


def test_ablation_beside_the_clean_run():
  model, prompts = dissected.model(), dissected.prompts()
  tokens = lists(prompts)
  ablated = functools.partial(
    rate_without_sublayers, model, prompts, tokens, site='mlp_out', width=2
  )
  found = ablated()
  assert (found['layer'], found['width']) == (5 * L // 6, 2)
  clean = attributes_rate(model, prompts, tokens)['arrays']['rate/subject/K']
  np.testing.assert_array_equal(found['arrays']['clean'], clean)
  change = found['arrays']['at_layer'] - clean[found['layer']]
  np.testing.assert_allclose(
    [e['value'] for e in found['change']['own']], change[..., 0].mean(1)
  )
  assert ablated(reference=True)['windows'][1] == [1, 4]


def test_attribute_tokens_are_the_facts_first_tokens():
  """Of MiniWorld's entities; the first is the answer's."""
  tokenizer = gj.Tokenizer.from_pretrained(BASE)
  task = miniworld_task('city_country', subjects=3)
  prompts = make_prompts(tokenizer, task, most=12)
  found = attribute_tokens(tokenizer, prompts)
  for row, tokens in enumerate(found):
    fact = task.facts[prompts.subjects[row]]
    assert tokens[0] == prompts.answers[row]
    before = len(tokenizer.encode('is', bos=False))
    first = [
      tokenizer.encode(f'is {value}', bos=False)[before]
      for value in (fact.answer, *fact.attributes)
    ]
    assert tokens == list(dict.fromkeys(first))
