"""Is what detects the unknown what controls refusals? Directions compared.

  detector    where the model tells unknown entities: at the last token of the
              name, from the mean of known to the mean of unknown ones; or the
              decoder row of a latent of the base model
  controller  what makes it refuse: at the prompt's last token, from the mean of
              answered to the mean of refused prompts. Which these are, the
              tuned model decides; in the untuned model the same prompts are
              compared

Both point towards refusing, so that a cosine above 0 says that they agree. They
are read at different tokens: what a detector finds is moved by attention, and
may be rotated on the way, so that a small cosine does not say that the one has
nothing to do with the other.

Intervals resample entities, for both directions at once. Noise turns directions
away from each other, so that intervals of cosines tend to lie below the value;
reliability is the cosine of a direction found on two halves of the entities.
The null is the 95 % bound of |cosine| between the one direction and random ones
of the other's own noise: random combinations of the streams that it is made of,
less the means of their classes. Latents are compared at their own layer and all
above, whose streams go on from it. Letters: n prompts, L layers, R resamples.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from experiments.latents import LatentId
from experiments.refusal_tuning.asked import (
  Asked,
  check_classes,
  check_pair,
  streams,
)
from experiments.stats.intervals import number_units
from experiments.stats.resampling import draw, estimate
import gemma_jax as gj

# Numbers of random directions, of resamples, and of splits into halves.
NULL, RESAMPLES, HALVES = 1000, 1000, 20
# |cosine| is below the null's bound in this share of random directions.
_LEVEL = 0.95
SIDES = ('before', 'after')


def compare_directions(
  before: gj.Decoder,
  after: gj.Decoder,
  asked: Asked,
  refused: Sequence[bool],
  layers: Sequence[int],
  *,
  latents: Mapping[LatentId, np.ndarray] | None = None,
  seed: int = 0,
) -> dict:
  """Compares detectors with controllers, before and after tuning.

  Args:
    before: The untuned model, stacked.
    after: The tuned one.
    asked: n prompts, about known and unknown entities.
    refused: bool [n], what the tuned model refuses.
    layers: L distinct ones, of resid_post.
    latents: Latent -> its decoder row [D], pointing towards unknown entities
      (times -1 for a latent of known ones).
    seed: Random seed of resamples, halves and the null.

  Returns:
    'n', 'entities', 'refused' and 'layers', for each of them 'layer' and
    'cosines': pairs with 'a', 'b', 'cosine', 'null' (the bound of |cosine|) and
    'reliability' (of a and of b, None for a latent). 'means.before' and
    'means.after' are detectors, 'controller.before' and 'controller.after'
    controllers, and latents go by their names. Detectors are paired with
    controllers, and each with itself before and after. 'matrix': float lists
    [L, L], the detector of the tuned model at a layer (row) with its
    controller at another.

  Raises:
    ValueError: the models do not match, a class is empty, everything or
      nothing is refused, or a latent's layer is not read.
  """
  check_pair(before, after)
  check_classes(asked, 'the prompts')
  refused = np.asarray(refused, bool)
  if refused.shape != (len(asked),) or refused.all() or not refused.any():
    raise ValueError(
      f'{int(refused.sum())} of {len(asked)} prompts are refused (labels of '
      f'shape {refused.shape}); a controller needs both kinds. Ask about more '
      'entities, or compare a model that answers some and refuses some.'
    )
  layers, latents = list(layers), dict(latents or {})
  for id in latents:
    if id.site != 'resid_post' or id.layer not in layers:
      raise ValueError(
        f'{id} is not at resid_post of one of the layers {layers}.'
      )
  x = {}
  for side, model in zip(SIDES, (before, after), strict=True):
    x[f'means.{side}'] = streams(model, asked, layers, asked.name_ends)
    x[f'controller.{side}'] = streams(model, asked, layers, asked.ends)
  labels = {'means': ~asked.known, 'controller': refused}
  which, names = number_units(asked.entities)
  rng = np.random.default_rng(seed)
  counts = draw(len(names), rng, RESAMPLES)[:, which]  # [R, n]
  halves = _halves(which, len(names), rng)
  random = rng.standard_normal((NULL, len(asked)))
  found = []
  for number, layer in enumerate(layers):
    made = {
      name: _Direction(
        values[number].astype(np.float64),
        labels[name.split('.')[0]],
        counts,
        halves,
      )
      for name, values in x.items()
    }
    fixed = {
      str(id): np.asarray(row, np.float64)
      for id, row in latents.items()
      if id.layer <= layer
    }
    cosines = [
      _pair(a, b, made, fixed, random, len(names) > 1) for a, b in _pairs(fixed)
    ]
    found.append({'layer': layer, 'cosines': cosines})
  detectors, controllers = (
    np.stack([difference(x[name][i], label) for i in range(len(layers))])
    for name, label in (
      ('means.after', ~asked.known),
      ('controller.after', refused),
    )
  )
  return {
    'n': len(asked),
    'entities': len(names),
    'refused': int(refused.sum()),
    'layers': found,
    'matrix': (_unit(detectors) @ _unit(controllers).T).tolist(),
  }


def difference(x: np.ndarray, label: np.ndarray) -> np.ndarray:
  """Returns the mean of the labelled rows of [n, D] less that of the others."""
  x = np.asarray(x, np.float64)
  return x[label].mean(0) - x[~label].mean(0)


class _Direction:
  """A difference of means, its resamples, and what it is made of.

  Attributes:
    centred: float64 [n, D], streams less the mean of their class.
    value: float64 [D].
    resampled: float64 [R, D]; NaN where a class is empty.
    reliability: Mean cosine between two halves; None without any.
  """

  def __init__(self, x, label, counts, halves):
    self.value = difference(x, label)
    self.centred = x - np.where(
      label[:, None], x[label].mean(0), x[~label].mean(0)
    )
    self._x = x - x.mean(0)
    self.resampled = self._under(counts, label)
    cosines = _cosine(*(self._under(half, label) for half in halves))
    cosines = cosines[np.isfinite(cosines)]
    self.reliability = float(cosines.mean()) if cosines.size else None

  def _under(self, weights, label) -> np.ndarray:
    """Differences [R, D] under weights [R, n]."""
    means = []
    for mine in (label, ~label):
      total = weights[:, mine].sum(1, keepdims=True)
      sums = weights[:, mine] @ self._x[mine]
      means.append(
        np.divide(sums, total, out=np.full_like(sums, np.nan), where=total > 0)
      )
    return means[0] - means[1]


def _pairs(latents):
  """Names of the two directions of each cosine."""
  for side in SIDES:
    for detector in (*(f'means.{s}' for s in SIDES), *latents):
      yield detector, f'controller.{side}'
  for name in ('means', 'controller'):
    yield f'{name}.before', f'{name}.after'
  for latent in latents:
    for side in SIDES:
      yield latent, f'means.{side}'


def _pair(a, b, made, fixed, random, several) -> dict:
  """Returns one cosine, for JSON."""
  vectors = [
    made[name].value if name in made else fixed[name] for name in (a, b)
  ]
  drawn = [
    made[name].resampled if name in made else fixed[name][None]
    for name in (a, b)
  ]
  n = len(made[b].centred)
  cosines = _cosine(*drawn)
  if not several:
    cosines = np.full_like(cosines, np.nan)
  value = _cosine(vectors[0][None], vectors[1][None])[0]
  null = np.abs(_cosine(random @ made[b].centred, vectors[0][None]))
  return {
    'a': a,
    'b': b,
    'cosine': estimate(value, cosines, n).to_dict(),
    'null': float(np.quantile(null, _LEVEL)),
    'reliability': [
      made[name].reliability if name in made else None for name in (a, b)
    ],
  }


def _halves(which, units, rng) -> tuple[np.ndarray, np.ndarray]:
  """Two bool [HALVES, n]: the prompts of half of the entities, and the rest."""
  order = rng.permuted(np.tile(np.arange(units), (HALVES, 1)), axis=1)
  first = (order < units // 2)[:, which]
  return first.astype(float), (~first).astype(float)


def _unit(x) -> np.ndarray:
  return x / np.linalg.norm(x, axis=-1, keepdims=True)


def _cosine(a, b) -> np.ndarray:
  """[R], of rows; NaN of nothing."""
  with np.errstate(divide='ignore', invalid='ignore'):
    return (_unit(a) * _unit(b)).sum(-1)
