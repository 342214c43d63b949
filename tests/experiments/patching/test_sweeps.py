"""The sweep that shares work gives what whole runs give, for what it says."""

from collections import Counter
import functools

import jax
import numpy as np
import pytest

from experiments.patching import MAPS, costs, naive_sweep, sweep, sweeps
from experiments.patching.cells import every_cell, top_cells
from gemma_jax.costs import attention_flops, block_flops
from tests.experiments.patching import small
from tests.experiments.patching.small import DIFFER, T, n

L, N = 5, 4


@pytest.fixture(scope='module')
def cells():
  return every_cell(small.model().config, T)


@functools.cache
def fast(order):
  base, donor = small.runs()[::order]
  return sweep(small.model(), base, donor)


@pytest.mark.parametrize('name', MAPS)
@pytest.mark.parametrize('order', [1, -1])
def test_equal_to_the_naive_sweep(cells, name, order):
  base, donor = small.runs()[::order]
  slow = naive_sweep(
    small.model(),
    base.tokens,
    donor.tokens,
    base.answers,
    {name: cells[name]},
  )[name]
  found = fast(order)[name]
  assert found.shape == (*cells[name].shape, n)
  np.testing.assert_allclose(found, slow, atol=1e-5)
  # And patches do something.
  assert np.abs(found - base.difference).max() > 0.1


def test_ends(cells):
  """Nothing moves at layer 0 of the last token; a name's tokens move all."""
  base, donor = small.runs()
  found = fast(1)
  np.testing.assert_allclose(
    found['resid_pre'][0, -1], base.difference, atol=1e-5
  )
  for name in ('resid_pre', 'attn_out', 'mlp_out'):
    assert (found[name][:, :DIFFER] == base.difference).all()
  # In the last layer only the last token is read.
  for name in ('attn_out', 'mlp_out'):
    np.testing.assert_allclose(
      found[name][-1, :-1],
      np.broadcast_to(base.difference, (T - 1, n)),
      atol=1e-5,
    )
  both = np.abs(donor.difference - base.difference)
  assert both.max() > 0.1


def test_one_program_per_suffix_length(cells):
  fast(1)
  before = sweeps._patched._cache_size()
  base, donor = small.runs()
  some = {name: np.zeros(c.shape, bool) for name, c in cells.items()}
  some['mlp_out'][3, 4] = some['z_last'][1, 2] = some['z_all'][2, 0] = True
  found = sweep(small.model(), donor, base, some)
  assert sweeps._patched._cache_size() == before
  for name, wanted in some.items():
    assert np.isfinite(found[name][wanted]).all()
    assert np.isnan(found[name][~wanted]).all()
    np.testing.assert_array_equal(found[name][wanted], fast(-1)[name][wanted])


def test_programs_are_as_many_as_suffixes(cells):
  """From each token on that differs, and for heads at all tokens."""
  jax.clear_caches()
  sweep(small.model(), *small.runs())
  assert sweeps._patched._cache_size() == (T - DIFFER) + 1


def test_equal_sides_are_refused():
  base, _ = small.runs()
  with pytest.raises(ValueError, match='the same'):
    sweep(small.model(), base, base)


def test_costs_are_those_of_loops(cells):
  """Blocks counted one by one, from what each cell changes."""
  config = small.model().config
  per_token = block_flops(config) + attention_flops(config, T)
  minimum, executed = Counter(), Counter()
  for name, wanted in cells.items():
    for layer, column in np.argwhere(wanted).tolist():
      first = {'z_last': T - 1, 'z_all': 0}.get(name, column)
      for token in range(first, T):
        minimum[name] += n * (L - layer)
        real = token >= DIFFER and (name == 'z_all' or first >= DIFFER)
        executed[name] += n * (L - layer) * real
  for name in MAPS:
    formula = costs.minimal_cost(config, n, T, name)
    assert formula == minimum[name] * block_flops(config)
    one = {name: cells[name]}
    cost = costs.sweep_cost(config, n, T, DIFFER, one)
    run = cells[name].sum() - (0 if name[0] == 'z' else DIFFER * L)
    logits = run * n * 4 * config.d_model
    assert cost == executed[name] * per_token + logits
    # At a real model's widths attention and two logits are next to nothing.
    assert cost < 2 * formula
  assert costs.naive_cost(config, n, T, 35) == 35 * n * T * (
    L * block_flops(config) + 2 * 40 * 97
  )


def test_top_cells():
  score = np.array([[0.1, -3.0], [2.0, 0.0]])
  found = top_cells({'resid_pre': score}, 2)['resid_pre']
  np.testing.assert_array_equal(found, [[False, True], [True, False]])
