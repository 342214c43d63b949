"""Random latents to compare a chosen one with.

Chosen latents were searched for; a control must be like them in everything but
what they were chosen for: same layer, firing about as often on entities, a
decoder row of about the same norm, and no separation of known from unknown that
a test tells from chance (`scores.null_p_values`).
"""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import random

import numpy as np

from experiments.latents.class_sums import ClassSums
from experiments.latents.ranking import LatentId
from experiments.latents.scores import null_p_values, separation

# paper.md, 10.1 no. 7.
FREQUENCY_FACTOR = 2.0
# A latent whose separation has a p-value below this is no control: 95 % of
# those that do not separate are let through.
LEAST_P = 0.05
NORM_FACTOR = 1.25
# Frequencies beyond these count as these, so that odds are finite.
_BOUNDS = (1e-4, 1 - 1e-4)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomLatents:
  """Latents drawn as controls of one.

  Attributes:
    of: The latent they are controls of.
    ids: LatentIds, in the order they were drawn.
    pool: How many latents fulfil all conditions.
    rule: 'matched'; 'nearest' if too few latents fire as often, and those
      nearest in log frequency were taken; 'least separating' if too few were
      admitted, and those were taken that separate least; 'zero_score' for the
      published rule.
    frequency: Frequency of `of`: mean over types and classes.
    frequencies: Frequencies of each id.
    norm: Norm of the decoder row of `of`; None if not given.
    norms: Norms of each id.
  """

  of: LatentId
  ids: tuple[LatentId, ...]
  pool: int
  rule: str
  frequency: float
  frequencies: tuple[float, ...]
  norm: float | None
  norms: tuple[float, ...] | None

  def to_dict(self) -> dict:
    """Returns a dict for JSON."""
    return {
      **dataclasses.asdict(self),
      'of': str(self.of),
      'ids': list(map(str, self.ids)),
    }


def entity_frequency(sums: ClassSums) -> np.ndarray:
  """float64 [F], how often latents fire on entities.

  The mean over types and classes, each counting the same: it says nothing of
  how many entities happen to be known.
  """
  return sums.frequency.mean(axis=(0, 1))


def matched_random(
  of: LatentId,
  sums: ClassSums,
  *,
  count: int = 20,
  seed: int = 0,
  norms: np.ndarray | None = None,
  exclude: Iterable[LatentId] = (),
  separating: bool = False,
  odds: bool = False,
) -> RandomLatents:
  """Draws latents that are like one, but do not separate known from unknown.

  They are of the same SAE. A test does not tell their separation from chance,
  the norm of their decoder row is within NORM_FACTOR, and their frequency on
  entities within FREQUENCY_FACTOR. If fewer than `count` are, the `count`
  nearest in log frequency among those that fulfil the rest are taken. If fewer
  than `count` fulfil the rest, as with thousands of entities, where chance is
  small, the `count` latents are taken that separate least. A small SAE may have
  fewer. Latents that never fire on an entity are no controls.

  Args:
    of: A latent.
    sums: Sums of its SAE, over the entities it was chosen on.
    count: How many to draw.
    seed: Together with the latent's layer and index it fixes the draw.
    norms: float [F], norms of W_dec's rows; None leaves them unmatched.
    exclude: Latents not to draw, besides `of`.
    separating: True if latents are drawn that separate, too.
    odds: Compares f / (1 - f) in place of frequencies f: else a latent that
      fires on half of all is taken for one that fires on all.

  Raises:
    ValueError: the sums are of another SAE, or no latent qualifies.
  """
  _check(of, sums)
  frequency = entity_frequency(sums)
  able = frequency > 0
  if norms is not None:
    norms = np.asarray(norms, np.float64)
    able &= _apart(norms, norms[of.latent]) <= np.log(NORM_FACTOR)
  able[[x.latent for x in (of, *exclude) if x[:2] == of[:2]]] = False
  if not able.any():
    raise ValueError(
      f'No latent of {of.site} of layer {of.layer} can be a control of {of}: '
      'none fires on entities and has a decoder row of its norm. Take a wider '
      'SAE, or compare with random unit vectors.'
    )
  candidates = np.flatnonzero(able)
  if not separating:
    p = np.where(able, null_p_values(sums), -1.0)
    candidates = np.flatnonzero(p >= LEAST_P)
    if len(candidates) < count:
      drawn = np.argsort(-p, kind='stable')[: min(count, int(able.sum()))]
      rule = 'least separating'
      return _described(of, drawn, len(candidates), rule, frequency, norms)
  often = frequency
  if odds:
    often = np.clip(frequency, *_BOUNDS)
    often = often / (1 - often)
  apart = _apart(often[candidates], often[of.latent])
  near = candidates[apart <= np.log(FREQUENCY_FACTOR) + 1e-12]
  if len(near) >= count:
    rng = np.random.default_rng([seed, of.layer, of.latent])
    rule, drawn = 'matched', rng.choice(near, count, replace=False)
  else:
    rule = 'nearest'
    drawn = candidates[np.argsort(apart, kind='stable')[:count]]
  return _described(of, drawn, len(near), rule, frequency, norms)


def zero_score_random(
  of: LatentId,
  sums: ClassSums,
  *,
  count: int = 10,
  norms: np.ndarray | None = None,
) -> RandomLatents:
  """Returns the published draw (paper.md, 10.1 no. 7), for `reference` runs.

  From the latents of the same layer whose lowest score over types is exactly
  0, in the order of their indices, by `random.seed(42)` and `random.sample`.
  Most of them never fire on an entity.

  Raises:
    ValueError: the sums are of another SAE, or there are too few such latents.
  """
  _check(of, sums)
  pool = np.flatnonzero(separation(sums).min(axis=0) == 0).tolist()
  if len(pool) < count:
    raise ValueError(
      f'{len(pool)} latents of {of.site} of layer {of.layer} have a lowest '
      f'score of exactly 0; {count} are asked for. Draw fewer, or use matched '
      'latents.'
    )
  drawn = random.Random(42).sample(pool, count)
  return _described(
    of, drawn, len(pool), 'zero_score', entity_frequency(sums), norms
  )


def describe_random(random: Mapping) -> str:
  """Says in words how they are like the chosen latent, and how not.

  Args:
    random: What `RandomLatents.to_dict` gave.
  """
  if random['rule'] == 'matched':
    return 'of the same layer and frequency'
  often = random['frequencies']
  said = (
    f'they fire on {min(often):.0%} to {max(often):.0%} of entities, it on '
    f'{random["frequency"]:.0%}'
  )
  if random['rule'] == 'least separating':
    return f'of the same layer, those that separate least ({said})'
  if random['rule'] == 'nearest':
    return f'of the same layer, the nearest in frequency ({said})'
  return f'of the same layer, whose lowest score is 0 ({said})'


def difference_of_means(sums: ClassSums, label: str = 'known') -> np.ndarray:
  """float64 [D], from the other class to that of a label.

  The mean over types of the difference between class means, so that the mix of
  types in a class does not enter.
  """
  means = sums.stream_mean
  towards_known = (means[:, 0] - means[:, 1]).mean(axis=0)
  return towards_known if label == 'known' else -towards_known


def _check(of: LatentId, sums: ClassSums):
  if of[:2] != sums.where:
    raise ValueError(
      f'Sums are of {sums.site} of layer {sums.layer}, which {of} is not of.'
    )


def _apart(values, value) -> np.ndarray:
  """Returns how far positive values are from one, in log."""
  with np.errstate(divide='ignore', invalid='ignore'):
    return np.abs(np.log(values) - np.log(value))


def _described(
  of: LatentId,
  drawn: Sequence[int],
  pool: int,
  rule: str,
  frequency: np.ndarray,
  norms: np.ndarray | None,
) -> RandomLatents:
  drawn = [int(latent) for latent in drawn]
  return RandomLatents(
    of=of,
    ids=tuple(LatentId(of.site, of.layer, latent) for latent in drawn),
    pool=pool,
    rule=rule,
    frequency=float(frequency[of.latent]),
    frequencies=tuple(frequency[drawn].tolist()),
    norm=None if norms is None else float(norms[of.latent]),
    norms=None if norms is None else tuple(map(float, norms[drawn])),
  )
