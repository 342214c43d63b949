"""Known against unknown entities whose names are alike.

Entities are put into strata: the same type, as many tokens, the frequency of
the whole name within a factor of two, and every other covariate in the same
quantile bin. What a reader does on known and on unknown ones is compared inside
strata only, and the differences are put together with the weights of Mantel and
Haenszel, n1 n0 / (n1 + n0). Strata with one class say nothing and are left out;
how many entities are left says how far the question can be answered at all.

'Raw' is the same with types as the only strata. Intervals are percentiles of a
bootstrap over entities, drawn within type and class. Letters: n entities, S
strata, K resamples.
"""

from collections.abc import Mapping
import math

import numpy as np

from experiments.confounds.covariates import NAME_FREQUENCY, Covariates
from experiments.latents import LabelledEntities
from experiments.stats.intervals import Estimate
from experiments.stats.resampling import draw, estimate

RESAMPLES = 500


def make_strata(
  entities: LabelledEntities,
  covariates: Covariates | None = None,
  bins: int = 4,
) -> np.ndarray:
  """Returns int [n], the stratum of each entity.

  Args:
    entities: n of them.
    covariates: Covariates of their names; None for strata of types only.
    bins: Number of quantile bins of a covariate; one with no more different
      values than that is matched exactly.

  Raises:
    ValueError: bins is below 1, or covariates are of other entities.
  """
  if bins < 1:
    raise ValueError(f'bins is {bins}, expected 1 up.')
  cells = [np.asarray(entities.type_of)]
  if covariates is not None:
    if len(covariates.values) != len(entities):
      raise ValueError(
        f'There are covariates of {len(covariates.values)} names for '
        f'{len(entities)} entities.'
      )
    cells += [
      _binned(name, column, bins)
      for name, column in zip(
        covariates.names, covariates.values.T, strict=True
      )
    ]
  _, strata = np.unique(np.stack(cells), axis=1, return_inverse=True)
  return strata.reshape(-1)


def compare(
  entities: LabelledEntities,
  strata: np.ndarray,
  values: np.ndarray,
  fires: np.ndarray,
  label: str,
  seed: int = 0,
) -> dict:
  """Returns what one reader does inside strata.

  Args:
    entities: n of them.
    strata: int [n].
    values: float [n], higher for the label.
    fires: bool [n].
    label: 'known' or 'unknown'.
    seed: Random seed of the bootstrap.

  Returns:
    'difference', of the shares of entities on which it fires, its class less
    the other; 'auroc', of pairs in one stratum; 'strata' that have both
    classes, of 'all_strata'; 'n' entities in these, of 'of'.
  """
  positive = entities.known == (label == 'known')
  S = int(strata.max()) + 1
  member = np.eye(S)[strata]  # [n, S]
  weights = np.concatenate(
    [np.ones((1, len(entities))), resamples(entities, RESAMPLES, seed)]
  )
  difference = _mantel_haenszel(weights, positive, member, np.asarray(fires))
  area = _area(weights, positive, strata, np.asarray(values, np.float64))
  counts = np.stack([member[positive].sum(0), member[~positive].sum(0)])
  both = (counts > 0).all(axis=0)
  n = int(counts[:, both].sum())
  return {
    'difference': estimate(difference[0], difference[1:], n).to_dict(),
    'auroc': estimate(area[0], area[1:], n).to_dict(),
    'strata': int(both.sum()),
    'all_strata': S,
    'n': n,
    'of': len(entities),
  }


def resamples(
  entities: LabelledEntities, count: int, seed: int = 0
) -> np.ndarray:
  """Returns float64 [K, n], how often draws within type and class have each."""
  rng = np.random.default_rng([seed, 11])
  weights = np.zeros((count, len(entities)))
  cells = entities.type_of * 2 + entities.known
  for cell in np.unique(cells):
    mine = np.flatnonzero(cells == cell)
    weights[:, mine] = draw(len(mine), rng, count)
  return weights


def balance(entities: LabelledEntities, covariates: Covariates) -> dict:
  """Returns covariate -> means of the classes and their difference.

  The standardised difference, known less unknown, is in units of the square
  root of the mean of both variances (Cohen's d); None where nothing varies.
  """
  found: dict[str, Mapping] = {}
  n1, n0 = int(entities.known.sum()), int((~entities.known).sum())
  for name, column in zip(covariates.names, covariates.values.T, strict=True):
    known, unknown = column[entities.known], column[~entities.known]
    spread = math.sqrt((known.var(ddof=1) + unknown.var(ddof=1)) / 2)
    d = float(known.mean() - unknown.mean()) / spread if spread else math.nan
    reach = 1.959964 * math.sqrt((n1 + n0) / (n1 * n0) + d * d / 2 / (n1 + n0))
    apart = Estimate(value=d, low=d - reach, high=d + reach, n=n1 + n0)
    found[name] = {
      'known': _mean(known),
      'unknown': _mean(unknown),
      'standardised_difference': apart.to_dict(),
    }
  return found


def _binned(name: str, column: np.ndarray, bins: int) -> np.ndarray:
  if name == NAME_FREQUENCY:
    # ln(1 + count): 0, 1 to 2, 3 to 6, ...; a name that is never met is alone.
    return np.floor(column / math.log(2) + 1e-9)
  values = np.unique(column)
  if name == 'tokens' or len(values) <= bins:
    return np.searchsorted(values, column)
  edges = np.unique(np.quantile(column, np.arange(1, bins) / bins))
  return np.searchsorted(edges, column, side='right')


def _mantel_haenszel(weights, positive, member, fires) -> np.ndarray:
  """Returns float64 [K], NaN where no stratum has both classes."""
  n1 = weights[:, positive] @ member[positive]  # [K, S]
  n0 = weights[:, ~positive] @ member[~positive]
  f1 = weights[:, positive] @ (member * fires[:, None])[positive]
  f0 = weights[:, ~positive] @ (member * fires[:, None])[~positive]
  size = n1 + n0
  per = np.divide(1.0, size, out=np.zeros_like(size), where=size > 0)
  weight = (n1 * n0 * per).sum(axis=1)
  total = ((f1 * n0 - f0 * n1) * per).sum(axis=1)
  return _ratio(total, weight)


def _area(weights, positive, strata, values) -> np.ndarray:
  """Returns float64 [K], the share of pairs in a stratum that are in order."""
  together = strata[positive][:, None] == strata[~positive]
  apart = values[positive][:, None] - values[~positive]
  right = together * ((apart > 0) + 0.5 * (apart == 0))
  w1, w0 = weights[:, positive], weights[:, ~positive]
  return _ratio(((w1 @ right) * w0).sum(1), ((w1 @ together) * w0).sum(1))


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  return np.divide(a, b, out=np.full_like(a, np.nan), where=b > 0)


def _mean(values: np.ndarray) -> dict:
  """Returns the mean, its interval by the normal approximation."""
  error = 1.959964 * values.std(ddof=1) / math.sqrt(len(values))
  mean = float(values.mean())
  return Estimate(
    value=mean, low=mean - error, high=mean + error, n=len(values)
  ).to_dict()
