"""Random latents fulfil what they are drawn by; directions are means."""

import random

import numpy as np
import pytest

from experiments.latents import (
  LatentId,
  class_sums,
  describe_random,
  difference_of_means,
  entity_frequency,
  matched_random,
  null_p_values,
  separation,
  zero_score_random,
)
from tests.experiments.latents import planted
from tests.experiments.latents.test_scores import hand_made

OF = LatentId('resid_post', 0, 0)


def wide(num_quiet=300, seed=0):
  """One latent that separates, and others that do not, of all frequencies."""
  rng = np.random.default_rng(seed)
  n = np.array([[200, 100], [50, 400]])
  share = np.r_[0.0, 10 ** rng.uniform(-3, 0, num_quiet)]
  active = np.rint(share * n[..., None]).astype(int)
  active[:, 0, 0], active[:, 1, 0] = n[:, 0] * 0.6, n[:, 1] * 0.2
  # Some that separate one type only are no controls.
  active[0, 0, 1:20] = 150
  return hand_made(n, active)


def test_matched_random_latents():
  sums = wide()
  norms = np.random.default_rng(1).uniform(0.7, 1.4, sums.width)
  drawn = matched_random(OF, sums, count=20, seed=3, norms=norms)
  assert drawn.rule == 'matched' and len(set(drawn.ids)) == 20
  mine = np.mean([0.6, 0.2, 0.6, 0.2])
  assert drawn.frequency == pytest.approx(mine)
  pool, p = 0, null_p_values(sums)
  for j in range(1, sums.width):
    frequency = np.mean(
      [sums.active[e, c, j] / sums.n[e, c] for e in range(2) for c in range(2)]
    )
    fits = (
      p[j] >= 0.05
      and mine / 2 <= frequency <= 2 * mine
      and 0.8 <= norms[j] / norms[0] <= 1.25
    )
    pool += fits
    if LatentId('resid_post', 0, j) in drawn.ids:
      assert fits, j
  assert drawn.pool == pool > 20
  for id, frequency, norm in zip(
    drawn.ids, drawn.frequencies, drawn.norms, strict=True
  ):
    assert frequency == entity_frequency(sums)[id.latent]
    assert norm == norms[id.latent]


def test_odds_tell_half_from_all():
  """By frequency alone what fires on all is like what fires on half."""
  n = np.array([[200, 100]])
  share = np.r_[0.5, np.linspace(0.02, 1, 99)]
  active = np.rint(share * n[..., None]).astype(int)
  active[0, :, 0] = 160, 20  # it separates, and so do some others
  active[0, :, 90:] = np.array([[190], [10]])
  sums = hand_made(n, active)
  by_odds = matched_random(OF, sums, count=20, odds=True)
  assert by_odds.rule == 'matched'
  assert all(1 / 3 <= f <= 2 / 3 for f in by_odds.frequencies)
  assert max(matched_random(OF, sums, count=20).frequencies) > 0.8
  every = matched_random(OF, sums, count=40, odds=True, separating=True)
  assert any(id.latent >= 90 for id in every.ids)
  assert not any(id.latent >= 90 for id in by_odds.ids)


def test_draws_depend_on_seed_and_latent_alone():
  sums = wide()
  first = matched_random(OF, sums, count=10, seed=3)
  assert first.ids == matched_random(OF, sums, count=10, seed=3).ids
  assert first.ids != matched_random(OF, sums, count=10, seed=4).ids
  other = matched_random(OF, sums, count=10, seed=3, exclude=first.ids)
  assert not set(first.ids) & set(other.ids)


def test_the_nearest_where_too_few_match():
  sums = wide(num_quiet=60)
  frequency = entity_frequency(sums)
  drawn = matched_random(OF, sums, count=30)
  assert drawn.rule == 'nearest' and drawn.pool < 30
  able = (null_p_values(sums) >= 0.05) & (frequency > 0)
  able[0] = False
  want = sorted(
    np.flatnonzero(able),
    key=lambda j: abs(np.log(frequency[j]) - np.log(frequency[0])),
  )[:30]
  assert [id.latent for id in drawn.ids] == want
  assert drawn.norm is None and drawn.norms is None
  # A latent that never fires is not like one that does.
  assert min(drawn.frequencies) > 0


def test_a_small_sae_gives_what_it_has():
  sums = wide(num_quiet=25)
  drawn = matched_random(OF, sums, count=50)
  assert 0 < len(drawn.ids) < 25


def test_where_few_are_admitted_those_that_separate_least():
  n = np.array([[200, 200]])
  active = np.stack([[np.r_[150, 100 + 5 * np.arange(9)]], [np.full(10, 100)]])
  sums = hand_made(n, active.transpose(1, 0, 2))
  drawn = matched_random(OF, sums, count=6)
  assert drawn.rule == 'least separating' and drawn.pool < 6
  assert [id.latent for id in drawn.ids] == [1, 2, 3, 4, 5, 6]
  assert 'separate least' in describe_random(drawn.to_dict())


def test_published_pool():
  sums = wide()
  sums.active[:, :, 50:90] = 0
  lowest = separation(sums).min(0)
  pool = [j for j in range(sums.width) if lowest[j] == 0]
  random.seed(42)
  want = random.sample(pool, 10)
  drawn = zero_score_random(OF, sums)
  assert [id.latent for id in drawn.ids] == want
  assert (drawn.rule, drawn.pool) == ('zero_score', len(pool))


def test_errors():
  sums = wide()
  elsewhere = LatentId('resid_post', 1, 0)
  for draw in (matched_random, zero_score_random):
    with pytest.raises(ValueError, match='resid_post.1/0 is not of'):
      draw(elsewhere, sums)
  with pytest.raises(ValueError, match='0 latents of.*exactly 0; 10 are'):
    zero_score_random(OF, hand_made([[5, 5]], [[[5, 4], [0, 1]]]))
  with pytest.raises(ValueError, match='No latent.*control of.*wider SAE'):
    matched_random(OF, hand_made([[5, 5]], [[[5, 0], [0, 0]]]))


def test_difference_of_means():
  world = planted.world()
  sums = class_sums(world.sums()[2], world.groups, ('train',))
  entities = world.entities['train']
  x = world.vectors['train'][4]
  each = [
    x[(entities.type_of == e) & entities.known].mean(0)
    - x[(entities.type_of == e) & ~entities.known].mean(0)
    for e in range(2)
  ]
  want = (each[0] + each[1]) / 2
  np.testing.assert_allclose(difference_of_means(sums), want)
  np.testing.assert_allclose(difference_of_means(sums, 'unknown'), -want)


def test_words_say_how_alike_they_are():
  sums = wide()
  matched = matched_random(OF, sums, count=20)
  assert describe_random(matched.to_dict()) == 'of the same layer and frequency'
  few = matched_random(OF, wide(num_quiet=30), count=10)
  assert few.rule == 'nearest'
  often = [
    np.mean(sums.active[:, :, id.latent] / sums.n)
    for sums in [wide(num_quiet=30)]
    for id in few.ids
  ]
  assert describe_random(few.to_dict()) == (
    'of the same layer, the nearest in frequency (they fire on '
    f'{100 * min(often):.0f}% to {100 * max(often):.0f}% of entities, it on '
    '40%)'
  )
  silent = few.to_dict() | {'rule': 'zero_score', 'frequencies': (0.0, 0.001)}
  assert 'lowest score is 0 (they fire on 0% to 0%' in describe_random(silent)
