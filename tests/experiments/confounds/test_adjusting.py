"""Regressions against loops, scipy's optimiser, and planted confounds."""

import numpy as np
import pytest
from scipy import optimize

from experiments.confounds.adjusting import (
  adjust,
  least_squares,
  risk_difference,
)
from tests.experiments.confounds import names


def test_least_squares_and_its_intervals():
  rng = np.random.default_rng(0)
  x = np.hstack([np.ones((30, 1)), rng.normal(size=(30, 2))])
  y = x @ [1.0, 2.0, 0.0] + rng.normal(size=30) * np.exp(x[:, 1])
  beta = np.linalg.solve(x.T @ x, x.T @ y)
  inverse = np.linalg.inv(x.T @ x)
  meat = np.zeros((3, 3))
  for row, target in zip(x, y, strict=True):
    leverage = row @ inverse @ row
    meat += np.outer(row, row) * ((target - row @ beta) / (1 - leverage)) ** 2
  error = np.sqrt(np.diag(inverse @ meat @ inverse))
  found = least_squares(x, y)
  np.testing.assert_allclose([one.value for one in found], beta)
  # t with 27 degrees of freedom.
  np.testing.assert_allclose(
    [(one.high - one.low) / 2 for one in found], 2.0518305 * error, rtol=1e-6
  )


def test_risk_difference_is_that_of_the_likelihood():
  rng = np.random.default_rng(1)
  n = 400
  x = np.stack([rng.random(n) < 0.5, np.ones(n), rng.normal(size=n)], axis=1)
  x = x.astype(float)
  p = 1 / (1 + np.exp(-(x @ [1.0, -0.5, 0.8])))
  y = rng.random(n) < p

  def loss(beta):
    eta = x @ beta
    return (np.logaddexp(0, eta) - y * eta).sum()

  beta = optimize.minimize(loss, np.zeros(3), tol=1e-10).x
  with_1, with_0 = x.copy(), x.copy()
  with_1[:, 0], with_0[:, 0] = 1, 0
  expected = (
    1 / (1 + np.exp(-with_1 @ beta)) - 1 / (1 + np.exp(-with_0 @ beta))
  ).mean()
  found = risk_difference(x, y)
  assert found.value == pytest.approx(expected, abs=1e-4)
  # As wide as resampling makes it.
  drawn = []
  for _ in range(200):
    rows = rng.integers(0, n, n)
    drawn.append(risk_difference(x[rows], y[rows]).value)
  assert (found.high - found.low) / 2 == pytest.approx(
    1.96 * np.std(drawn), rel=0.2
  )


def test_no_finite_fit():
  x = np.stack([np.arange(20) < 10, np.ones(20)], axis=1).astype(float)
  assert risk_difference(x, x[:, 0] > 0) is None
  assert risk_difference(x, np.zeros(20, bool)) is None


def test_a_reader_of_length_is_found_out_and_one_of_knowledge_is_not():
  people, covariates, length, known = names.confounded()
  found = adjust(people, covariates, length, 'known')
  assert found['raw']['low'] > 0.03
  assert found['adjusted']['low'] < 0 < found['adjusted']['high']
  assert found['change']['high'] < 0
  assert found['covariates']['tokens']['high'] < -0.2
  surprisal = found['covariates']['surprisal']
  assert surprisal['low'] < 0.02 and surprisal['high'] > -0.02
  logistic = found['logistic']['adjusted']
  assert logistic['low'] < 0 < logistic['high']
  one = adjust(people, covariates, known, 'known')
  assert one['adjusted']['low'] < 0.5 < one['adjusted']['high']
  assert one['change']['low'] < 0 < one['change']['high']
  assert one['raw']['n'] == 600


def test_the_label_turns_the_sign_and_constants_are_left_out():
  people, covariates, _, known = names.confounded(200)
  constant = names.covariates(
    tokens=np.full(200, 2), surprisal=names.column(covariates, 'surprisal')
  )
  a, b = (adjust(people, constant, known, x) for x in ('known', 'unknown'))
  assert a['left_out'] == ['tokens'] and list(a['covariates']) == ['surprisal']
  assert a['adjusted']['value'] == pytest.approx(-b['adjusted']['value'])


def test_what_known_ness_leaves():
  """With a covariate that is known-ness itself nothing can be said."""
  people, covariates, _, fires = names.confounded(200)
  twin = names.covariates(
    surprisal=names.column(covariates, 'surprisal'),
    name_frequency=people.known * 3.0,
  )
  found = adjust(people, twin, fires, 'known')
  assert found['explained'] == pytest.approx(1)
  assert adjust(people, covariates, fires, 'known')['explained'] < 0.3
  with pytest.raises(ValueError, match='200 entities, outcomes of shape'):
    adjust(people, covariates, fires[:5], 'known')
