"""How differently latents behave on known and on unknown entities.

Everything here is computed from sums, for all latents of an SAE at once. A
score has a label: for 'known' it is high for latents of known entities, for
'unknown' of unknown ones.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

from experiments.latents.class_sums import ClassSums
from experiments.latents.labelled import CLASSES

_EPSILON = 1e-6


class _Class(NamedTuple):
  """One class: entities n [E, 1], and sums [E, F] of latents."""

  n: np.ndarray
  active: np.ndarray
  total: np.ndarray
  squares: np.ndarray

  @property
  def frequency(self):
    return self.active / self.n

  @property
  def mean(self):
    return self.total / self.n


def _absolute_difference(a: _Class, b: _Class):
  # One division of whole numbers: equal scores are equal numbers, also where
  # classes differ in size, so that ties are seen.
  return (a.active * b.n - b.active * a.n) / (a.n * b.n)


def _relative_difference(a: _Class, b: _Class):
  return (a.frequency - b.frequency) / (b.frequency + _EPSILON)


def _absolute_mean_difference(a: _Class, b: _Class):
  return a.mean - b.mean


def _relative_mean_difference(a: _Class, b: _Class):
  return (a.mean - b.mean) / (b.mean + _EPSILON)


def _t_test(a: _Class, b: _Class):
  return welch_t(a.n, a.total, a.squares, b.n, b.total, b.squares)


# Names of arXiv 2411.14257's code (paper.md, 4).
METRICS = {
  'absolute_difference': _absolute_difference,
  'relative_difference': _relative_difference,
  'absolute_mean_difference': _absolute_mean_difference,
  'relative_mean_difference': _relative_mean_difference,
  't_test': _t_test,
}


def separation(
  sums: ClassSums,
  label: str = 'known',
  metric: str = 'absolute_difference',
  *,
  min_active: int = 0,
) -> np.ndarray:
  """Scores float64 [E, F] of latents, for each type.

  Args:
    sums: No class may be empty.
    label: The class that the score is high on.
    metric: One of METRICS. 'absolute_difference' is the difference between the
      shares of entities on which a latent fires: the paper's score.
    min_active: Latents that fire on fewer entities of a type, both classes
      together, have score 0 there.

  Raises:
    KeyError: there is no such metric or label.
    ValueError: a class is empty.
  """
  if metric not in METRICS:
    raise KeyError(f'{metric!r} is not one of the metrics {list(METRICS)}.')
  if label not in CLASSES:
    raise KeyError(f'{label!r} is not one of the labels {CLASSES}.')
  if not sums.n.all():
    raise ValueError(
      f'A class of {sums.site} of layer {sums.layer} is empty: n is '
      f'{sums.n.tolist()} (known, unknown) for {list(sums.types)}.'
    )
  mine = CLASSES.index(label)
  first, second = (
    _Class(
      n=sums.n[:, c, None],
      active=sums.active[:, c],
      total=sums.total[:, c],
      squares=sums.squares[:, c],
    )
    for c in (mine, 1 - mine)
  )
  scores = METRICS[metric](first, second)
  return np.where(sums.active.sum(axis=1) >= min_active, scores, 0.0)


def welch_t(
  n_a: np.ndarray,
  total_a: np.ndarray,
  squares_a: np.ndarray,
  n_b: np.ndarray,
  total_b: np.ndarray,
  squares_b: np.ndarray,
) -> np.ndarray:
  """Welch's t of two samples, from their sizes, sums and sums of squares.

  As `scipy.stats.ttest_ind(a, b, equal_var=False)`; 0 where both sums are 0 or
  t is not defined, infinite where two constants differ.
  """

  def moments(n, total, squares):
    mean = total / n
    scatter = squares - total * mean
    # What rounding leaves of a constant is not a variance.
    scatter = np.where(scatter > 1e-14 * n * squares, scatter, 0)
    return mean, scatter / (n - 1) / n

  with np.errstate(divide='ignore', invalid='ignore'):
    mean_a, error_a = moments(n_a, total_a, squares_a)
    mean_b, error_b = moments(n_b, total_b, squares_b)
    apart = mean_a - mean_b
    rounding = np.abs(apart) <= 1e-14 * (np.abs(mean_a) + np.abs(mean_b))
    t = np.where(rounding, 0, apart) / np.sqrt(error_a + error_b)
  silent = (total_a == 0) & (total_b == 0)
  return np.where(silent | np.isnan(t), 0.0, t)


def null_p_values(sums: ClassSums) -> np.ndarray:
  """Returns, for each latent, the p-value of no separation on any type, [F].

  Welch's t-tests of the activations, and of whether a latent fires, on every
  type; the smallest p of these 2 E tests, adjusted by Sidak. Of latents that do
  not separate, at least the share 1 - a has a p-value above a, however often
  they fire and however many entities there are.

  Args:
    sums: No class may be empty. Where one has a single entity, p is 1.
  """
  n = sums.n[..., None].astype(float)  # [E, 2, 1]
  smallest = np.ones(sums.width)
  for total, squares in (
    (sums.total, sums.squares),
    (sums.active.astype(float), sums.active.astype(float)),
  ):
    moments = [(n[:, c], total[:, c], squares[:, c]) for c in range(2)]
    t = welch_t(*moments[0], *moments[1])  # [E, F]
    errors = [
      np.maximum(sq - tot**2 / k, 0) / np.maximum(k - 1, 1) / k
      for k, tot, sq in moments
    ]
    with np.errstate(divide='ignore', invalid='ignore'):
      freedom = sum(errors) ** 2 / sum(
        error**2 / (k - 1)
        for error, (k, _, _) in zip(errors, moments, strict=True)
      )
      p = 2 * stats.t.sf(np.abs(t), freedom)
    # Two constants that differ have no variance, and t is infinite.
    p = np.where(np.isinf(t), 0.0, np.where(np.isnan(p), 1.0, p))
    p = np.where((sums.n < 2).any(axis=1)[:, None], 1.0, p)
    smallest = np.minimum(smallest, p.min(axis=0))
  return -np.expm1(2 * len(sums.n) * np.log1p(-np.minimum(smallest, 1 - 1e-16)))


def mean_ranks(scores: Sequence[np.ndarray]) -> list[np.ndarray]:
  """Returns the mean over types of a latent's rank among the latents of all
  SAEs.

  Args:
    scores: float [E, F] of each SAE, of one label.

  Returns:
    float64 [F] for each SAE; 1 is the best, and equal scores share their mean
    rank.
  """
  everything = np.concatenate(scores, axis=1)
  ranks = stats.rankdata(-everything, axis=1).mean(axis=0)
  return np.split(ranks, np.cumsum([s.shape[1] for s in scores])[:-1])


def layer_curve(
  sums: Sequence[ClassSums],
  scores: Sequence[np.ndarray],
  label: str,
  top: int = 5,
) -> list:
  """Returns scores by layer, without the filter of plain text.

  Args:
    sums: Sums of each SAE.
    scores: float [E, F] of each SAE, above 0 where known entities have more.
    label: The class that a score is high on.
    top: How many of the best latents of a type are averaged.

  Returns:
    For each SAE a dict: 'site', 'layer', 'types' (type -> 'mean', 'min' and
    'max' of its `top` best latents, and how many these are, 'n'), 'maxmin'
    (the best score that one latent has on every type) and its 'latent'.
  """
  curve = []
  sign = 1 if label == CLASSES[0] else -1
  for one, score in zip(sums, scores, strict=True):
    best = -np.sort(-sign * score, axis=1)[:, :top]
    lowest = (sign * score).min(axis=0)
    curve.append(
      {
        'site': one.site,
        'layer': one.layer,
        'types': {
          name: {
            'mean': float(row.mean()),
            'min': float(row.min()),
            'max': float(row.max()),
            'n': len(row),
          }
          for name, row in zip(one.types, best, strict=True)
        },
        'maxmin': float(lowest.max()),
        'latent': int(lowest.argmax()),
      }
    )
  return curve
