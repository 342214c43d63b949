import copy

import pytest

from experiments.refusal_tuning.repurposed import (
  ANEW,
  FAILS,
  HOLDS,
  OPEN,
  PARTLY,
  REPURPOSED,
  judge,
)

NAME = 'resid_post.2/24'


def estimate(low, high, n=90):
  return {'value': (low + high) / 2, 'low': low, 'high': high, 'n': n}


def results():
  """Of a model in which everything speaks for repurposing."""
  beyond = {'refusal': {'beyond': estimate(0.2, 0.5)}}
  cosines = [
    {
      'a': a,
      'b': 'controller.after',
      'cosine': estimate(0.5, 0.7),
      'null': 0.3,
      'reliability': [None, 0.9],
    }
    for a in ('means.after', NAME)
  ]
  noisy = copy.deepcopy(cosines)
  for each in noisy:
    each['cosine'], each['reliability'] = estimate(-0.2, 0.1), [None, 0.1]
  return {
    'latents': {
      'latents': [
        {'name': 'resid_post.1/3', 'label': 'known'},
        {
          'name': NAME,
          'label': 'unknown',
          'layer': 2,
          'auroc': {
            'before': estimate(0.8, 0.9),
            'change': estimate(-0.04, 0.02),
          },
          'spearman': estimate(0.9, 0.97),
        },
      ]
    },
    'steering': {
      'random': ['r'] * 12,
      'doses': [
        {
          'dose': 0.5,
          'before': {'matched': 12},
          'after': beyond | {'matched': 11, 'rank': 1},
          'more': {'refusal': estimate(0.2, 0.5)},
        },
        {
          'dose': 1.0,
          'before': {'matched': 12},
          'after': {'matched': 2, 'rank': 3},
          'more': {},
        },
      ],
    },
    'controllers': {
      'layers': [
        {'layer': 2, 'cosines': noisy},
        {'layer': 5, 'cosines': cosines},
      ]
    },
    'weights': {
      'components': [
        {'kind': 'all', 'layers': (), 'back': None},
        {
          'kind': 'layers',
          'layers': (0, 1, 2),
          'back': {'apart': {'share': estimate(0, 0.1)}},
        },
        {
          'kind': 'layers',
          'layers': (3, 4, 5),
          'back': {'apart': {'share': estimate(0.7, 0.9)}},
        },
      ]
    },
  }


def verdicts(found):
  return {rule['name']: rule['verdict'] for rule in found['rules']}


def test_all_rules_hold():
  found = judge(**results())
  assert set(verdicts(found).values()) == {HOLDS}
  assert found['verdict'] == REPURPOSED
  assert found['summary'].startswith('Repurposed')
  rules = {rule['name']: rule for rule in found['rules']}
  assert 'at dose 0.5, less that of 11 random' in rules['causes']['number']
  assert 'rank 1 of 12' in rules['causes']['number']
  # The most reliable controller is read, not the latent's own layer.
  assert 'resid_post.5' in rules['along']['number']
  assert rules['along']['threshold'] == 0.3


def test_an_interval_across_the_threshold_decides_nothing():
  for change in (
    lambda r: r['latents']['latents'][1].update(spearman=estimate(0.4, 0.6)),
    lambda r: r['steering']['doses'][0]['more'].update(
      refusal=estimate(0.04, 0.2)
    ),
    lambda r: r.pop('steering'),
    lambda r: r['latents']['latents'][1]['auroc'].update(
      before={'value': 0.9, 'low': None, 'high': None, 'n': 4}
    ),
  ):
    given = results()
    change(given)
    found = judge(**given)
    assert OPEN in verdicts(found).values()
    assert found['verdict'] == OPEN
    assert found['summary'].startswith('It cannot be told')


def test_a_detector_that_drives_nothing():
  given = results()
  dose = given['steering']['doses'][0]
  dose['after']['refusal']['beyond'] = estimate(-0.02, 0.03)
  dose['more']['refusal'] = estimate(-0.02, 0.03)
  for pair in given['controllers']['layers'][1]['cosines']:
    pair['cosine'] = estimate(-0.1, 0.1)
  found = judge(**given)
  assert verdicts(found)['causes'] == verdicts(found)['along'] == FAILS
  assert verdicts(found)['kept'] == HOLDS
  assert found['verdict'] == ANEW


@pytest.mark.parametrize('broken', ['same', 'along', 'new'])
def test_some_hold_and_some_do_not(broken):
  given = results()
  if broken == 'same':
    given['latents']['latents'][1]['spearman'] = estimate(0.1, 0.3)
  if broken == 'along':
    for pair in given['controllers']['layers'][1]['cosines']:
      pair['cosine'] = estimate(-0.1, 0.1)
  if broken == 'new':
    given['steering']['doses'][0]['more']['refusal'] = estimate(-0.1, 0.01)
  found = judge(**given)
  assert verdicts(found)[broken] == FAILS
  assert found['verdict'] == PARTLY
  assert 'Did not hold' in found['summary']


def test_an_unreliable_controller_says_nothing():
  given = results()
  given['controllers']['layers'].pop()
  found = judge(**given)
  # A cosine is no cause, so that it need not be told.
  assert verdicts(found)['along'] == OPEN and found['verdict'] == REPURPOSED
  assert 'Could not be told: Detector and controller' in found['summary']


def test_doses_need_matched_random_latents():
  given = results()
  given['steering']['doses'].pop(0)
  assert verdicts(judge(**given))['causes'] == OPEN


def test_without_saes_a_direction_is_the_detector():
  given = results()
  latent = given.pop('latents')['latents'][1]
  given.pop('steering')
  directions = [latent | {'name': f'means {i}', 'layer': i} for i in (1, 2)]
  found = judge(directions=directions, layer=2, **given)
  said = verdicts(found)
  assert said['kept'] == said['along'] == HOLDS and said['causes'] == OPEN
  assert found['verdict'] == OPEN
  assert 'means 2' in found['rules'][0]['number']


def test_nothing_at_all_cannot_be_told():
  found = judge()
  assert set(verdicts(found).values()) == {OPEN}
  assert found['verdict'] == OPEN


def test_where_the_change_is_decides_nothing():
  given = results()
  given['weights']['components'][2]['back']['apart']['share'] = estimate(0, 0.1)
  found = judge(**given)
  assert verdicts(found)['above'] == FAILS and found['verdict'] == REPURPOSED
