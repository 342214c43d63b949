"""Two conditions on the same items: what flipped, and was it more than chance?

Each item has a yes or no before and after. Only items that flip say anything
about a difference; how many stay the same says how much it matters.
"""

from collections.abc import Sequence
import dataclasses
import math

import numpy as np
from scipy import stats

from experiments.stats.intervals import Estimate, wilson


@dataclasses.dataclass(frozen=True, kw_only=True)
class Flips:
  """McNemar's exact test.

  Attributes:
    gained: Items that are no before and yes after.
    lost: Items that are yes before and no after.
    n: Items.
    p: Two-sided p-value of as uneven a split of the flips, were gains and
      losses equally likely; 1 if nothing flipped.
  """

  gained: int
  lost: int
  n: int
  p: float

  def to_dict(self) -> dict[str, float | int]:
    """Returns a dict for JSON."""
    return dataclasses.asdict(self)


def mcnemar(before: Sequence[bool], after: Sequence[bool]) -> Flips:
  """McNemar's test in its exact form: a binomial test on the flips."""
  before, after = _pairs(before, after)
  gained, lost = int((~before & after).sum()), int((before & ~after).sum())
  flips = gained + lost
  p = stats.binomtest(gained, flips).pvalue if flips else 1.0
  return Flips(gained=gained, lost=lost, n=len(before), p=float(p))


def paired_difference(
  before: Sequence[bool], after: Sequence[bool]
) -> Estimate:
  """Returns the proportion after less the one before, with Newcombe's interval.

  The two Wilson intervals are put together as if the proportions were
  independent, less what their correlation saves: method 10 of Newcombe,
  Statistics in Medicine 17, 2635-2650 (1998). It stays within [-1, 1], and has
  a width where no item or every item flipped.
  """
  before, after = _pairs(before, after)
  n = len(before)
  if n == 0:
    return Estimate.without_interval(math.nan, 0)
  b, a = wilson(before.sum(), n), wilson(after.sum(), n)
  phi = _correlation(before, after)

  def reach(x, y):
    return math.sqrt(max(0.0, x * x - 2 * phi * x * y + y * y))

  value = a.value - b.value
  return Estimate(
    value=value,
    low=value - reach(a.value - a.low, b.high - b.value),
    high=value + reach(a.high - a.value, b.value - b.low),
    n=n,
  )


def benjamini_hochberg(p_values: Sequence[float | None]) -> list[float | None]:
  """Adjusted p-values, which control the false discovery rate.

  Benjamini and Hochberg (1995), over all that are given; None stays None and
  does not count.
  """
  tested = [p for p in p_values if p is not None]
  adjusted = iter(stats.false_discovery_control(tested) if tested else ())
  return [None if p is None else float(next(adjusted)) for p in p_values]


def _correlation(before: np.ndarray, after: np.ndarray) -> float:
  """Phi, with Newcombe's continuity correction where it is positive."""
  yes, no = int((before & after).sum()), int((~before & ~after).sum())
  gained, lost = int((~before & after).sum()), int((before & ~after).sum())
  margins = (yes + lost) * (gained + no) * (yes + gained) * (lost + no)
  if margins == 0:
    return 0.0
  product = yes * no - gained * lost
  if product > 0:
    product = max(0.0, product - len(before) / 2)
  return product / math.sqrt(margins)


def _pairs(before, after) -> tuple[np.ndarray, np.ndarray]:
  before, after = np.asarray(before, bool), np.asarray(after, bool)
  if before.shape != after.shape or before.ndim != 1:
    raise ValueError(
      f'Pairs need two lists of one length, got shapes {before.shape} and '
      f'{after.shape}.'
    )
  return before, after
