"""How the frontier says which trainer is ahead."""

import numpy as np
import pytest

from tools import prove_sae_training as prove


def points(*pairs):
  return [prove.Point('any', 1.0, 10, l0, fvu, 1.0) for l0, fvu in pairs]


def test_between_points_a_frontier_is_a_power_law():
  law = lambda l0: 0.5 * l0**-0.6
  some = points(*((l0, law(l0)) for l0 in (40.0, 5.0, 10.0)))
  for l0 in np.geomspace(5, 40, 7):
    assert prove.interpolated(some, l0) == pytest.approx(law(l0))
  assert prove.interpolated(some, 4.9) is None
  assert prove.interpolated(some, 40.1) is None
  assert prove.interpolated([], 5.0) is None


def test_a_dominated_point_is_not_on_the_frontier():
  some = points((5.0, 0.4), (10.0, 0.2), (7.0, 0.5))
  assert prove.interpolated(some, 7.0) == pytest.approx(
    prove.interpolated(some[:2], 7.0)
  )
  assert prove.interpolated(some[::2], 7.0) is None  # more L0, more error
