"""Tests of changes: nulls are null, what is planted is found."""

import dataclasses

import numpy as np
import pytest
from scipy import stats

from experiments.attention.shift_summary import (
  among_random,
  compare_classes,
  summarise_shift,
  welch_flattened,
)
from experiments.attention.shifts import Shift
from experiments.latents import LatentId, Target
from tests.experiments.attention import small

L, N, R, CASES = 3, 4, 99, 40
RNG = np.random.default_rng(0)


def cases(label):
  """Two prompts of each entity."""
  made = []
  for i in range(CASES // 2):
    for case in small.cases()[:2]:
      made.append(
        type(case)(
          **{
            **vars(case),
            'entity': f'{label} {i}',
            'entity_class': label,
          }
        )
      )
  return made


def shift(planted=0.0, head=(2, 1), label='known') -> Shift:
  """All directions act alike, but that the latent moves one head further."""
  rng = np.random.default_rng(1)
  one = Target(
    label=label,
    id=LatentId('resid_post', 0, 7),
    direction=np.ones(2, np.float32),
    controls={LatentId('resid_post', 0, 10 + i): np.ones(2) for i in range(R)},
  )
  before = rng.uniform(0, 1, (CASES, L, 3, 2, N)).astype(np.float32)
  effect = rng.standard_normal((1, 1 + R, L - 1, 3, 2, N))
  noise = rng.standard_normal((CASES, 1 + R, L - 1, 3, 2, N))
  changes = effect + 0.5 * noise
  layer, n = head
  changes[:, 0, layer - 1, :, :, n] += planted
  other = {'known': 'unknown', 'unknown': 'known'}[label]
  return Shift(
    cases=cases(other),
    before=before,
    target=one,
    after=(before[:, None, 1:] + changes).astype(np.float32),
  )


def test_a_planted_head_is_found_and_no_other():
  entry = summarise_shift(shift(planted=8.0))[0]
  found = [h['name'] for h in entry['heads'] if h['p_random_max'] <= 0.05]
  assert found == ['L2H1']
  (head,) = (h for h in entry['heads'] if h['name'] == 'L2H1')
  assert head['p_random'] == pytest.approx(1 / (1 + R))
  assert head['change']['value'] == pytest.approx(8, abs=3)
  assert head['change']['n'] == CASES // 2
  assert entry['prompts_test']['n'] == CASES // 2  # entities
  assert len(entry['heads']) == (L - 1) * N  # those after the layer
  assert entry['expected'] == 1 and entry['prompts'] == 'unknown'


def test_a_latent_like_the_random_ones_is_not_marked():
  """Though its change is far from 0 over prompts, as any direction's is."""
  entry = summarise_shift(shift())[0]
  assert not [h for h in entry['heads'] if h['p_random_max'] <= 0.05]
  assert entry['prompts_test']['significant'] > 0


def test_random_latents_in_its_place_reach_the_level_of_the_test():
  """Over many draws without an effect, 5 % have any head marked."""
  rng = np.random.default_rng(2)
  hits = 0
  for _ in range(400):
    x = rng.standard_normal((20, 6)) @ rng.standard_normal((6, 6))
    p, adjusted = among_random(x[0], x[1:])
    assert (adjusted >= p).all()
    hits += adjusted.min() <= 0.05
  assert stats.binomtest(hits, 400, 0.05).pvalue > 0.01
  same = among_random(np.zeros(2), np.zeros((5, 2)))
  assert np.isnan(same[0]).all() and np.isnan(same[1]).all()


def test_the_published_test_is_welchs():
  changes = RNG.standard_normal((8, 3, 4))
  changes[:, 0] += 1
  found = welch_flattened(changes, 1)
  expected = [
    stats.ttest_ind(
      changes[:, 0].ravel(),
      changes[:, r].ravel(),
      equal_var=False,
      alternative='greater',
    ).pvalue
    for r in (1, 2)
  ]
  assert found['p_values'] == pytest.approx(expected)
  assert found['of'] == 2 and found['samples'] == 32
  assert welch_flattened(changes, -1)['rejections'] == 0


def test_all_numbers_of_a_cell_are_of_entities():
  """Though some entities have more prompts than others."""
  few = np.r_[np.arange(10), np.arange(11, CASES, 2)]  # 2 of five, 1 of others

  def uneven(label):
    whole = shift(label=label)
    return dataclasses.replace(
      whole,
      cases=[whole.cases[i] for i in few],
      before=whole.before[few],
      after=whole.after[few],
    )

  def by_entity(one, x):
    units = [case.unit for case in one.cases]
    groups = [x[[u == name for u in units]] for name in dict.fromkeys(units)]
    return np.array([group.mean() for group in groups])

  known, unknown = uneven('unknown'), uneven('known')
  head = compare_classes(known, unknown)[0]['heads'][5]  # L1H1
  both = [by_entity(one, one.before[:, 1, 0, 0, 1]) for one in (known, unknown)]
  for name, means in zip(('known', 'unknown'), both, strict=True):
    assert head[name]['value'] == pytest.approx(means.mean())
    assert head[name]['n'] == CASES // 2
  difference = head['known']['value'] - head['unknown']['value']
  assert head['difference']['value'] == pytest.approx(difference)
  assert head['t'] == pytest.approx(
    stats.ttest_ind(*both, equal_var=False).statistic
  )
  entry = summarise_shift(unknown)[0]
  (cell,) = (h for h in entry['heads'] if h['name'] == 'L2H3')
  moved = by_entity(unknown, unknown.changes[:, 0, 1, 0, 0, 3])
  assert cell['change']['value'] == pytest.approx(moved.mean())
  assert entry['mean']['change']['n'] == CASES // 2


def test_classes_differ_where_planted():
  known, unknown = shift(label='unknown'), shift(label='known')
  known.before[:, 1, 0, 0, 2] += 1.5
  entries = compare_classes(known, unknown)
  first = entries[0]
  assert (first['measure'], first['keys']) == ('attention', 'entity_last')
  found = [h['name'] for h in first['heads'] if h['p_max_t'] <= 0.05]
  assert found == ['L1H2'] and first['significant'] == 1
  (head,) = (h for h in first['heads'] if h['name'] == 'L1H2')
  assert head['difference']['low'] > 1
  # Labels at random: nothing.
  mixed = compare_classes(unknown, unknown)
  assert all(entry['significant'] == 0 for entry in mixed)
