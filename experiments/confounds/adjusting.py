"""Is it known-ness, or what known names are like? By regression.

  reader = type + known-ness + covariates

The coefficient of known-ness without covariates is 'raw', with them
'adjusted'; 'change' is the one less the other, with an interval of its own,
since both come from the same entities. Two models: least squares, with robust
(HC3) intervals; and for whether a reader fires also logistic regression, whose
effect is put back into shares of entities: the mean over all of them of
p(fires | known) - p(fires | unknown).

Letters: n entities, C covariates, P columns.
"""

import math
import warnings

import numpy as np
from scipy import stats
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from experiments.confounds.covariates import Covariates
from experiments.confounds.strata import resamples
from experiments.latents import LabelledEntities
from experiments.stats.intervals import CONFIDENCE, Estimate
from experiments.stats.resampling import estimate

RESAMPLES = 500
_ITERATIONS = 5000
# Log odds beyond this are on their way to infinity: part of y is separated.
_CERTAIN = 15


def adjust(
  entities: LabelledEntities,
  covariates: Covariates,
  outcome: np.ndarray,
  label: str,
  seed: int = 0,
) -> dict:
  """Returns how far an outcome depends on known-ness, covariates held.

  Args:
    entities: n of them.
    covariates: Covariates of their names; those that do not vary are left out.
    outcome: float or bool [n]: an activation, or whether a reader fires.
    label: Effects are of this class against the other.
    seed: Random seed of the bootstrap of 'change'.

  Returns:
    'raw', 'adjusted', 'change', each with value, low, high, n; 'covariates',
    name -> the coefficient of a standard deviation of it; 'left_out';
    'explained', the share of the variance of known-ness (beyond types) that the
    covariates explain: near 1 there is nothing left to compare; for a bool
    outcome 'logistic', an estimate, or None where the outcome is separated
    perfectly or never varies.
  """
  y = np.asarray(outcome, np.float64)
  n = len(entities)
  if y.shape != (n,) or len(covariates.values) != n:
    raise ValueError(
      f'There are {n} entities, outcomes of shape {y.shape} and covariates of '
      f'{len(covariates.values)} names.'
    )
  types = np.eye(len(entities.types))[entities.type_of]
  types = types[:, types.any(axis=0)]
  mine = (entities.known == (label == 'known')).astype(float)[:, None]
  spread = covariates.values.std(axis=0)
  varies = spread > 1e-12 * (1 + np.abs(covariates.values).max(axis=0))
  z = covariates.values[:, varies]
  z = (z - z.mean(axis=0)) / spread[varies]
  raw, adjusted = np.hstack([mine, types]), np.hstack([mine, types, z])
  effects = least_squares(adjusted, y)
  before = least_squares(raw, y)[0]
  after = effects[0]
  names = [
    name for name, kept in zip(covariates.names, varies, strict=True) if kept
  ]
  found = {
    'raw': before.to_dict(),
    'adjusted': after.to_dict(),
    'change': _change(entities, raw, adjusted, y, seed).to_dict(),
    'covariates': {
      name: effect.to_dict()
      for name, effect in zip(names, effects[raw.shape[1] :], strict=True)
    },
    'left_out': [name for name in covariates.names if name not in names],
    'explained': _explained(mine[:, 0], types, z),
  }
  if np.asarray(outcome).dtype == bool:
    logistic = {
      name: risk_difference(columns, np.asarray(outcome))
      for name, columns in (('raw', raw), ('adjusted', adjusted))
    }
    found['logistic'] = {
      name: one and one.to_dict() for name, one in logistic.items()
    }
  return found


def least_squares(x: np.ndarray, y: np.ndarray) -> list[Estimate]:
  """Returns coefficients of y on x [n, P], with HC3 intervals.

  The intervals are those of MacKinnon and White (1985). Columns that follow
  from others share their effect (least norm).
  """
  n, P = x.shape
  inverse = np.linalg.pinv(x)  # [P, n]
  beta = inverse @ y
  leverage = np.einsum('np,pn->n', x, inverse)
  residual = (y - x @ beta) / np.maximum(1 - leverage, 1e-9)
  error = np.sqrt(((inverse * residual) ** 2).sum(axis=1))
  t = stats.t.ppf((1 + CONFIDENCE) / 2, max(n - P, 1))
  return [
    Estimate(value=float(b), low=float(b - t * e), high=float(b + t * e), n=n)
    for b, e in zip(beta, error, strict=True)
  ]


def risk_difference(x: np.ndarray, y: np.ndarray) -> Estimate | None:
  """Returns the mean over rows of p(y | x0 = 1) - p(y | x0 = 0).

  The model is logistic regression. The interval is by the delta method with a
  robust covariance; it takes the rows' other columns as given.

  Args:
    x: float [n, P], the first column 0 or 1; the columns sum up an intercept.
    y: bool [n].

  Returns:
    None where y never varies, or is separated perfectly: then there is no
    finite fit.
  """
  if y.all() or not y.any():
    return None
  model = LogisticRegression(
    C=np.inf, fit_intercept=False, max_iter=_ITERATIONS, tol=1e-8
  )
  with warnings.catch_warnings():
    warnings.simplefilter('ignore', ConvergenceWarning)  # seen below
    warnings.simplefilter('ignore', FutureWarning)
    model.fit(x, y)
  beta = model.coef_[0]
  eta = x @ beta
  separated = eta[y].min() > eta[~y].max() or np.abs(eta).max() > _CERTAIN
  if separated or model.n_iter_.max() >= _ITERATIONS:
    return None
  p = _sigmoid(eta)
  bread = np.linalg.pinv((x * (p * (1 - p))[:, None]).T @ x)
  scores = x * (y - p)[:, None]
  covariance = bread @ (scores.T @ scores) @ bread
  x1, x0 = x.copy(), x.copy()
  x1[:, 0], x0[:, 0] = 1, 0
  p1, p0 = _sigmoid(x1 @ beta), _sigmoid(x0 @ beta)
  value = float((p1 - p0).mean())
  slope = ((p1 * (1 - p1)) @ x1 - (p0 * (1 - p0)) @ x0) / len(y)
  z = stats.norm.ppf((1 + CONFIDENCE) / 2)
  reach = float(z * math.sqrt(slope @ covariance @ slope))
  return Estimate(value=value, low=value - reach, high=value + reach, n=len(y))


def _change(entities, raw, adjusted, y, seed) -> Estimate:
  """Returns adjusted less raw, with a bootstrap over entities."""

  def change(weights):
    root = np.sqrt(weights)
    return (
      np.linalg.lstsq(adjusted * root[:, None], y * root, rcond=None)[0][0]
      - np.linalg.lstsq(raw * root[:, None], y * root, rcond=None)[0][0]
    )

  drawn = [change(w) for w in resamples(entities, RESAMPLES, seed)]
  return estimate(change(np.ones(len(y))), np.array(drawn), len(y))


def _explained(known, types, z) -> float:
  """Returns R2 of known-ness on covariates, both beyond types."""
  if not z.shape[1]:
    return 0.0
  without = lambda a: a - types @ np.linalg.lstsq(types, a, rcond=None)[0]
  left, rest = without(known), without(z)
  if not (left**2).sum():
    return 0.0
  fit = rest @ np.linalg.lstsq(rest, left, rcond=None)[0]
  return float((fit**2).sum() / (left**2).sum())


def _sigmoid(x: np.ndarray) -> np.ndarray:
  return 1 / (1 + np.exp(-np.clip(x, -500, 500)))
