"""What a patch does, as numbers with intervals.

Everything is in differences of logits (known answer minus unknown answer) of
the pairs. `moved` is the share of the way from the patched run to the donor's:

  (patched - base) / (donor - base)

with means over pairs below the line, and also above it where maps are reported.
For denoising that is the metric of the paper's code, (LD_patched - LD_unknown)
/ (LD_known - LD_unknown); for noising it is 1 minus that. Eq. 13 of the paper
is LD_patched / LD_known.
"""

import dataclasses

import numpy as np

from experiments.stats.resampling import bounds, draw


@dataclasses.dataclass(frozen=True, kw_only=True)
class Grid:
  """Holds estimates of many cells from the same n pairs.

  Attributes:
    value, low, high: float64 [L, X]; NaN where nothing was measured. Bounds are
      NaN with fewer than two pairs.
    n: Pairs.
  """

  value: np.ndarray
  low: np.ndarray
  high: np.ndarray
  n: int

  def to_dict(self) -> dict:
    """Returns three tables and n for JSON, where NaN becomes null."""
    return dataclasses.asdict(self)


def moved(
  patched: np.ndarray, base: np.ndarray, donor: np.ndarray
) -> np.ndarray:
  """Returns each pair's share of the way, [..., n]; maps have its mean.

  The way is the mean one: a pair whose two runs hardly differ would have a
  share of anything. Where there is no way at all, shares are NaN.
  """
  way = donor.astype(float).mean() - base.astype(float).mean()
  return (patched.astype(float) - base) / (way or np.nan)


def moved_grid(patched, base, donor, seed: int) -> Grid:
  """Returns `moved` of each cell; both means are resampled together.

  Args:
    patched: float [L, X, n].
    base: float [n].
    donor: float [n].
    seed: Random seed of the bootstrap.
  """
  patched = patched.astype(float)
  return _ratio(patched - base, donor.astype(float) - base, seed)


def eq13_grid(patched, known, seed: int) -> Grid:
  """Returns Eq. 13 of the paper: mean patched over mean known difference."""
  return _ratio(patched.astype(float), known.astype(float), seed)


def _ratio(top, bottom, seed) -> Grid:
  """Returns means of top [L, X, n] over the mean of bottom [n]."""
  value = top.mean(-1) / (bottom.mean() or np.nan)
  low = high = np.full_like(value, np.nan)
  if len(bottom) > 1:
    counts = draw(len(bottom), np.random.default_rng(seed))
    ratios = np.einsum('Rn,LXn->RLX', counts, top)
    ratios /= (counts @ bottom)[:, None, None]
    low, high = bounds(ratios)
  return Grid(value=value, low=low, high=high, n=len(bottom))
