"""Paired tests against published values, enumeration and simulation."""

import itertools

import numpy as np
import pytest

from experiments.stats.paired import (
  benjamini_hochberg,
  mcnemar,
  paired_difference,
)


def table(yes, lost, gained, no):
  """(before, after) with these counts of items."""
  counts = (yes, lost, gained, no)
  cells = ((True, True), (True, False), (False, True), (False, False))
  pairs = list(
    itertools.chain.from_iterable(
      [cell] * count for cell, count in zip(cells, counts, strict=True)
    )
  )
  before, after = zip(*pairs, strict=True)
  return before, after


@pytest.mark.parametrize(
  'counts, low, high',
  [
    # Altman et al. 2000, Statistics with Confidence, table 6.2.
    ((14, 0, 5, 22), 0.0115, 0.2265),
    # Newcombe 1998, table II, method 10.
    ((36, 2, 12, 0), 0.0569, 0.3404),
    # Fagerland et al. 2014, airway hyper-responsiveness.
    ((1, 7, 1, 12), -0.5069, -0.0256),
  ],
)
def test_paired_difference_published_intervals(counts, low, high):
  found = paired_difference(*table(*counts))
  assert round(found.low, 4) == low and round(found.high, 4) == high
  assert found.value == pytest.approx((counts[2] - counts[1]) / sum(counts))


def test_paired_difference_has_a_width_where_nothing_flips():
  same = paired_difference([True] * 20, [True] * 20)
  assert same.value == 0 and -0.25 < same.low < 0 < same.high < 0.25
  every = paired_difference([False] * 20, [True] * 20)
  assert every.value == 1 and 0.7 < every.low < 1 and every.high == 1


def test_paired_difference_covers():
  """95 % intervals hold the truth in about 95 % of simulated studies."""
  rng = np.random.default_rng(0)
  cells = np.array([(1, 1), (1, 0), (0, 1), (0, 0)], bool)
  share = [0.2, 0.05, 0.35, 0.4]
  covered = []
  for _ in range(1000):
    before, after = cells[rng.choice(4, 80, p=share)].T
    found = paired_difference(before, after)
    covered.append(found.low <= 0.3 <= found.high)
  assert 0.93 < np.mean(covered) < 0.98


def test_mcnemar_is_the_sign_test_over_all_signs():
  for gained, lost in ((0, 0), (1, 0), (3, 3), (1, 7), (9, 0)):
    flips = gained + lost
    extreme = [
      abs(2 * sum(signs) - flips) >= abs(gained - lost)
      for signs in itertools.product((0, 1), repeat=flips)
    ]
    found = mcnemar(*table(4, lost, gained, 2))
    assert found.p == pytest.approx(np.mean(extreme))
    assert (found.gained, found.lost, found.n) == (gained, lost, flips + 6)


def test_benjamini_hochberg_step_up():
  p = [0.01, None, 0.02, 0.03, 0.5, 0.0004]
  tested = sorted(q for q in p if q is not None)
  m = len(tested)
  found = benjamini_hochberg(p)
  for q, adjusted in zip(p, found, strict=True):
    if q is None:
      assert adjusted is None
      continue
    rank = tested.index(q)
    assert adjusted == pytest.approx(
      min(tested[k] * m / (k + 1) for k in range(rank, m))
    )
  assert benjamini_hochberg([]) == []


def test_pairs_must_be_pairs():
  with pytest.raises(ValueError, match=r'\(2,\) and \(1,\)'):
    mcnemar([True, False], [True])
