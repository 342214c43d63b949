"""Shares of a study's prompts: what counts as one observation."""

import dataclasses

import numpy as np
import pytest
from scipy import stats

from experiments.attention.edges import Edges
from experiments.attention.knockout_runs import Study
from experiments.attention.knockout_summary import summarise
from experiments.attention.knockouts import Sweep, knock_out, rows_of
from experiments.attention.windows import parse_heads, parse_windows
from experiments.stats.paired import paired_difference
from tests.experiments.attention import small

CONFIG = small.model().config
HEADS = parse_heads(['all', 'H1'], CONFIG)
WINDOWS = parse_windows(['from'], CONFIG)
EDGES = [Edges.parse(name) for name in ('after:entity', 'last:entity')]


def named(size: int, count: int = 3, prompts: int = 1):
  """Prompts of two templates about `count` entities of `size` tokens each."""
  rng = np.random.default_rng(size)
  made = []
  for template in small.cases()[:2]:
    start, stop = template.span
    for i in range(count):
      ids = (
        *template.ids[:start],
        *rng.integers(3, 97, size),
        *template.ids[stop:],
      )
      made += prompts * [
        dataclasses.replace(
          template,
          entity=f'{size} {i}',
          entity_class='known',
          ids=tuple(map(int, ids)),
          span=(start, start + size),
          relation=(start + size, len(ids)),
        )
      ]
  return made


def study(cases, wanted, sweep) -> Study:
  return Study(
    cases=cases,
    wanted=wanted,
    rows=rows_of(EDGES, HEADS),
    windows=WINDOWS,
    sweep=sweep,
    cost={},
  )


def planted(cases, wanted, before, after) -> list[dict]:
  """Effects, were this said before and after, whatever is cut."""
  shape = (1 + len(WINDOWS), len(cases), len(EDGES) * len(HEADS))
  says = np.zeros(shape, bool)
  says[0], says[1:] = before[:, None], after[None, :, None]
  rng = np.random.default_rng(0)
  sweep = Sweep(
    log_prob=-rng.random(shape, np.float32),
    says=says,
    latents=np.zeros((*shape, 2, 0), np.float32),
  )
  return summarise(study(cases, wanted, sweep), [])


def whole(result, edges):
  """The effect of cutting edges in all layers and heads."""
  (found,) = (
    e
    for e in result['effects']
    if (e['edges'], e['heads'], e['centre']) == (edges, 'all', 0)
  )
  return found


def test_without_the_entity_prompts_are_their_templates():
  """The model says so; and n does."""
  cases = [*named(1), *named(2)]
  same = [(5, 6)] * len(cases)
  sweep = knock_out(small.model(), cases, EDGES, WINDOWS, HEADS, same)
  groups = sweep.log_prob.reshape(*sweep.log_prob.shape[0:1], 4, 3, -1)
  spread = np.ptp(groups, axis=2).max(axis=1)  # [1 + W, R]
  # Row 0 is after:entity in all heads, window 1 is all layers.
  assert spread[1, 0] < 1e-4
  assert min(spread[0, 0], spread[2, 0], spread[1, 1], spread[1, 2]) > 1e-3
  result = summarise(study(cases, same, sweep), [])
  counts = lambda result: {
    (e['edges'], e['heads'], e['centre']): e['says_after']['n']
    for e in result['effects']
  }
  blind = ('after:entity', 'all', 0)
  assert counts(result)[blind] == 4
  assert 4 not in [n for place, n in counts(result).items() if place != blind]
  # Facts are right or wrong by entity, whatever the model has seen.
  facts = [(i, 50) for i in range(len(cases))]
  result = planted(cases, facts, np.ones(12, bool), np.arange(12) == 3)
  assert counts(result)[blind] == 12


def test_shares_are_of_entities():
  """Four prompts of each say the same: no more than one would."""
  cases = named(1, count=10, prompts=2)
  wanted = [(i,) for i in range(len(cases))]
  of = np.array([int(case.entity.split()[1]) for case in cases])
  before, after = of < 7, (of < 3) | (of == 8)
  result = planted(cases, wanted, before, after)
  found = whole(result, 'last:entity')
  for got, values in (
    (result['uncut']['known']['says'], before[:40:2][:10] * 1.0),
    (found['says_after'], after[:40:2][:10] * 1.0),
    (found['says'], (after * 1.0 - before)[:40:2][:10]),
  ):
    rng = np.random.default_rng(1)
    means = [rng.choice(values, 10).mean() for _ in range(4000)]
    assert got['value'] == pytest.approx(values.mean()) and got['n'] == 40
    bounds = [got['low'], got['high']]
    np.testing.assert_allclose(
      bounds, np.quantile(means, [0.025, 0.975]), atol=0.101
    )


def test_shares_that_no_resample_would_change():
  """All prompts agree: the interval is that of so many entities."""
  cases = named(1, count=10, prompts=2)
  wanted = [(i,) for i in range(len(cases))]
  ones, none = np.ones(40, bool), np.zeros(40, bool)
  found = whole(planted(cases, wanted, ones, none), 'last:entity')
  test = stats.binomtest(0, 10).proportion_ci(method='wilson')
  after = found['says_after']
  assert after['high'] == pytest.approx(test.high) and after['n'] == 10
  alone = paired_difference(ones[:10], none[:10])
  assert found['says'] == alone.to_dict() and alone.high > -1
  # One prompt of each entity: Wilson's, as of any independent ones.
  cases = named(1, count=10)[:10]
  after = np.arange(10) < 3
  found = whole(planted(cases, wanted[:10], ones[:10], after), 'last:entity')
  test = stats.binomtest(3, 10).proportion_ci(method='wilson')
  assert found['says_after']['low'] == pytest.approx(test.low)
