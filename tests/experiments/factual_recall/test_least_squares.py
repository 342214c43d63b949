"""Fits of an MLP on heads against lstsq and sklearn."""

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

from experiments.factual_recall import least_squares
from tests.experiments.factual_recall.planted import ALPHA, BETA, flat, lstsq


def world(n=60, D=24, k=4, noise=0.0, seed=0):
  """(mlp, heads, other, intercept), heads of different sizes, far from 0."""
  rng = np.random.default_rng(seed)
  heads = rng.standard_normal((n, k, D)) * np.linspace(0.5, 2, k)[:, None]
  heads += 3 * rng.standard_normal((k, D))
  other = 5 * rng.standard_normal((n, D)) + rng.standard_normal(D)
  intercept = rng.standard_normal(D)
  mlp = np.einsum('nkD,k->nD', heads, ALPHA[:k]) + BETA * other + intercept
  return mlp + noise * rng.standard_normal((n, D)), heads, other, intercept


class TestFit:
  def test_finds_a_planted_world(self):
    mlp, heads, other, b = world()
    found = least_squares.fit(mlp, heads, other)
    np.testing.assert_allclose(found.coefficients, ALPHA, atol=1e-4)
    assert found.other == pytest.approx(BETA, abs=1e-4)
    np.testing.assert_allclose(found.intercept, b, atol=1e-4)
    assert found.r2 == pytest.approx(1)
    assert found.rank == 5
    assert found.identified.all()

  @pytest.mark.parametrize('with_other', [True, False])
  def test_is_least_squares(self, with_other):
    mlp, heads, other, _ = world(noise=2.0)
    other = other if with_other else None
    found = least_squares.fit(mlp, heads, other)
    rows, targets = flat(mlp, heads, other)
    sk = LinearRegression(fit_intercept=False).fit(rows, targets)
    got = [*found.coefficients, *([found.other] if with_other else [])]
    np.testing.assert_allclose(got, sk.coef_, rtol=1e-9)
    np.testing.assert_allclose(got, lstsq(mlp, heads, other), rtol=1e-9)
    assert found.r2 == pytest.approx(sk.score(rows, targets))
    assert (found.other is None) == (not with_other)

  def test_intercept_is_that_of_a_column_for_every_coordinate(self):
    mlp, heads, other, _ = world(n=15, D=6, noise=1.0)
    n, D = mlp.shape
    ones = np.tile(np.eye(D), (n, 1))  # row i, coordinate d
    rows = np.concatenate(
      [heads.swapaxes(1, 2).reshape(n * D, -1), other.reshape(-1, 1), ones], 1
    )
    answer = np.linalg.lstsq(rows, mlp.ravel(), rcond=None)[0]
    found = least_squares.fit(mlp, heads, other)
    np.testing.assert_allclose(found.intercept, answer[5:], rtol=1e-9)

  def test_two_equal_heads_share_by_least_norm(self):
    mlp, heads, other, _ = world(noise=1.0)
    heads = np.concatenate([heads, heads[:, :1]], axis=1)
    found = least_squares.fit(mlp, heads, other)
    got = [*found.coefficients, found.other]
    np.testing.assert_allclose(got, lstsq(mlp, heads, other), rtol=1e-8)
    assert found.rank == 5
    assert found.identified.tolist() == [False, True, True, True, False, True]

  def test_a_constant_head_gets_nothing(self):
    mlp, heads, other, _ = world(noise=1.0)
    # Equal but for the rounding of float32.
    rng = np.random.default_rng(5)
    constant = heads[:1, 2] * (
      1 + 6e-8 * rng.standard_normal(heads[:, 2].shape)
    )
    without = least_squares.fit(mlp, np.delete(heads, 2, axis=1), other)
    heads[:, 2] = constant
    found = least_squares.fit(mlp, heads, other)
    assert found.coefficients[2] == 0
    assert found.identified.tolist() == [True, True, False, True, True]
    assert found.rank == 4
    np.testing.assert_allclose(
      np.delete(found.coefficients, 2), without.coefficients, rtol=1e-9
    )
    np.testing.assert_allclose(found.intercept, without.intercept, rtol=1e-9)

  def test_fewer_numbers_than_regressors(self):
    mlp, heads, _, _ = world(n=2, D=3, noise=1.0)
    found = least_squares.fit(mlp, heads)
    np.testing.assert_allclose(found.coefficients, lstsq(mlp, heads), rtol=1e-8)
    assert found.rank == 3
    assert not found.identified.all()
    alone = least_squares.fit(mlp[:1], heads[:1])
    assert alone.rank == 0
    assert np.isnan(alone.r2)
    np.testing.assert_array_equal(alone.coefficients, 0)
    np.testing.assert_array_equal(alone.intercept, mlp[0])

  def test_a_constant_mlp_has_no_share_explained(self):
    _, heads, other, b = world()
    found = least_squares.fit(np.tile(b, (60, 1)), heads, other)
    assert np.isnan(found.r2)
    np.testing.assert_allclose(found.intercept, b)

  @pytest.mark.parametrize('bad', [np.nan, np.inf])
  @pytest.mark.parametrize('which', [0, 1, 2])
  def test_refuses_numbers_not_finite(self, bad, which):
    arrays = list(world()[:3])
    arrays[which].flat[3] = bad
    with pytest.raises(ValueError, match='finite'):
      least_squares.fit(*arrays)

  def test_refuses_other_shapes(self):
    mlp, heads, other, _ = world()
    for wrong in (
      (mlp[:-1], heads, other),
      (mlp, heads[:, 0], other),
      (mlp, heads, other[:, :-1]),
      (mlp[:0], heads[:0], other[:0]),
    ):
      with pytest.raises(ValueError, match='Expected'):
        least_squares.fit(*wrong)
