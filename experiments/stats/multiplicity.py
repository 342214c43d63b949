"""Many tests at once: which of them would hold, had nothing been true?

The best of a thousand heads looks good. The max-T permutation test (Westfall
and Young, 1993) asks how good the best looks when there is nothing: it permutes
the units as wholes, so that all cells keep their correlations, and compares
each cell with the largest |t| of any cell. Its adjusted p-values control the
chance of one false claim among all.

Letters: n units (pairs, prompts, entities), m cells (heads, layers, latents), P
permutations. A cell that was never measured (NaN in every unit) is not tested:
its t and p are NaN and it does not count. NaN in some units only is an error.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
import dataclasses
import itertools
import math

import numpy as np

ALPHA = 0.05
PERMUTATIONS = 2000

# Permutations at a time: arrays [_CHUNK, m] stay small.
_CHUNK = 128
# What rounding does to a t that another order of sums would make equal.
_ROUNDING = 1e-9
# The share of a sum of squares that is rounding, and means no variance.
_NOTHING = 1e-12


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class MaxT:
  """Holds what a max-T permutation test says.

  Attributes:
    t: float64 [m], as the cells were given; infinite where the effect does not
      vary between units and is not 0.
    p_adjusted: float64 [m], in (0, 1]: the share of permutations, the real
      arrangement among them, with a cell of at least this |t|.
    threshold: A cell with |t| above it has p_adjusted <= .05. Infinite or equal
      to the largest |t| where there are too few arrangements to claim anything.
    n: Units.
    num_permutations: How many arrangements were compared, the real one
      included; all there are, if those are no more than asked for.
    seed: Random seed of the permutations.
  """

  t: np.ndarray
  p_adjusted: np.ndarray
  threshold: float
  n: int
  num_permutations: int
  seed: int

  @property
  def significant(self) -> np.ndarray:
    """bool [m], the cells with p_adjusted <= .05."""
    return self.p_adjusted <= ALPHA  # NaN is not

  def to_dict(self) -> dict:
    """Returns a dict for JSON: the test as a whole, without its cells."""
    threshold = self.threshold if math.isfinite(self.threshold) else None
    return {
      'threshold': threshold,
      'n': self.n,
      'cells': int(np.isfinite(self.p_adjusted).sum()),
      'significant': int(self.significant.sum()),
      'num_permutations': self.num_permutations,
      'seed': self.seed,
    }


def max_t_permutation(
  effects: np.ndarray, *, seed: int = 0, num_permutations: int = PERMUTATIONS
) -> MaxT:
  """Are mean effects 0? One sample, or differences of pairs; flips signs.

  Under the null an effect is as likely to be this as its opposite. A unit's
  sign is flipped for all its cells together.

  Args:
    effects: float [n, ...], of each unit and cell.
    seed: Random seed of the flips.
    num_permutations: P; if 2**n are no more than that, all of them are done and
      the p-values are exact.

  Raises:
    ValueError: fewer than 2 units, no cell, or a value that is not finite in a
      cell that has others.
  """
  effects, cells, tested = _checked(effects, num_permutations)
  x = effects[:, tested]
  n = len(x)
  if n < 2:
    raise ValueError(f'A test over units needs 2 of them, got {n}.')
  # Flips leave the squares alone, so that t grows with mean / root mean square.
  size = np.sqrt((x**2).sum(axis=0) / n)
  scaled = np.divide(x, size, out=np.zeros_like(x), where=size > 0)

  def statistic(signs):
    r2 = np.minimum((signs @ scaled / n) ** 2, 1.0)
    left = np.where(1 - r2 > _NOTHING, 1 - r2, 0)  # of the variance
    with np.errstate(divide='ignore'):
      return np.sqrt((n - 1) * r2 / left)

  rng = np.random.default_rng(seed)
  if 2**n <= num_permutations:
    rows = itertools.product((1.0, -1.0), repeat=n)  # the first is the real one
    count = 2**n
  else:
    drawn = (rng.choice((1.0, -1.0), n) for _ in range(num_permutations))
    rows = itertools.chain([np.ones(n)], drawn)
    count = 1 + num_permutations
  direction = np.sign(x.mean(axis=0))
  return _compared(statistic, rows, direction, cells, tested, n, count, seed)


def max_t_two_samples(
  x: np.ndarray,
  positive: np.ndarray,
  *,
  seed: int = 0,
  num_permutations: int = PERMUTATIONS,
) -> MaxT:
  """Do two groups have the same mean? Welch's t; permutes the units' labels.

  Args:
    x: float [n, ...], of each unit and cell.
    positive: bool [n], the group whose larger mean makes t positive.
    seed: Random seed of the permutations.
    num_permutations: P; if there are no more ways to choose the group, all of
      them are done and the p-values are exact.

  Raises:
    ValueError: a group has fewer than 2 units, or see `max_t_permutation`.
  """
  positive = np.asarray(positive)
  x, cells, tested = _checked(x, num_permutations)
  if positive.dtype != bool or positive.shape != (len(x),):
    raise ValueError(
      f'Expected bool [{len(x)}] for the group, got {positive.dtype} '
      f'{positive.shape}.'
    )
  n, n1 = len(x), int(positive.sum())
  n0 = n - n1
  if min(n0, n1) < 2:
    raise ValueError(
      f'A comparison needs 2 units in each group, got {n1} and {n0}.'
    )
  x = x[:, tested]
  varies = np.ptp(x, axis=0) > 0
  x = (x - x.mean(axis=0)) * varies
  squares, total = (x**2).sum(axis=0), x.sum(axis=0)
  floor = _NOTHING * squares

  def signed(labels):
    s1, q1 = labels @ x, labels @ x**2
    s0, q0 = total - s1, squares - q1
    within1, within0 = q1 - s1**2 / n1, q0 - s0**2 / n0
    within1 = np.where(within1 > floor, within1, 0)
    within0 = np.where(within0 > floor, within0, 0)
    error = np.sqrt(within1 / (n1 * (n1 - 1)) + within0 / (n0 * (n0 - 1)))
    with np.errstate(divide='ignore', invalid='ignore'):
      return np.where(varies, (s1 / n1 - s0 / n0) / error, 0.0)

  rng = np.random.default_rng(seed)
  count = math.comb(n, n1)
  if count <= num_permutations:
    rows = _all_groups(positive, n1)
  else:
    drawn = (rng.permutation(positive) for _ in range(num_permutations))
    rows = itertools.chain([positive], drawn)
    count = 1 + num_permutations
  direction = np.sign(signed(positive[None].astype(float))[0])

  def statistic(labels):
    return np.abs(signed(labels))

  return _compared(statistic, rows, direction, cells, tested, n, count, seed)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
  """Adjusted p-values, which control the chance of one false claim.

  Holm (1979), over all that are given; needs no independence. None stays None
  and does not count.

  Raises:
    ValueError: a p-value is not in [0, 1].
  """
  tested = np.array([p for p in p_values if p is not None], float)
  if not ((tested >= 0) & (tested <= 1)).all():
    raise ValueError(f'Expected p-values in [0, 1], got {tested.tolist()}.')
  order = np.argsort(tested)
  steps = tested[order] * np.arange(len(tested), 0, -1)
  adjusted = np.empty_like(tested)
  adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1)
  rest = iter(adjusted.tolist())
  return [None if p is None else next(rest) for p in p_values]


def _checked(values, num_permutations) -> tuple[np.ndarray, tuple, np.ndarray]:
  """float64 [n, m], the shape of the cells, and which [m] are to be tested."""
  values = np.asarray(values, np.float64)
  if values.ndim < 2 or values[0:1].size == 0:
    raise ValueError(
      f'Expected values [units, cells], got the shape {values.shape}.'
    )
  if num_permutations < 1:
    raise ValueError(f'num_permutations is {num_permutations}, expected 1 up.')
  cells = values.shape[1:]
  values = values.reshape(len(values), -1)
  tested = ~np.isnan(values).all(axis=0)
  bad = ~np.isfinite(values) & tested
  if bad.any():
    unit, cell = (int(i[0]) for i in np.nonzero(bad))
    raise ValueError(
      f'The value of unit {unit} in cell {cell} is {values[unit, cell]}; '
      'leave units with gaps out, or make the whole cell NaN.'
    )
  if not tested.any():
    raise ValueError('Every cell is NaN; there is nothing to test.')
  return values, cells, tested


def _all_groups(positive: np.ndarray, n1: int) -> Iterator[np.ndarray]:
  """Yields every choice of n1 units as the group, the real one first."""
  real = tuple(np.flatnonzero(positive))
  yield positive
  for chosen in itertools.combinations(range(len(positive)), n1):
    if chosen != real:
      labels = np.zeros(len(positive), bool)
      labels[list(chosen)] = True
      yield labels


def _compared(
  statistic: Callable[[np.ndarray], np.ndarray],
  rows: Iterable[Sequence[float]],
  direction: np.ndarray,
  cells: tuple[int, ...],
  tested: np.ndarray,
  n: int,
  count: int,
  seed: int,
) -> MaxT:
  """Compares |t| of the first row with the largest of every row."""
  rows, observed, largest = iter(rows), None, []
  while chunk := list(itertools.islice(rows, _CHUNK)):
    size = statistic(np.array(chunk, np.float64))
    observed = size[0] if observed is None else observed
    largest.append(size.max(axis=1))
  largest = np.sort(np.concatenate(largest))[::-1]
  # Equal arrangements, summed in another order, count as equal.
  at_least = len(largest) - np.searchsorted(
    largest[::-1], observed * (1 - _ROUNDING), side='left'
  )
  t, p = np.full((2, len(tested)), np.nan)
  t[tested], p[tested] = direction * observed, at_least / count
  return MaxT(
    t=t.reshape(cells),
    p_adjusted=p.reshape(cells),
    threshold=float(largest[int(ALPHA * count)]),
    n=n,
    num_permutations=count,
    seed=seed,
  )
