"""Least squares with one number per regressor and one vector.

An MLP's output at the last token of n prompts, all regressors' numbers having D
coordinates as it has,

  mlp_out = sum_h alpha_h head_h + beta other + b

over all n * D numbers, every coordinate centred. Units (subjects) are
resampled, not prompts. All that a resample needs are sums over each unit's
prompts, so that refits are products of small matrices.

Letters: n prompts, U units, k heads, K regressors, C = K + 1 columns (the
regressors and the MLP), R resamples, and those of the library.
"""

import dataclasses
import math

import numpy as np

FOLDS = 5
# With fewer units, each is held out alone.
_FEW_UNITS = 10
# Sums of squares below this share of another one are rounding of float32.
_ROUNDING = 1e-12
# Bytes of pairs of drawn units at a time.
_BYTES = 1 << 26


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Fit:
  """An MLP's output as a sum of scaled regressors and an intercept.

  Attributes:
    coefficients: float64 [k], alpha of each head.
    other: beta; None without that regressor.
    intercept: float64 [D], b.
    r2: Share of the variance explained, in sample; NaN if there is none.
    rank: How many combinations of the K regressors the prompts tell apart. If
      fewer than K, coefficients are the solution of least norm.
    identified: bool [K], heads and then `other`: whether the prompts determine
      the coefficient. That of a regressor that never changes is 0.
  """

  coefficients: np.ndarray
  other: float | None
  intercept: np.ndarray
  r2: float
  rank: int
  identified: np.ndarray


def fit(
  mlp: np.ndarray, heads: np.ndarray, other: np.ndarray | None = None
) -> Fit:
  """Regresses mlp [n, D] on heads [n, k, D] and, if given, other [n, D].

  Raises:
    ValueError: shapes do not fit, there is no row, or a number is not finite.
  """
  columns = stack_columns(mlp, heads, other)
  moments = Moments.of(columns, np.zeros(len(columns), int))
  return to_fit(
    moments,
    solve(moments.centred(np.ones((1, 1))), moments),
    other is not None,
  )


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Moments:
  """Sums over each unit's rows, less the mean of all rows.

  Attributes:
    means: [C, D], of all rows.
    sizes: [U], rows.
    sums: [U, C, D], of rows.
    products: [U, C, C], of rows' columns with each other.
    floor: [C], a sum of squares below which a column does not change.
  """

  means: np.ndarray
  sizes: np.ndarray
  sums: np.ndarray
  products: np.ndarray
  floor: np.ndarray

  @classmethod
  def of(cls, columns: np.ndarray, which: np.ndarray) -> 'Moments':
    """Returns the moments of columns [n, C, D], whose rows are of units [n]."""
    n, C, D = columns.shape
    means = columns.mean(0)
    centred = columns - means
    member = np.eye(which.max() + 1)[:, which]  # [U, n]
    products = (centred @ centred.swapaxes(1, 2)).reshape(n, -1)
    return cls(
      means=means,
      sizes=member.sum(1),
      sums=(member @ centred.reshape(n, -1)).reshape(-1, C, D),
      products=(member @ products).reshape(-1, C, C),
      floor=_ROUNDING * np.einsum('nCD,nCD->C', columns, columns),
    )

  def centred(self, counts: np.ndarray) -> np.ndarray:
    """[R, C, C]: products of columns less their means, units drawn [R, U]."""
    U, C, D = self.sums.shape
    rows = self.sums.reshape(-1, D)
    pairs = (rows @ rows.T).reshape(U, C, U, C).transpose(0, 2, 1, 3)
    pairs = pairs + pairs.transpose(1, 0, 2, 3)  # each pair of units once
    one, two = np.triu_indices(U)
    pairs = pairs[one, two].reshape(-1, C * C)
    pairs[one == two] /= 2
    size = max(1, _BYTES // (8 * len(one)))
    found = []
    for start in range(0, len(counts), size):
      drawn = counts[start : start + size]
      of_means = ((drawn[:, one] * drawn[:, two]) @ pairs).reshape(-1, C, C)
      of_means /= (drawn @ self.sizes)[:, None, None]
      found.append(np.tensordot(drawn, self.products, 1) - of_means)
    return np.concatenate(found)

  def within(self, counts: np.ndarray) -> np.ndarray:
    """[R, C, C]: products of columns less the means of their own units."""
    of_means = self.sums @ self.sums.swapaxes(1, 2)
    own = self.products - of_means / self.sizes[:, None, None]
    return np.tensordot(counts, own, 1)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Solved:
  """Least squares of R resamples.

  Attributes:
    coefficients: [R, K].
    explained: [R], of the MLP's sum of squares.
    variance: [R], the MLP's sum of squares.
    rank: int [R].
    identified: bool [R, K].
  """

  coefficients: np.ndarray
  explained: np.ndarray
  variance: np.ndarray
  rank: np.ndarray
  identified: np.ndarray


def solve(products: np.ndarray, moments: Moments) -> Solved:
  """Solves the normal equations [R, C, C], by least norm where they are poor.

  The pseudoinverse of the Gram matrix gives what `lstsq` gives on the rows.
  """
  changes = np.diagonal(products, axis1=1, axis2=2) > moments.floor
  products = products * changes[:, :, None] * changes[:, None]
  values, vectors = np.linalg.eigh(products[:, :-1, :-1])
  kept = values > _ROUNDING * values.max(-1, initial=0, keepdims=True)
  inverse = kept / np.where(kept, values, 1)
  along = np.einsum('RKj,RK->Rj', vectors, products[:, :-1, -1])
  unseen = np.einsum('RKj,Rj->RK', vectors**2, ~kept)
  slopes = np.einsum('RKj,Rj->RK', vectors, along * inverse)
  return Solved(
    coefficients=slopes * changes[:, :-1],  # 0, not its rounding
    explained=(along**2 * inverse).sum(-1),
    variance=products[:, -1, -1],
    rank=kept.sum(-1),
    identified=unseen < 1e-6,
  )


def to_fit(moments: Moments, solved: Solved, with_other: bool) -> Fit:
  """Returns the first resample as a fit; it is of all rows, each once."""
  slopes = solved.coefficients[0]
  return Fit(
    coefficients=slopes[: len(slopes) - with_other],
    other=float(slopes[-1]) if with_other else None,
    intercept=moments.means[-1] - slopes @ moments.means[:-1],
    r2=float(ratio(solved.explained, solved.variance)[0]),
    rank=int(solved.rank[0]),
    identified=solved.identified[0],
  )


def hold_out(
  moments: Moments, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns each unit's fold int [U], and squared errors [U] when held out.

  Those of the prediction, and those of the mean of the other units. Both are
  NaN with one unit.
  """
  U = len(moments.sizes)
  folds, wrong, whole = np.zeros(U, int), *np.full((2, U), math.nan)
  if U < 2:
    return folds, wrong, whole
  order = np.random.default_rng([seed, 1]).permutation(U)
  parts = np.array_split(order, U if U < _FEW_UNITS else FOLDS)
  for number, part in enumerate(parts):
    folds[part] = number
  seen = (folds != np.arange(len(parts))[:, None]).astype(float)  # [folds, U]
  slopes = solve(moments.centred(seen), moments).coefficients
  for part, others, own in zip(parts, seen, slopes, strict=True):
    means = np.tensordot(others, moments.sums, 1) / (others @ moments.sizes)
    for errors, each in ((wrong, own), (whole, np.zeros_like(own))):
      mix = np.append(-each, 1)  # of columns: what is left of the MLP
      intercept = mix @ means
      errors[part] = (
        mix @ moments.products[part] @ mix
        - 2 * (mix @ moments.sums[part]) @ intercept
        + moments.sizes[part] * (intercept @ intercept)
      )
  return folds, wrong, whole


def stack_columns(mlp, heads, other) -> np.ndarray:
  """Returns float64 [n, C, D]: heads, other unless it is None, and the MLP.

  Raises:
    ValueError: as `fit` does.
  """
  mlp, heads = np.asarray(mlp, np.float64), np.asarray(heads, np.float64)
  others = [] if other is None else [np.asarray(other, np.float64)]
  if (
    not mlp.size
    or any(each.shape != mlp.shape for each in others)
    or (mlp.ndim, heads.ndim, heads.shape[::2]) != (2, 3, mlp.shape)
  ):
    raise ValueError(
      'Expected mlp [n, D], heads [n, k, D] and other [n, D] or None, with n > '
      f'0; got {mlp.shape}, {heads.shape} and {np.shape(other)}.'
    )
  last = [each[:, None] for each in (*others, mlp)]
  columns = np.concatenate([heads, *last], axis=1)
  if not np.isfinite(columns).all():
    raise ValueError('The MLP, the heads or the rest have numbers not finite.')
  return columns


def ratio(part, whole) -> np.ndarray:
  """Returns part / whole; NaN where there is no whole."""
  part, whole = np.asarray(part), np.asarray(whole)
  return np.where(whole > 0, part / np.where(whole > 0, whole, 1), math.nan)


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
  """Returns cosines [...] of vectors [..., D]; NaN if one is 0."""
  lengths = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
  return ratio((a * b).sum(-1), lengths)
