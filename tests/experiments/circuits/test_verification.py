"""The circuit of the planted model is found, whole and alone."""

import dataclasses

import numpy as np
import pytest
from scipy import stats

from experiments import circuits
from experiments.circuits import refusal_default
from experiments.circuits.circuit_results import Asked, describe_edges
from experiments.circuits.study import TracingOptions
from experiments.circuits.verification import random_sets, sizes
from experiments.latents import LatentId, Target
from experiments.stats.intervals import bootstrap_mean
from experiments.stats.multiplicity import max_t_permutation
from experiments.steering.questions import make_questions
from tests.experiments.circuits import small, world
from tests.experiments.steering import planted

HEAD = circuits.Component(planted.LAYER, 0, 'last')


def pairs_for(count):
  tok = planted.tokenizer()
  one = lambda text: np.full(count, tok.encode(text, bos=False)[0])
  return circuits.Pairs(refusal=one('sorry'), answer=one('Paris'))


@pytest.fixture(scope='module')
def asked():
  questions = make_questions(
    planted.tokenizer(),
    planted.entities(planted.KNOWN),
    planted.entities(planted.UNKNOWN),
  )
  found = {}
  for label in ('known', 'unknown'):
    mine = [q for q in questions if q.entity_class == label]
    found[label] = Asked(questions=mine, pairs=pairs_for(len(mine)))
  return found


def add(direction):
  target = Target(
    label='unknown',
    id=LatentId('resid_post', world.LAYER, 0),
    direction=direction,
    controls={},
  )
  return circuits.steered(target, 2.0, 'entity_last')


def trace(edit, asked, **given):
  return circuits.trace(
    planted.model(),
    planted.tokenizer(),
    edit,
    asked,
    asked,
    TracingOptions(num_random=3, rows_per_batch=16),
    **given,
  )


@pytest.fixture(scope='module')
def traced(asked):
  controls = [add(row) for row in planted.NOTHING]
  return trace(add(world.N), asked['known'], controls=controls)


def test_the_planted_head_is_the_circuit(traced):
  results, arrays = traced
  assert results['traced'] and results['total']['value'] > 1
  # Both heads read the feature at all later tokens; one writes it, one counts.
  check = results['verification']
  assert check['candidates'] == 6 and check['size'] == 1
  first, *others = results['components']
  assert first['name'] == str(HEAD) and first['in_circuit']
  for key in ('carried', 'lost', 'direct'):
    assert first[key]['value'] == pytest.approx(results['total']['value'])
  for other in others:
    assert other['carried']['value'] == other['lost']['value'] == 0
    assert other['p'] == 1
  assert check['share_kept']['value'] == pytest.approx(1)
  assert check['share_left']['value'] == pytest.approx(0, abs=1e-6)
  assert arrays['carried'].shape == (6, len(arrays['total']))


def test_its_edges_and_logits(traced):
  results, _ = traced
  edges = {(e['sender'], e['receiver']): e for e in results['edges']}
  assert edges.keys() == {('latent', str(HEAD)), (str(HEAD), 'logits')}
  for edge in edges.values():
    assert edge['effect']['value'] == pytest.approx(results['total']['value'])
    assert edge['verified']
  found = results['attribution']
  assert found['largest_gap'] < 1e-5
  changes = {part['name']: part['change']['value'] for part in found['parts']}
  assert sum(changes.values()) == pytest.approx(results['total']['value'])
  # It writes S, which 'sorry' is made of.
  head = results['projections'][0]
  assert head['name'] == str(HEAD)
  assert head['promoted'][0][0] == 'sorry'


def test_nothing_is_nothing(traced, asked):
  assert max(map(abs, traced[0]['random_latents']['means'])) < 1e-6
  results, arrays = trace(add(planted.NOTHING[0]), asked['known'])
  assert not results['traced'] and 'components' not in results
  assert set(arrays) == {'clean', 'total'}


def test_ablating_the_latent_goes_the_same_way_back(asked):
  edit = circuits.ablated(
    'unknown',
    LatentId('resid_post', world.LAYER, 0),
    world.sae(),
    'entity_last',
  )
  results, _ = trace(edit, asked['unknown'])
  assert results['total']['value'] < -1
  circuit = [c['name'] for c in results['components'] if c['in_circuit']]
  assert circuit == [str(HEAD)]


def test_this_model_answers_by_default(asked):
  """Without sight of an unknown entity it answers, and without the latent."""
  config = planted.model().config
  ablate = circuits.ablated(
    'unknown',
    LatentId('resid_post', world.LAYER, 0),
    world.sae(),
    'entity_to_end',
  )
  questions = [*asked['known'].questions, *asked['unknown'].questions]
  pairs = pairs_for(len(questions))
  beginnings = circuits.Beginnings(
    refusals={int(pairs.refusal[0]): 1}, answers={int(pairs.answer[0]): 1}
  )
  ablations = {'unknown': ablate}
  conditions = refusal_default.conditions(
    config, ablations, {'unknown': [ablate.change]}, [HEAD]
  )
  readings = refusal_default.read_conditions(
    planted.model(),
    questions,
    beginnings,
    pairs,
    ablations,
    conditions,
    rows_per_batch=8,
  )
  unknown = np.array([q.entity_class == 'unknown' for q in questions])
  refused = {name: reading.refused for name, reading in readings.items()}
  np.testing.assert_array_equal(refused[refusal_default.ORIGINAL], unknown)
  np.testing.assert_array_equal(refused[refusal_default.OTHER_CUT], unknown)
  assert not refused[refusal_default.CUT].any()
  assert not refused['unknown ablated'].any()
  # The planted head alone reads the entity.
  assert not refused[refusal_default.CIRCUIT_CUT].any()
  np.testing.assert_array_equal(refused[refusal_default.REST_CUT], unknown)
  found = refusal_default.summarise(questions, conditions, readings)
  # All names have two tokens: without them a question is its prompt type.
  types = {q.prompt_type for q in questions}
  default = found['default']
  assert default['refused']['n'] == len(types) == 2
  assert default['questions'] == len(questions)
  assert default['refused']['value'] == 0 and default['verdict'] == 'unclear'
  by_name = {entry['name']: entry for entry in found['conditions']}
  flips = by_name['entity cut']['classes']['unknown']['flips']
  assert flips['lost'] == unknown.sum() and flips['gained'] == 0


def test_questions_that_are_one_without_the_entity_count_once():
  """Names of as many tokens do the same, to the last bit or nearly."""
  rng = np.random.default_rng(3)
  questions = []
  for q in small.questions()[1:]:
    start, stop = q.span
    questions += [
      dataclasses.replace(
        q,
        entity=f'{q.entity} {i}',
        ids=(*q.ids[:start], *rng.integers(3, 97, size), *q.ids[stop:]),
        span=(start, start + size),
      )
      for i, size in enumerate((1, 2, 2, 2))
    ]
  model = small.model()
  conditions = refusal_default.conditions(model.config, {}, {})
  pairs = circuits.Pairs(refusal=np.full(12, 5), answer=np.full(12, 9))
  readings = refusal_default.read_conditions(
    model,
    questions,
    circuits.Beginnings(refusals={5: 1}, answers={9: 1}),
    pairs,
    {},
    conditions,
    rows_per_batch=5,
  )
  cut = readings[refusal_default.CUT].metric.reshape(3, 4)
  assert np.ptp(cut[:, 1:], axis=1).max() < 1e-4 < np.ptp(cut, axis=1).min()
  assert len(np.unique(cut.round(3))) == 6
  uncut = readings[refusal_default.ORIGINAL].metric.reshape(3, 4)
  assert np.ptp(uncut[:, 1:], axis=1).min() > 1e-3
  for refused, verdict in ((False, 'answer'), (True, 'decline')):
    readings[refusal_default.CUT] = refusal_default.Reading(
      refused=np.full(12, refused), metric=cut.ravel()
    )
    found = refusal_default.summarise(questions, conditions, readings)
    # Wilson's interval of none of n is 0 to z^2 / (n + z^2).
    z2 = stats.norm.ppf(0.975) ** 2
    far = {'low': 0, 'high': z2 / (6 + z2), 'n': 6, 'value': 0}
    if refused:
      far |= {'low': 1 - far['high'], 'high': 1, 'value': 1}
    default = found['default']
    assert default['refused'] == pytest.approx(far)
    assert default['verdict'] == verdict and default['questions'] == 12
    by_name = {entry['name']: entry['classes'] for entry in found['conditions']}
    cell = by_name['entity cut']['known']
    assert cell['refused'] == default['refused']
    assert by_name['as it is']['known']['refused']['n'] == 12
    # Six units, not twelve entities: the ratio of weighted sums, by a loop.
    rng, weights = np.random.default_rng(5), np.tile([1, 3], 3)
    means = []
    for _ in range(2000):
      drawn = rng.integers(6, size=6)
      w = weights[drawn]
      means.append((cut[:, :2].ravel()[drawn] * w).sum() / w.sum())
    bounds = np.quantile(means, [0.025, 0.975])
    got = [cell['metric'][key] for key in ('low', 'high')]
    np.testing.assert_allclose(got, bounds, atol=0.1 * np.ptp(bounds))


def test_edges_are_tested_by_entity_with_the_seed():
  """An entity's questions are averaged; the seed draws the flips."""
  rng = np.random.default_rng(0)
  (question, *_), of = small.questions(), np.repeat(np.arange(14), 2)
  asked = Asked(
    questions=[dataclasses.replace(question, entity=f'E{i}') for i in of],
    pairs=circuits.Pairs(refusal=np.full(28, 5), answer=np.full(28, 9)),
  )
  effects = 0.3 + rng.standard_normal((2, 28))
  edges = [circuits.Edge('latent', HEAD), circuits.Edge(HEAD, 'logits')]
  means = np.stack([effects[:, of == i].mean(axis=1) for i in range(14)])
  found = {}
  for seed in (0, 1):
    entries = describe_edges(
      edges, effects, effects, asked, bootstrap_mean, seed
    )
    found[seed] = [entry['p'] for entry in entries]
    test = max_t_permutation(means, seed=seed)
    assert found[seed] == pytest.approx(test.p_adjusted.tolist())
  assert found[0] != found[1]


def test_random_sets_are_like_the_circuit():
  heads = [circuits.Component(0, i, 'last') for i in range(6)]
  mlps = [circuits.Component(i, None, 'last') for i in range(4)]
  found = [*heads[:2], mlps[0]]
  for some in random_sets(found, [*heads, *mlps], 20, seed=0):
    assert len(set(some)) == 3
    assert sum(c.head is None for c in some) == 1


def test_sizes_reach_all():
  assert sizes(0) == [0]
  assert sizes(7) == [0, 1, 2, 3, 4, 5, 6, 7]
  tried = sizes(200)
  assert tried[-1] == 200 and len(tried) < 30 and tried == sorted(set(tried))
