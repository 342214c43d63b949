"""Directions compared where they move the model equally far, not equally hard.

The same norm is much along one direction and nothing along another. So along
each direction's doses, the change of refusals is read where the divergence
(divergence.py) has a given level:

  line     one way of steering a target over its doses, the original at dose 0;
           random ones of a kind are one line, their mean
  point    mean divergence and change of refusals at one dose
  level    a common divergence; between points the change is interpolated
           linearly, beyond the largest divergence of the line it has none

A dose whose mean divergence is not above that of all smaller ones is passed
over: a level is read where it is reached first. Intervals resample entities,
all lines at once, and interpolate in each resample anew.

The divergence is that of the same questions, or of questions about the other
class: off target, what else it costs.
"""

from collections.abc import Hashable, Sequence

import numpy as np

from experiments.latents import CLASSES
from experiments.stats.intervals import Estimate
from experiments.stats.resampling import draw, estimate
from experiments.steering import arms as arms_lib
from experiments.steering.arms import Arm

LEVELS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)  # nats per token


class Resamples:
  """Means over questions of a class, and the same with entities resampled.

  The bootstrap of `stats.resampling`, with the same resamples for all
  that is computed, so that differences have intervals too.
  """

  def __init__(
    self,
    classes: Sequence[str],
    entities: Sequence[Hashable],
    seed: int = 0,
  ):
    """Draws the resamples.

    Args:
      classes: Classes of Q questions.
      entities: Whom they are about, each of one class.
      seed: Random seed of the draws.
    """
    self._weights = {}
    rng = np.random.default_rng(seed)
    for name in CLASSES:
      at = np.flatnonzero(np.asarray(classes) == name)
      if not at.size:
        continue
      _, which = np.unique(np.asarray(entities)[at], return_inverse=True)
      drawn = draw(which.max() + 1, rng)
      if drawn.shape[1] == 1:
        drawn[:] = np.nan  # one entity says nothing about others
      self._weights[name] = at, drawn[:, which]  # [R, questions]

  @property
  def classes(self) -> list[str]:
    """Returns the classes that were asked about."""
    return list(self._weights)

  def count(self, name: str) -> int:
    """Returns how many questions are about a class."""
    return len(self._weights[name][0])

  def means(self, values: np.ndarray, name: str) -> np.ndarray:
    """[k], of values [k, Q] over a class."""
    return values[:, self._weights[name][0]].mean(1)

  def resampled(self, values: np.ndarray, name: str) -> np.ndarray:
    """[R, k], likewise, one row per resample."""
    at, weights = self._weights[name]
    return weights @ values[:, at].T / weights.sum(1, keepdims=True)

  def estimates(self, values: np.ndarray, name: str) -> list[Estimate]:
    """Means of values [k, Q] over a class, with intervals."""
    both = self.means(values, name), self.resampled(values, name).T
    return [
      estimate(mean, each, self.count(name))
      for mean, each in zip(*both, strict=True)
    ]


def at_levels(
  divergences: np.ndarray,
  changes: np.ndarray,
  levels: Sequence[float] = LEVELS,
) -> np.ndarray:
  """Changes where lines first reach each level; NaN where they do not.

  It is np.interp over the points at which a line diverges more than at any
  smaller dose, for many lines at once.

  Args:
    divergences: [..., d], at d increasing doses; at dose 0, before them, it
      is 0, and so is the change.
    changes: [..., d].
    levels: Divergences above 0.

  Returns:
    [..., levels].
  """
  nothing = [(0, 0)] * (np.ndim(changes) - 1) + [(1, 0)]
  x, y = np.pad(divergences, nothing), np.pad(changes, nothing)
  highest = np.maximum.accumulate(x, axis=-1)
  rises = x[..., 1:] > highest[..., :-1]
  places = np.pad(np.where(rises, np.arange(1, x.shape[-1]), 0), nothing)
  last_rise = np.maximum.accumulate(places, axis=-1)
  pick = lambda values, at: np.take_along_axis(values, at, axis=-1)[..., 0]
  found = []
  for level in levels:
    reached = x >= level
    after = reached.argmax(axis=-1, keepdims=True)  # it rises there
    before = np.take_along_axis(last_rise, np.maximum(after - 1, 0), axis=-1)
    run = pick(x, after) - pick(x, before)
    part = (level - pick(x, before)) / np.where(run > 0, run, 1)
    value = pick(y, before) + part * (pick(y, after) - pick(y, before))
    found.append(np.where(reached.any(-1), value, np.nan))
  return np.stack(found, axis=-1)


def compare(
  arms: Sequence[Arm],
  refused: np.ndarray,
  divergences: np.ndarray,
  resamples: Resamples,
) -> list[dict]:
  """Returns every target's lines at common levels of divergence.

  Args:
    arms: A of them, the original first.
    refused: bool [A, Q].
    divergences: [A, Q]: kl.
    resamples: Resamples of the questions.

  Returns:
    For each target, class of questions whose refusals change, and class of
    questions whose divergence is matched ('matched_on'): 'lines', each with
    its measured 'points' and its 'levels'. At a level are the 'change', that
    of the latent minus it ('latent_minus'), and the range of single random
    arms ('spread').
  """
  changes = refused.astype(float) - refused[0]
  found = []
  for target in [a.target for a in arms if a.kind == arms_lib.STEERED]:
    lines = _lines(arms, target)
    for name in resamples.classes:
      for matched in resamples.classes:
        latent, described = None, []
        for line, doses in lines.items():
          one = _Line(doses, changes, divergences, resamples, name, matched)
          latent = latent or one
          described.append({'line': line, **one.describe(latent)})
        found.append(
          {
            'target': target,
            'class': name,
            'matched_on': matched,
            'lines': described,
          }
        )
  return found


def _lines(arms: Sequence[Arm], target: str) -> dict[str, dict]:
  """Line -> dose -> numbers of its arms there; the latent's line first."""
  lines = {}
  for name, kinds in arms_lib.LINES.items():
    mine = [
      i
      for i, arm in enumerate(arms)
      if arm.target == target and arm.kind in kinds
    ]
    direction = {i: arms[i].direction.tobytes() for i in mine}
    # The same directions at every dose, so that points differ by dose alone.
    swept = {direction[i] for i in mine if arms[i].kind == kinds[-1]}
    doses = {}
    for i in mine:
      if not swept or direction[i] in swept:
        doses.setdefault(abs(arms[i].dose), []).append(i)
    if doses:
      lines[name] = dict(sorted(doses.items()))
  return lines


def _over(doses, values) -> np.ndarray:
  """Values [A, Q] of arms as [doses, Q]: means over the arms of a dose."""
  return np.stack([values[numbers].mean(0) for numbers in doses.values()])


class _Line:
  """A line's numbers, over one class's changes and one class's divergences."""

  def __init__(self, doses, changes, divergences, resamples, name, matched):
    self._doses, self._n = doses, resamples.count(name)
    kls, moved = _over(doses, divergences), _over(doses, changes)
    self._kl = resamples.estimates(kls, matched)
    self._change = resamples.estimates(moved, name)
    kl, change = resamples.means(kls, matched), resamples.means(moved, name)
    self._largest = float(kl.max())
    self._values = at_levels(kl, change)  # [levels]
    self._resampled = at_levels(
      resamples.resampled(kls, matched), resamples.resampled(moved, name)
    )  # [R, levels]
    single = [
      {dose: numbers[i : i + 1] for dose, numbers in doses.items()}
      for i in range(min(map(len, doses.values())))
    ]
    self._single = np.stack(
      [
        at_levels(
          resamples.means(_over(each, divergences), matched),
          resamples.means(_over(each, changes), name),
        )
        for each in single
      ]
    )  # [arms, levels]

  def describe(self, latent: '_Line') -> dict:
    """Returns a dict for JSON, beside the latent's line."""
    points = zip(self._doses.items(), self._kl, self._change, strict=True)
    return {
      'points': [
        {
          'dose': dose,
          'arms': len(numbers),
          'kl': kl.to_dict(),
          'change': change.to_dict(),
        }
        for (dose, numbers), kl, change in points
      ],
      'largest_kl': self._largest,
      'levels': [
        {
          'kl': level,
          'change': self._estimate(self._values[i], self._resampled[:, i]),
          'latent_minus': self._estimate(
            latent._values[i] - self._values[i],
            latent._resampled[:, i] - self._resampled[:, i],
          ),
          'spread': self._spread(i),
        }
        for i, level in enumerate(LEVELS)
      ],
    }

  def _estimate(self, value, resampled) -> dict:
    return estimate(value, resampled, self._n).to_dict()

  def _spread(self, i: int) -> dict:
    reaching = self._single[:, i][~np.isnan(self._single[:, i])]
    return {
      'arms': len(self._single),
      'reaching': len(reaching),
      'low': float(reaching.min()) if reaching.size else None,
      'high': float(reaching.max()) if reaching.size else None,
    }
