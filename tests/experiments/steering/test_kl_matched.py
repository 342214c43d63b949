"""Comparisons at matched divergence, on numbers whose answer is known."""

import numpy as np
import pytest

from experiments.stats.intervals import cluster_bootstrap_mean
from experiments.steering.arms import standard_arms
from experiments.steering.kl_matched import (
  LEVELS,
  Resamples,
  at_levels,
  compare,
)
from tests.experiments.steering import planted

CLASSES = np.repeat(['known', 'unknown'], 40)
ENTITIES = [f'{name} {i // 2}' for i, name in enumerate(CLASSES)]


@pytest.fixture(scope='module')
def resamples():
  return Resamples(CLASSES, ENTITIES)


def test_resamples_are_a_cluster_bootstrap(resamples):
  """The same means as scipy's, and the same bounds but for chance."""
  rng = np.random.default_rng(0)
  clustered = rng.standard_normal(20).repeat(2)
  values = np.stack([np.r_[clustered, rng.random(40)], rng.random(80)])
  for name, at in (('known', slice(40)), ('unknown', slice(40, 80))):
    for found, mine in zip(
      resamples.estimates(values, name), values[:, at], strict=True
    ):
      expected = cluster_bootstrap_mean(mine, ENTITIES[at])
      assert found.value == pytest.approx(expected.value)
      assert found.n == expected.n == 40
      width = expected.high - expected.low
      assert found.low == pytest.approx(expected.low, abs=0.1 * width)
      assert found.high == pytest.approx(expected.high, abs=0.1 * width)


def test_one_entity_has_no_interval():
  found = Resamples(['known'] * 3, ['a'] * 3).estimates(
    np.ones((1, 3)), 'known'
  )
  assert found[0].to_dict() == {'value': 1, 'low': None, 'high': None, 'n': 3}


def test_levels_are_read_where_they_are_first_reached():
  levels = (0.05, 0.1, 0.15, 0.2, 0.3, 0.31)
  # From the original on; the third dose diverges less than the second.
  found = at_levels([0.1, 0.2, 0.15, 0.3], [-0.4, 0.6, 99.0, 1.0], levels)
  expected = [-0.2, -0.4, 0.1, 0.6, 1.0, np.nan]
  np.testing.assert_allclose(found, expected, atol=1e-12)
  assert np.isnan(at_levels([0.0], [0.0], (0.1,))).all()


def test_many_lines_are_read_as_one_by_numpy():
  rng = np.random.default_rng(0)
  x, y = rng.random((2, 50, 6))
  x[:10, 2], x[10:20, 3], x[20] = 0, x[10:20, 2], np.nan
  levels = np.linspace(0.01, 1.1, 30)
  found = at_levels(x, y, levels)
  for mine, kl, change in zip(found, x, y, strict=True):
    points = [(0.0, 0.0)]
    for point in zip(kl, change, strict=True):
      if point[0] > points[-1][0]:
        points.append(point)
    expected = np.interp(levels, *np.transpose(points), right=np.nan)
    np.testing.assert_allclose(mine, expected, atol=1e-12)


@pytest.fixture(scope='module')
def compared(resamples):
  """Refusals at doses 1 and 2; KL is dose squared times a line's own cost.

  The latent costs 0.1 and changes half of the known, then all; a random latent
  costs 0.4 or 0.8 and changes none, a random direction too little to compare.
  """
  arms = standard_arms(
    [planted.target('unknown')],
    {'unknown': 2.0},
    {'unknown': 1.0},
    num_random_directions=3,
    sweep=(2.0,),
    weight_ablation=(),
  )
  cost = {
    'steered': 0.1,
    'sweep': 0.1,
    'wrong sign': 0.2,
    'sweep of wrong sign': 0.2,
    'mean difference': 0.2,
    'sweep of mean difference': 0.2,
  }
  refused = np.zeros((len(arms), 80), bool)
  refused[:, 40:] = True
  divergences = np.zeros((len(arms), 80))
  for i, arm in enumerate(arms[1:], 1):
    mine = cost.get(arm.kind, 0.001)
    if 'latent' in arm.kind:
      mine = 0.4 if '1/10' in arm.name else 0.8
    divergences[i, :40] = mine * arm.dose**2
    divergences[i, 40:] = 2 * mine * arm.dose**2
    if arm.kind in ('steered', 'sweep', 'mean difference') or (
      arm.kind == 'sweep of mean difference'
    ):
      refused[i, : 40 if abs(arm.dose) > 1.5 else 20] = True
    if 'wrong' in arm.kind:
      refused[i, 40:] = False
  text = np.stack([row[40:47] for row in divergences])  # twice as much
  measured = {
    'refused': refused,
    'kl': divergences,
    'kl_rest': np.where(np.arange(80) % 2, divergences / 2, np.nan),
    'log_refusal': refused - 1.0,
    'text': text,
  }
  return compare(arms, measured, resamples)


def cell(compared, line, level, name='known', matched='same_questions'):
  (one,) = (
    c for c in compared if (c['class'], c['matched_on']) == (name, matched)
  )
  (found,) = (each for each in one['lines'] if each['line'] == line)
  return found['levels'][LEVELS.index(level)]


def test_lines_at_matched_divergence(compared):
  assert len(compared) == 8
  assert {(one['floor'], one['ceiling']) for one in compared} == {
    (0, 1),
    (-1, 0),
  }
  # A change of 0.5 at KL 0.1, of 1 at KL 0.4.
  latent = cell(compared, 'latent', 0.3)
  assert latent['change']['value'] == pytest.approx(0.5 + 0.5 * 2 / 3)
  assert latent['change']['n'] == 40
  assert latent['latent_minus']['value'] == 0
  # Half of that at KL 0.05, where each question costs twice as much.
  other = cell(compared, 'latent', 0.1, matched='text')
  assert other['change']['value'] == pytest.approx(0.25)
  # Twice as far at half the divergence; answers of one token have none.
  rest = cell(compared, 'latent', 0.1, matched='same_decision')
  assert rest['change']['value'] == pytest.approx(0.5 + 0.5 / 3)
  # As good in norms, half as good in divergence.
  means = cell(compared, 'mean difference', 0.1)
  assert means['change']['value'] == pytest.approx(0.25)
  assert means['latent_minus']['value'] == pytest.approx(0.25)
  assert means['latent_minus']['low'] > 0
  assert cell(compared, 'wrong sign', 0.3, 'unknown')['change']['value'] < -0.7
  # Bounds come with the entities that differ: the first dose flips half.
  low, high = (latent['change'][key] for key in ('low', 'high'))
  assert low < latent['change']['value'] < high


def test_what_a_line_does_not_reach(compared):
  """A latent at KL 1 would be beyond its sweep; random directions sooner."""
  assert cell(compared, 'latent', 0.3)['change']['value'] is not None
  beyond = cell(compared, 'latent', 1.0)
  assert beyond['change'] == {'value': None, 'low': None, 'high': None, 'n': 40}
  random = cell(compared, 'random latents', 1.0)
  assert random['change']['value'] == 0
  assert random['latent_minus']['value'] is None
  assert random['spread'] == {'arms': 4, 'reaching': 4, 'low': 0, 'high': 0}
  assert cell(compared, 'random latents', 3.0)['spread']['reaching'] == 3
  few = cell(compared, 'random directions', 0.01)
  assert few['change']['value'] is None and few['spread']['reaching'] == 0


def test_questions_that_flip_are_left_out(compared):
  """Of the known, half flip at dose 1; of the unknown, none."""
  (one,) = (
    c
    for c in compared
    if (c['class'], c['matched_on']) == ('known', 'unflipped')
  )
  (latent,) = (x for x in one['lines'] if x['line'] == 'latent')
  first, second = latent['points']
  assert first['kl']['value'] == pytest.approx((20 * 0.1 + 40 * 0.2) / 60)
  # At dose 2 all known ones flip, and only the unknown are left.
  assert second['kl']['value'] == pytest.approx(0.8)
  assert first['log_refusal']['value'] == pytest.approx(0.5)


def test_where_every_question_flips_nothing_is_matched():
  arms = standard_arms(
    [planted.target('unknown')],
    {'unknown': 2.0},
    {'unknown': 1.0},
    num_random_directions=0,
    weight_ablation=(),
  )
  refused = np.zeros((len(arms), 2), bool)
  refused[1:] = True
  kl = np.ones((len(arms), 2))
  found = compare(
    arms,
    {
      'refused': refused,
      'kl': kl,
      'kl_rest': kl,
      'log_refusal': np.full_like(kl, np.nan),
    },
    Resamples(['known'] * 2, ['a', 'b']),
  )
  (unflipped,) = (c for c in found if c['matched_on'] == 'unflipped')
  latent = unflipped['lines'][0]
  assert latent['points'][0]['kl']['value'] is None
  assert latent['points'][0]['log_refusal']['value'] is None
  assert latent['levels'][0]['change']['value'] is None
  assert latent['largest_kl'] is None
  assert 'text' not in {c['matched_on'] for c in found}


def test_intervals_of_random_lines_resample_arms_too():
  """Arms that differ widen the interval, though questions are all alike."""
  arms = standard_arms(
    [planted.target('unknown')],
    {'unknown': 2.0},
    {'unknown': 1.0},
    num_random_directions=0,
    weight_ablation=(),
  )
  refused = np.zeros((len(arms), 40), bool)
  random = [i for i, arm in enumerate(arms) if arm.kind == 'random latent']
  refused[random[:2]] = True
  kl = np.ones((len(arms), 40))
  kl[0] = 0
  found = compare(
    arms,
    {'refused': refused, 'kl': kl, 'kl_rest': kl, 'log_refusal': kl},
    Resamples(['known'] * 40, range(40)),
  )
  (same,) = (c for c in found if c['matched_on'] == 'same_questions')
  (line,) = (x for x in same['lines'] if x['line'] == 'random latents')
  change = line['levels'][4]['change']
  assert change['value'] == 0.5 and change['low'] < 0.1 and change['high'] > 0.9
