"""Both forms of the metric, against sums by hand, scipy and a planted order."""

import numpy as np
import pytest
from scipy import stats

from experiments.patching import summary as summary_lib
from experiments.patching.__main__ import _path
from experiments.patching.effect_sizes import eq13_grid, moved, moved_grid
from experiments.patching.study import choose_cells, half
from experiments.patching.summary import summarise

rng = np.random.default_rng(0)
n, L, T, N, DIFFER = 24, 3, 5, 2, 2
KNOWN, UNKNOWN = rng.normal(6, 1, n), rng.normal(-1, 1, n)
LABELS = [f'token {i}' for i in range(T)]


def test_the_codes_metric_and_equation_13():
  patched = rng.normal(2, 1, (L, T, n))
  grid = moved_grid(patched, UNKNOWN, KNOWN, seed=0)
  code = (patched.mean(-1) - UNKNOWN.mean()) / (KNOWN.mean() - UNKNOWN.mean())
  np.testing.assert_allclose(grid.value, code)
  np.testing.assert_allclose(moved(patched, UNKNOWN, KNOWN).mean(-1), code)
  eq13 = eq13_grid(patched, KNOWN, seed=0)
  np.testing.assert_allclose(eq13.value, patched.mean(-1) / KNOWN.mean())
  assert (grid.low < grid.value).all() and (grid.value < grid.high).all()
  assert grid.n == n


def test_intervals_are_scipys():
  patched = rng.normal(2, 1, (1, 1, n))

  def ratio(p, b, d, axis):
    return (p.mean(axis) - b.mean(axis)) / (d.mean(axis) - b.mean(axis))

  want = stats.bootstrap(
    (patched[0, 0], UNKNOWN, KNOWN),
    ratio,
    paired=True,
    vectorized=True,
    n_resamples=20_000,
    method='percentile',
    random_state=1,
  ).confidence_interval
  grid = moved_grid(patched, UNKNOWN, KNOWN, seed=0)
  np.testing.assert_allclose(
    [grid.low[0, 0], grid.high[0, 0]], [want.low, want.high], atol=0.01
  )


def planted(direction_base, direction_donor):
  """Sweeps where layer l's answer is all at token l + 2, and head 1 of layer 1
  carries half of it."""
  way = direction_donor - direction_base
  noise = rng.normal(0, 0.1, (L, T, n))
  noise[:, :DIFFER] = 0
  token = direction_base + noise
  for layer in range(L):
    token[layer, layer + 2] += way
  heads = direction_base + rng.normal(0, 0.1, (L, N, n))
  heads[1, 1] += 0.5 * way
  return {
    'resid_pre': token,
    'attn_out': direction_base + noise,
    'mlp_out': np.where(np.arange(L)[:, None, None] == 0, token, np.nan),
    'z_last': heads,
    'z_all': heads,
  }


@pytest.fixture(scope='module')
def summary():
  arrays = {'differ': np.array([DIFFER]), 'chosen_on': np.array([0])}
  for direction, base, donor in (
    ('denoising', UNKNOWN, KNOWN),
    ('noising', KNOWN, UNKNOWN),
  ):
    arrays |= {f'{direction}/base': base, f'{direction}/donor': donor}
    for name, patched in planted(base, donor).items():
      arrays[f'{direction}/{name}'] = patched
      guess = np.nan_to_num(patched - base) * 0.5
      arrays[f'{direction}/{name}/attribution'] = guess
  return summarise(arrays, LABELS)


@pytest.mark.parametrize('direction', ['denoising', 'noising'])
def test_what_is_planted_is_found(summary, direction):
  found = summary[direction]
  assert found['defined']
  assert [step['token'] for step in found['flow']] == [2, 3, 4]
  assert found['differences']['known']['value'] == pytest.approx(KNOWN.mean())
  head = found['top_heads']['z_last'][0]
  assert head['name'] == 'L1H1' and head['p_adjusted'] < 0.01
  assert head['moved']['value'] == pytest.approx(0.5, abs=0.05)
  p = found['maps']['resid_pre']['p_adjusted']
  assert (np.diagonal(p, offset=2) < 0.01).all()
  assert np.isnan(p[:, :DIFFER]).all()  # cannot move, so not tested
  # Nothing was planted there.
  assert not (found['maps']['attn_out']['p_adjusted'] <= 0.05).any()
  guess = found['maps']['resid_pre']['attribution']
  assert guess['spearman']['value'] == pytest.approx(1)
  assert guess['cells'] == L * (T - DIFFER)


def test_cells_that_were_not_run(summary):
  found = summary['denoising']['maps']['mlp_out']
  assert found['cells_run'] == T
  assert found['attribution']['cells'] == T - DIFFER
  assert np.isnan(found['moved']['value'][1:]).all()


def test_one_pair_has_no_interval():
  patched = rng.normal(2, 1, (L, T, 1))
  grid = moved_grid(patched, UNKNOWN[:1], KNOWN[:1], seed=0)
  assert np.isfinite(grid.value).all()
  assert np.isnan(grid.low).all() and np.isnan(grid.high).all()


def verified(patched, base, donor, count):
  """A summary of cells that a perfect guess has chosen."""
  guessed = {name: patched[name] - base for name in patched}
  cells = choose_cells(guessed, DIFFER, count)
  arrays = {'differ': np.array([DIFFER]), 'chosen_on': np.array([half(n)])}
  for direction in ('denoising', 'noising'):
    arrays |= {f'{direction}/base': base, f'{direction}/donor': donor}
    for name, each in patched.items():
      run = np.where(cells[name][..., None], each, np.nan)
      arrays[f'{direction}/{name}'] = run
      arrays[f'{direction}/{name}/attribution'] = guessed[name]
  return summarise(arrays, LABELS)['denoising']


def test_layers_without_a_verified_cell_have_no_token():
  patched = planted(UNKNOWN, KNOWN)
  patched['resid_pre'][1] = UNKNOWN  # nothing is there
  patched['mlp_out'] = patched['attn_out']
  found = verified(patched, UNKNOWN, KNOWN, 2)
  assert [step['token'] for step in found['flow']] == [2, None, 4]
  assert found['flow'][1]['moved'] is None
  said = _path(found['flow'], LABELS)
  assert said.startswith("'token 2' in resid_pre.0 (up to 1.")
  assert "'token 4' in resid_pre.2 (up to 1." in said and 'nan' not in said
  assert len(found['top_heads']['z_last']) == 2  # those that were run
  # What is there is found by the pairs that had no part in the choice.
  assert found['maps']['resid_pre']['p_adjusted'][0, 2] < 0.01
  assert found['maps']['resid_pre']['test']['n'] == n - half(n)


def test_chosen_cells_are_tested_on_other_pairs():
  """Where nothing is, few maps have a cell that seems to be."""
  maps, found = 40, 0
  for seed in range(maps):
    null = np.random.default_rng(seed).normal(size=(2, 15, n))
    (cells,) = choose_cells({'z_last': null}, DIFFER, 3).values()
    arrays = {
      'z_last': np.where(cells[..., None], UNKNOWN + null, np.nan),
      'z_last/attribution': null,
      'base': UNKNOWN,
      'donor': KNOWN,
    }
    one = summary_lib._map(arrays, 'z_last', KNOWN, DIFFER, half(n), 0)
    found += one['test']['significant'] > 0
  # On the same pairs it would be half of them.
  assert found <= stats.binom(maps, 0.05).ppf(0.999)


@pytest.mark.parametrize('shift', [0.0, 1e-9])
def test_no_difference_is_said(shift):
  arrays = {'differ': np.array([DIFFER]), 'chosen_on': np.array([0])}
  for direction in ('denoising', 'noising'):
    arrays |= {
      f'{direction}/base': UNKNOWN,
      f'{direction}/donor': UNKNOWN[::-1] + shift,
    }
    for name, patched in planted(UNKNOWN, KNOWN).items():
      arrays[f'{direction}/{name}'] = np.nan_to_num(patched)
      arrays[f'{direction}/{name}/attribution'] = np.nan_to_num(patched)
  with np.errstate(all='ignore'):
    assert not summarise(arrays, LABELS)['noising']['defined']
