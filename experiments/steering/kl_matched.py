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
all lines at once, and of random lines the arms too, and interpolate in each
resample anew.

What is matched is how far a direction moves the model where it is not meant to:

  text            on ordinary text
  unflipped       on questions of both classes whose decision to decline or to
                  answer it leaves as it was
  same_decision   on the same questions, after the answer's first token
  same_questions  on the same questions, all of the answer: a description only,
                  for most of it is the flipped decision itself
"""

from collections.abc import Hashable, Mapping, Sequence
import math

import numpy as np

from experiments.latents import CLASSES
from experiments.stats.intervals import Estimate
from experiments.stats.resampling import draw, estimate
from experiments.steering import arms as arms_lib
from experiments.steering.arms import Arm

LEVELS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)  # nats per token
# What is matched, the first of those that there are being the main one.
MATCHED = {
  'text': 'ordinary text',
  'unflipped': 'questions whose decision does not change',
  'same_decision': 'the same questions, after the first token',
  'same_questions': 'the same questions (a description only)',
}
EVERY = 'every class'


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
    self._rng = rng = np.random.default_rng(seed)
    for name in CLASSES:
      at = np.flatnonzero(np.asarray(classes) == name)
      if not at.size:
        continue
      _, which = np.unique(np.asarray(entities)[at], return_inverse=True)
      self._weights[name] = at, _drawn(which.max() + 1, rng)[:, which]
    at, drawn = zip(*self._weights.values(), strict=True)
    self._weights[EVERY] = np.concatenate(at), np.concatenate(drawn, axis=1)
    self._arms = {}

  @property
  def classes(self) -> list[str]:
    """Returns the classes that were asked about."""
    return [name for name in self._weights if name != EVERY]

  def count(self, name: str) -> int:
    """Returns how many questions are about a class."""
    return len(self._weights[name][0])

  def weights(self, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the questions of a class, and weights [R, n] of each resample."""
    return self._weights[name]

  def of_units(self, count: int) -> np.ndarray:
    """Returns weights [R, count] of units such as arms or texts.

    The same for the same count, so that lines with as many arms share them.
    """
    if count not in self._arms:
      self._arms[count] = _drawn(count, self._rng)
    return self._arms[count]

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


def _drawn(count: int, rng: np.random.Generator) -> np.ndarray:
  drawn = draw(count, rng)
  if count == 1:
    drawn[:] = np.nan  # one unit says nothing about others
  return drawn


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
      is 0, and so is the change. NaN is a dose without a divergence.
    changes: [..., d].
    levels: Divergences above 0.

  Returns:
    [..., levels].
  """
  nothing = [(0, 0)] * (np.ndim(changes) - 1) + [(1, 0)]
  x, y = np.pad(divergences, nothing), np.pad(changes, nothing)
  highest = np.fmax.accumulate(x, axis=-1)
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
  measured: Mapping[str, np.ndarray],
  resamples: Resamples,
) -> list[dict]:
  """Returns every target's lines at common levels of divergence.

  Args:
    arms: A of them, the original first.
    measured: 'refused', 'kl' and 'kl_rest', each [A, Q]; 'log_refusal' [A, Q]
      and, if there is ordinary text, 'text' [A, N].
    resamples: Resamples of the questions.

  Returns:
    For each target, class of questions whose refusals change, and what is
    matched ('matched_on', of MATCHED): the change's 'floor' and 'ceiling', and
    'lines', each with its measured 'points' and its 'levels'. At a level are
    the 'change', that of the latent minus it ('latent_minus'), and the range of
    single random arms ('spread').
  """
  refused = measured['refused'].astype(float)
  moved = {
    'change': refused - refused[0],
    'log_refusal': measured['log_refusal'] - measured['log_refusal'][0],
  }
  unflipped = (refused == refused[0]).astype(float)
  every = np.ones_like(unflipped)
  found = []
  for target in [a.target for a in arms if a.kind == arms_lib.STEERED]:
    lines = _lines(arms, target)
    for name in resamples.classes:
      before = float(resamples.means(refused[:1], name)[0])
      for matched in MATCHED:
        if matched == 'text':
          if measured.get('text') is None:
            continue
          texts = measured['text']
          weights = (
            np.arange(texts.shape[1]),
            resamples.of_units(texts.shape[1]),
          )
          divergence = texts, np.ones_like(texts), weights
        elif matched == 'unflipped':
          weights = resamples.weights(EVERY)
          divergence = measured['kl'], unflipped, weights
        else:
          kl = measured['kl_rest' if matched == 'same_decision' else 'kl']
          there = np.where(np.isnan(kl), 0.0, every)
          divergence = np.nan_to_num(kl), there, resamples.weights(name)
        latent, described = None, []
        for line, doses in lines.items():
          one = _Line(doses, moved, divergence, resamples, name)
          latent = latent or one
          described.append({'line': line, **one.describe(latent)})
        found.append(
          {
            'target': target,
            'class': name,
            'matched_on': matched,
            'floor': 0.0 - before,
            'ceiling': 1 - before,
            'lines': described,
          }
        )
  return found


def _lines(arms: Sequence[Arm], target: str) -> dict[str, dict]:
  """Line -> dose -> numbers of its arms there; the latent's line first."""
  lines = {}
  for name, kinds in arms_lib.LINES.items():
    doses = {}
    for i, arm in enumerate(arms):
      if arm.target == target and arm.kind in kinds:
        doses.setdefault(abs(arm.dose), []).append(i)
    if doses:
      lines[name] = dict(sorted(doses.items()))
  return lines


class _Line:
  """A line's numbers: changes over one class, divergence over what is matched.

  Letters: d doses, c arms at each, R resamples.
  """

  def __init__(self, doses, moved, divergence, resamples, name):
    self._doses, self._n = doses, resamples.count(name)
    # Every dose has the same arms, in the same order.
    at = np.array(list(doses.values()))  # [d, c]
    arms = resamples.of_units(at.shape[1])
    self._share = np.ones((len(arms), 1)) if at.shape[1] == 1 else arms
    part, whole, weights = divergence
    ones = np.ones_like(moved['change'])
    kl = self._ratio(part[at] * whole[at], whole[at], weights)
    own = resamples.weights(name)
    change, log_refusal = (
      self._ratio(moved[key][at], ones[at], own)
      for key in ('change', 'log_refusal')
    )
    self._points = {'kl': kl, 'change': change, 'log_refusal': log_refusal}
    reached = kl[0].mean(1)
    self._largest = float(max(reached[~np.isnan(reached)], default=math.nan))
    self._values = at_levels(kl[0].mean(1), change[0].mean(1))  # [levels]
    self._resampled = at_levels(kl[1], change[1])  # [R, levels]
    self._single = at_levels(kl[0].T, change[0].T)  # [c, levels]

  def _ratio(self, part, whole, weights) -> tuple[np.ndarray, np.ndarray]:
    """Returns the means [d, c] of values [d, c, Q], and resampled ones [R, d].

    Resamples are of questions (or texts) and of arms.
    """
    chosen, drawn = weights
    part, whole = part[..., chosen], whole[..., chosen]
    with np.errstate(invalid='ignore', divide='ignore'):
      means = part.sum(-1) / whole.sum(-1)
      over = lambda values: (drawn @ values.reshape(-1, len(chosen)).T).reshape(
        len(drawn), *values.shape[:2]
      )
      each = over(part) / over(whole)
      share = self._share / self._share.sum(1, keepdims=True)
    return means, np.einsum('rdc,rc->rd', each, share)

  def describe(self, latent: '_Line') -> dict:
    """Returns a dict for JSON, beside the latent's line."""
    return {
      'points': [
        {
          'dose': dose,
          'arms': len(numbers),
          **{
            key: self._estimate(means[i].mean(), resampled[:, i])
            for key, (means, resampled) in self._points.items()
          },
        }
        for i, (dose, numbers) in enumerate(self._doses.items())
      ],
      'largest_kl': None if math.isnan(self._largest) else self._largest,
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
