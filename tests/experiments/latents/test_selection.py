"""The planted latents are found, on train alone, and reported on test."""

import dataclasses

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from experiments.latents import (
  LatentId,
  class_sums,
  detection,
  firing_rates,
  rank,
  select,
  separation,
)
from tests.experiments.latents import planted
from tests.experiments.latents.test_scores import hand_made


@pytest.fixture(scope='module')
def world():
  return planted.world()


@pytest.fixture(scope='module')
def of(world):
  """Sums of each layer over splits."""

  def named(*splits, text=True):
    return [class_sums(one, world.groups, splits) for one in world.sums(text)]

  return named


def ids(chosen):
  return [one.id for one in chosen]


def test_planted_latents_are_chosen(of):
  selection = select(of('train'))
  assert selection.best == {
    'known': planted.KNOWN,
    'unknown': planted.UNKNOWN,
  }
  assert planted.OVERFIT == selection.known[1].id
  assert len(selection.known) == len(selection.unknown) == 10
  best = selection.known[0]
  assert best.score == min(best.scores.values()) > 0.6
  assert best.mean_score == pytest.approx(np.mean(list(best.scores.values())))
  assert 1 <= best.mean_rank < 4 and best.tied == 0
  assert not selection.warnings


def test_general_latents_are_left_out_by_plain_text(of):
  train = of('train')
  selection = select(train)
  assert planted.GENERAL not in ids(selection.known)
  assert selection.unfiltered['known'].id == planted.GENERAL
  assert selection.text_filter.applied
  frequency = np.concatenate([one.text_frequency for one in train])
  assert selection.text_filter.removed == (frequency >= 0.02).sum()
  assert frequency[2 * planted.F + 20] == 0.02  # out: the limit is not below
  for chosen in selection.known + selection.unknown:
    assert chosen.text_frequency < 0.02
  off = select(train, max_text_frequency=None)
  assert off.best['known'] == planted.GENERAL
  assert 'switched off' in off.text_filter.note
  assert not off.text_filter.applied


def test_without_plain_text_it_says_so(of):
  selection = select(of('train', text=False))
  assert selection.best['known'] == planted.GENERAL
  assert selection.known[0].text_frequency is None
  assert 'No plain text was given' in selection.text_filter.note


def test_selecting_on_all_entities_leaks(of):
  """LEAK is only good on test: taking it would report what was selected on."""
  leaked = select(of('train', 'validation', 'test'), split='all', k=2)
  honest = select(of('train'), k=2)
  test = of('test')

  def lowest(selection, place):
    id = selection.known[place].id
    return firing_rates(id, 'known', test)['lowest']['value']

  assert ids(leaked.known) == [planted.KNOWN, planted.LEAK]
  assert ids(honest.known) == [planted.KNOWN, planted.OVERFIT]
  # On test, OVERFIT is shown for what it is.
  assert lowest(leaked, 1) > 0.9
  assert lowest(honest, 0) > 0.6
  assert lowest(honest, 1) < 0.25 < honest.known[1].score


def test_ties_are_broken_by_layer_and_index_and_reported():
  active = [[[5, 0, 5, 5], [0, 5, 0, 0]]]
  sums = [
    hand_made([[10, 10]], active, layer=7),
    hand_made([[10, 10]], active, layer=3),
  ]
  selection = select(sums, k=3)
  assert [(c.id.layer, c.id.latent) for c in selection.known] == [
    (3, 0),
    (3, 2),
    (3, 3),
  ]
  assert [c.tied for c in selection.known] == [5, 5, 5]
  assert selection.unknown[0].id == LatentId('resid_post', 3, 1)
  assert selection.unknown[0].tied == 1
  assert any('5 other latents' in warning for warning in selection.warnings)
  again = select(sums[::-1], k=3)
  assert again.known == selection.known


def test_one_type_and_few_latents():
  sums = hand_made([[9, 6]], [[[9, 0], [0, 6]]])
  selection = select([sums], k=10)
  assert len(selection.known) == 2
  assert selection.known[0].scores == {'type 0': 1.0}
  assert selection.known[1].score == -1.0


def test_nothing_separates():
  selection = select([hand_made([[5, 5]], [[[2, 0], [2, 0]]])])
  assert selection.known[0].score == 0
  assert any('No latent tells known' in w for w in selection.warnings)


def test_scores_of_another_criterion(of):
  train = of('train')
  scores = [separation(one, metric='t_test') for one in train]
  selection = select(
    train, scores, criterion='mean_activation', max_text_frequency=0.5
  )
  assert selection.criterion == 'mean_activation'
  assert planted.UNKNOWN in ids(selection.unknown[:3])


@pytest.mark.parametrize(
  ('n', 'said'),
  [
    ([[5, 5], [0, 5]], "'type 1' has no known entities in train"),
    ([[5, 5], [9, 4]], "'type 1' has only 4 unknown entities.*at least 5"),
  ],
)
def test_too_few_entities(n, said):
  sums = hand_made(n, np.zeros((2, 2, 3), int))
  with pytest.raises(ValueError, match=said):
    select([sums])


def test_errors(of):
  train = of('train')
  general = [
    dataclasses.replace(one, text_active=np.full(planted.F, 300))
    for one in train
  ]
  with pytest.raises(ValueError, match='None of 120 latents.*0.02.*Raise'):
    select(general)
  with pytest.raises(ValueError, match='no SAE'):
    select([])
  with pytest.raises(ValueError, match='same site and layer'):
    select([train[0], train[0]])
  with pytest.raises(ValueError, match='other entities'):
    select([train[0], of('test')[1]])
  mixed = [train[0], of('train', text=False)[1]]
  with pytest.raises(ValueError, match=r'\[0, 400\] positions'):
    select(mixed)


def test_rank_is_a_sort():
  rng = np.random.default_rng(0)
  scores = [rng.integers(0, 5, 30) / 4 for _ in range(3)]
  keep = [rng.random(30) < 0.5 for _ in range(3)]
  where = [('a', 4), ('b', 1), ('a', 1)]
  every = sorted(
    (-scores[s][j], where[s][1], j, where[s][0])
    for s in range(3)
    for j in range(30)
    if keep[s][j]
  )
  found = rank(where, scores, 12, keep)
  assert [(-r.score, r.id.layer, r.id.latent, r.id.site) for r in found] == (
    every[:12]
  )
  top = -every[0][0]
  assert found[0].tied + 1 == sum(-each[0] == top for each in every)


def test_latent_ids():
  id = LatentId('resid_post', 12, 7957)
  assert str(id) == 'resid_post.12/7957'
  assert LatentId.parse(str(id)) == id
  for text in ('resid_post/3', '12/7957', 'resid_post.12', 'resid_post.x/1'):
    with pytest.raises(ValueError, match='does not name a latent'):
      LatentId.parse(text)


def test_rates_on_test(world, of):
  found = firing_rates(planted.UNKNOWN, 'unknown', of('test'))
  entities = world.entities['test']
  fires = world.latents['test'][2][:, planted.UNKNOWN.latent] > 0
  for e, name in enumerate(entities.types):
    here = found['types'][name]
    rates = {}
    for label, known in (('known', True), ('unknown', False)):
      mine = fires[(entities.type_of == e) & (entities.known == known)]
      rates[label] = mine.mean()
      wilson = stats.binomtest(int(mine.sum()), len(mine)).proportion_ci(
        method='wilson'
      )
      assert here[label]['value'] == mine.mean() and here[label]['n'] == len(
        mine
      )
      assert (here[label]['low'], here[label]['high']) == tuple(wilson)
    separation = here['separation']
    assert separation['value'] == rates['unknown'] - rates['known']
    assert (
      -1 <= separation['low'] < separation['value'] < separation['high'] <= 1
    )
  lowest = min(h['separation']['value'] for h in found['types'].values())
  assert found['lowest']['value'] == lowest
  with pytest.raises(KeyError, match='no SAE for resid_post.9/1'):
    firing_rates(LatentId('resid_post', 9, 1), 'known', of('test'))


def test_newcombe_interval_of_a_difference():
  """The example of Newcombe (1998): 56/70 - 48/80, method 10."""
  sums = hand_made([[70, 80]], [[[56], [48]]])
  found = firing_rates(LatentId('resid_post', 0, 0), 'known', [sums])
  separation = found['types']['type 0']['separation']
  assert separation['value'] == pytest.approx(0.2)
  assert separation['low'] == pytest.approx(0.0524, abs=5e-5)
  assert separation['high'] == pytest.approx(0.3339, abs=5e-5)


def test_auroc_of_activations(world):
  entities = world.entities['test']
  activations = world.latents['test'][2][:, planted.UNKNOWN.latent]
  found = detection(entities, activations, 'unknown')
  for e, name in enumerate(entities.types):
    mine = entities.type_of == e
    want = metrics.roc_auc_score(~entities.known[mine], activations[mine])
    assert found['types'][name]['value'] == pytest.approx(want)
  values = [part['value'] for part in found['types'].values()]
  assert found['mean']['value'] == pytest.approx(np.mean(values))
  assert found['pooled']['value'] == pytest.approx(
    metrics.roc_auc_score(~entities.known, activations)
  )
  assert found['pooled']['n'] == len(entities)
  with pytest.raises(ValueError, match="'city' has no unknown entities"):
    detection(
      entities.take((entities.type_of == 0) | entities.known),
      np.zeros(len(entities)),
    )
