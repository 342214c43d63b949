"""Scores against loops over entities, and against scipy."""

import dataclasses

import numpy as np
import pytest
from scipy import stats

from experiments.latents import (
  METRICS,
  class_sums,
  layer_curve,
  mean_ranks,
  null_p_values,
  separation,
  welch_t,
)
from experiments.latents.class_sums import ClassSums
from tests.experiments.latents import planted


@pytest.fixture(scope='module')
def world():
  return planted.world()


@pytest.fixture(scope='module')
def train(world):
  return [class_sums(one, world.groups, ('train',)) for one in world.sums()]


def classes(world, layer, split, e):
  """Latents of known and of unknown entities of a type, [n, F] each."""
  entities = world.entities[split]
  latents = world.latents[split][layer]
  return [
    latents[(entities.type_of == e) & (entities.known == known)]
    for known in (True, False)
  ]


def expected(metric, a, b):
  """The formulas of paper.md, 4, from latents [n, F] of two classes."""
  fa, fb = np.mean(a > 1e-6, axis=0), np.mean(b > 1e-6, axis=0)
  if metric == 't_test':
    t = stats.ttest_ind(a, b, equal_var=False).statistic
    return np.where((a.sum(0) == 0) & (b.sum(0) == 0), 0, t)
  return {
    'absolute_difference': fa - fb,
    'relative_difference': (fa - fb) / (fb + 1e-6),
    'absolute_mean_difference': a.mean(0) - b.mean(0),
    'relative_mean_difference': (a.mean(0) - b.mean(0)) / (b.mean(0) + 1e-6),
  }[metric]


@pytest.mark.parametrize('metric', METRICS)
def test_metrics_from_entities(world, train, metric):
  for sums in train:
    for label in ('known', 'unknown'):
      scores = separation(sums, label, metric)
      for e in range(2):
        a, b = classes(world, sums.layer, 'train', e)
        if label == 'unknown':
          a, b = b, a
        want = expected(metric, a, b)
        np.testing.assert_allclose(scores[e], want, rtol=1e-9, atol=1e-9)


def test_labels_are_opposites_where_the_metric_is_a_difference(train):
  for metric in ('absolute_difference', 'absolute_mean_difference', 't_test'):
    known = separation(train[0], 'known', metric)
    assert np.array_equal(known, -separation(train[0], 'unknown', metric))


def test_means_norms_and_frequencies(world, train):
  for sums in train:
    for e in range(2):
      for c, latents in enumerate(classes(world, sums.layer, 'train', e)):
        np.testing.assert_allclose(sums.mean[e, c], latents.mean(0))
        np.testing.assert_allclose(sums.frequency[e, c], (latents > 0).mean(0))
    text = (world.text[sums.layer] > 0).mean(0)
    np.testing.assert_array_equal(sums.text_frequency, text)
  both = class_sums(world.sums()[0], world.groups)
  norms = np.concatenate(
    [np.linalg.norm(world.vectors[split][2], axis=1) for split in world.vectors]
  )
  np.testing.assert_allclose(both.norm_total.sum() / both.n.sum(), norms.mean())


def test_welch_from_moments():
  rng = np.random.default_rng(0)
  a, b = rng.gamma(1, 2, (30, 8)), rng.gamma(2, 1, (17, 8))
  # Silent, silent in one, constant in one, equal and different constants.
  a[:, 0] = b[:, 0] = b[:, 1] = 0
  a[:, 2] = 0.1
  a[:, 3] = b[:, 3] = 0.1
  a[:, 4], b[:, 4] = 0.3, 0.1
  t = welch_t(30, a.sum(0), (a**2).sum(0), 17, b.sum(0), (b**2).sum(0))
  for j in (1, 5, 6, 7):
    want = stats.ttest_ind(a[:, j], b[:, j], equal_var=False).statistic
    assert t[j] == pytest.approx(want, rel=1e-9)
  moments = stats.ttest_ind_from_stats(
    a[:, 7].mean(),
    a[:, 7].std(ddof=1),
    30,
    b[:, 7].mean(),
    b[:, 7].std(ddof=1),
    17,
    equal_var=False,
  )
  constant = (0.1 - b[:, 2].mean()) / stats.sem(b[:, 2])
  assert t[2] == pytest.approx(constant, rel=1e-9)
  np.testing.assert_allclose(t[7], moments.statistic)
  assert t[0] == 0 and t[3] == 0 and t[4] == np.inf
  one = welch_t(1, a[0], a[0] ** 2, 17, b.sum(0), (b**2).sum(0))
  assert np.isfinite(one).all() and (one == 0).all()  # no variance of one


def hand_made(n, active, site='resid_post', layer=0, text_n=0, text=None):
  """ClassSums of counts [E, 2, F] alone."""
  n, active = np.array(n), np.array(active)
  F = active.shape[-1]
  return ClassSums(
    site=site,
    layer=layer,
    types=tuple(f'type {e}' for e in range(len(n))),
    n=n,
    active=active,
    total=active.astype(float),
    squares=active.astype(float),
    stream_total=np.zeros((*n.shape, 1)),
    norm_total=np.zeros(n.shape),
    text_n=text_n,
    text_active=np.zeros(F, int) if text is None else np.array(text),
  )


def test_equal_shares_are_equal_scores():
  # 1/3 - 1/7, of classes of different sizes: a tie, also in floating point.
  sums = hand_made(
    [[3, 7], [9, 49], [30, 21]],
    [[[1], [1]], [[3], [7]], [[10], [3]]],
  )
  scores = separation(sums)
  assert len(set(scores[:, 0])) == 1
  naive = {k / n - u / m for k, n, u, m in ((1, 3, 1, 7), (10, 30, 3, 21))}
  assert scores[0, 0] == pytest.approx(naive.pop(), abs=1e-15)


def test_rare_latents_can_be_left_out():
  sums = hand_made([[10, 10]], [[[2, 9], [0, 1]]])
  assert separation(sums).tolist() == [[0.2, 0.8]]
  assert separation(sums, min_active=3).tolist() == [[0.0, 0.8]]


def test_never_firing_latents_score_0(train):
  for metric in METRICS:
    assert (separation(train[0], 'known', metric)[:, 30] == 0).all()


def test_mean_ranks():
  first = np.array([[0.9, 0.1, 0.1], [0.0, 0.5, 0.4]])
  second = np.array([[0.5, 0.1], [0.3, 0.6]])
  ranks = mean_ranks([first, second])
  # Type 0: .9, .5, then three that share places 3 to 5; type 1: 5, 2, 3, 4, 1.
  assert [r.tolist() for r in ranks] == [[3.0, 3.0, 3.5], [3.0, 2.5]]


def test_layer_curve(train):
  for label in ('known', 'unknown'):
    curve = layer_curve(train, [separation(one) for one in train], label)
    for sums, place in zip(train, curve, strict=True):
      scores = separation(sums, label)
      assert (place['site'], place['layer']) == sums.where
      for e, name in enumerate(sums.types):
        best = sorted(scores[e], reverse=True)[:5]
        found = place['types'][name]
        assert found['mean'] == pytest.approx(np.mean(best))
        assert (found['max'], found['min'], found['n']) == (best[0], best[4], 5)
      lowest = [min(column) for column in scores.T]
      assert place['maxmin'] == max(lowest)
      assert lowest[place['latent']] == max(lowest)
  sums = hand_made([[5, 5]], [[[1, 2], [0, 5]]])
  few = layer_curve([sums], [separation(sums)], 'known')
  assert few[0]['types']['type 0']['n'] == 2


def test_null_p_values_are_those_of_scipy(world, train):
  for sums in train:
    smallest = np.ones(sums.width)
    for e in range(2):
      a, b = classes(world, sums.layer, 'train', e)
      for x, y in ((a, b), (a > 1e-6, b > 1e-6)):
        with np.errstate(all='ignore'):
          p = stats.ttest_ind(
            x.astype(float), y.astype(float), equal_var=False
          ).pvalue
        smallest = np.fmin(smallest, p)
    want = 1 - (1 - smallest) ** 4  # two tests of two types
    np.testing.assert_allclose(null_p_values(sums), want, rtol=1e-6, atol=1e-9)
  p = {
    id.layer: null_p_values(train[id.layer - 2])[id.latent]
    for id in (planted.KNOWN, planted.UNKNOWN, planted.GENERAL)
  }
  assert max(p.values()) < 1e-6


@pytest.mark.parametrize(('frequency', 'n'), [(0.5, 60), (0.05, 60), (1.0, 8)])
def test_chance_lets_19_of_20_controls_through(frequency, n):
  rng = np.random.default_rng(0)
  E, F = 4, 2000
  shape = E, 2, n, F
  fires = rng.random(shape) < frequency
  f = np.where(fires, rng.gamma(2.0, 1.0, shape), 0.0)
  sums = dataclasses.replace(
    hand_made(np.full((E, 2), n), fires.sum(2)),
    total=f.sum(2),
    squares=(f**2).sum(2),
  )
  assert 0.94 < (null_p_values(sums) >= 0.05).mean() <= 1
  # The published bound turns most of them away where latents fire often.
  if frequency == 0.5:
    assert (np.abs(separation(sums)) < 0.05).all(0).mean() < 0.1


def test_null_p_values_without_variance():
  sums = hand_made([[5, 5], [1, 5]], [[[5, 0, 5], [0, 0, 5]]] * 2)
  assert null_p_values(sums).tolist() == [0.0, 1.0, 1.0]


def test_splits_add_up(world):
  one = world.sums()[0]
  parts = [class_sums(one, world.groups, (s,)) for s in planted.SIZES]
  whole = class_sums(one, world.groups)
  for field in dataclasses.fields(ClassSums):
    if isinstance(getattr(whole, field.name), np.ndarray):
      values = [getattr(part, field.name) for part in parts]
      if not field.name.startswith('text'):
        total = getattr(whole, field.name)
        np.testing.assert_allclose(sum(values), total)
  assert whole.text_n == planted.TEXT_N


def test_text_by_itself(world):
  one = world.sums()[0]
  bare = world.sums(with_text=False)[0]
  text = dataclasses.replace(
    one, n=one.n[-1:], active=one.active[-1:], total=one.total[-1:]
  )
  sums = class_sums(bare, world.groups, ('train',), text=text)
  same = class_sums(one, world.groups, ('train',))
  assert sums.text_n == same.text_n
  assert np.array_equal(sums.text_active, same.text_active)
  with pytest.raises(ValueError, match='twice'):
    class_sums(one, world.groups, text=text)
  assert np.isnan(class_sums(bare, world.groups).text_frequency).all()


def test_documents_without_a_word_can_count(world):
  one = world.sums()[0]
  sums = class_sums(one, world.groups, text_n=2 * planted.TEXT_N)
  fires = (world.text[2] > 0).sum(0)
  np.testing.assert_array_equal(
    sums.text_frequency, fires / (2 * planted.TEXT_N)
  )
  with pytest.raises(ValueError, match='400 positions.*text_n=399'):
    class_sums(one, world.groups, text_n=399)
  bare = world.sums(with_text=False)[0]
  assert class_sums(bare, world.groups, text_n=10).text_n == 0


def test_errors(world, train):
  with pytest.raises(KeyError, match='difference.*metrics'):
    separation(train[0], metric='difference')
  with pytest.raises(KeyError, match='maybe'):
    separation(train[0], 'maybe')
  with pytest.raises(ValueError, match=r'empty: n is \[\[3, 0\]\]'):
    separation(hand_made([[3, 0]], [[[1], [0]]]))
  groups = dataclasses.replace(world.groups, splits=('train',))
  with pytest.raises(ValueError, match='have 13 groups.*make 4, and one more'):
    class_sums(world.sums()[0], groups)
