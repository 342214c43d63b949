"""Looks inside a model before and after tuning, and says what it found.

Is what detects unknown entities still there? Does adding it make the tuned
model refuse? Do detector and controller agree? Which weights changed what?
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import NamedTuple

import numpy as np

from experiments.knowledge_probing import Format, Question, refusal_text
from experiments.latents import LatentId, matched_random, select
from experiments.refusal_tuning import (
  controllers,
  latents_before_after,
  repurposed,
  unknown_latent,
  weight_patching,
)
from experiments.refusal_tuning.asked import Asked, ask, streams
from experiments.refusal_tuning.steered import Steered
import gemma_jax as gj

# Prompts, at most: to find detectors on, and to compare.
_TRAIN, _TEST = 400, 240
# Doses of the unknown latent; at larger ones hardly a random latent moves the
# model as far. The first one chooses among latents.
_DOSES = (0.25, 0.125, 0.5)
# Share of the best separation that a latent must reach to be tried.
_NEARLY = 0.75
# Random directions beside it: ten must be matched in both models.
_RANDOM = 16
# Layers that are looked at without SAEs, spread evenly.
_LAYERS = 5
# Layers whose heads are patched one by one: where attention matters most.
_HEADS_OF = 2


class Direction(NamedTuple):
  """A direction that is no latent's, and where it is added."""

  site: str
  layer: int
  name: str

  def __str__(self) -> str:
    return f'{self.name}, {self.site}.{self.layer}'


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Inside:
  """Holds what is compared.

  Attributes:
    before: The untuned model, stacked.
    after: The tuned one.
    format: How questions are put.
    train: Questions that detectors are found on.
    test: Questions about other entities.
    known: Says of a question whether the model knows the answer.
    refused: Id of a test question -> whether the tuned model declines it.
    saes: Layer -> SAE of the base model; may be empty.
    layers: Layers to look at; None is those of the SAEs, or some.
    closely: Prompts that are steered and patched, at most.
    refusal: The one text that declines; None is a pool of them.
    seed: Random seed.
  """

  before: gj.Decoder
  after: gj.Decoder
  format: Format
  train: Sequence[Question]
  test: Sequence[Question]
  known: Callable[[Question], bool]
  refused: Mapping[str, bool]
  saes: Mapping
  layers: Sequence[int] | None
  closely: int
  refusal: str | None
  seed: int


def look_inside(given: Inside) -> dict:
  """Returns all that is found, for `verdict`."""
  config = given.before.config
  train, _ = _asked(given, given.train, _TRAIN)
  test, questions = _asked(given, given.test, _TEST)
  models = given.before, given.after
  layers = list(given.layers or given.saes) or sorted(
    {int(x) for x in np.linspace(0, config.num_layers - 2, _LAYERS).round()}
  )
  directions = latents_before_after.compare_directions(
    *models, layers, train, test, seed=given.seed
  )
  refusals = _first_tokens(given, questions)
  latents, rows = None, {}
  if given.saes:
    found = latents_before_after.find_latents(given.before, given.saes, train)
    found = _strongest_first(given, found, train, refusals)
    latents = latents_before_after.compare_latents(
      *models, given.saes, test, found, seed=given.seed
    )
    rows = {
      id: (1 if label == 'unknown' else -1) * _row(given.saes, id)
      for label, ids in found.latents.items()
      for id in ids[:1]
    }
    target, direction, random = _latents(given, found)
  else:
    target, direction, random = _directions(
      given,
      train,
      max(directions, key=lambda each: each['auroc']['before']['value'])[
        'layer'
      ],
    )
  layer = target.layer
  steering = unknown_latent.compare_steering(
    *models,
    test.take(_some(test.known, given.closely)),
    target,
    direction,
    random,
    refusals,
    doses=sorted(_DOSES),
    seed=given.seed,
  )
  refused = np.array([given.refused[q.id] for q in questions])
  agreeing = None
  if refused.any() and not refused.all():
    agreeing = controllers.compare_directions(
      *models,
      test,
      refused,
      sorted({*layers, *(id.layer for id in rows)}),
      latents=rows,
      seed=given.seed,
    )
  half = max(1, given.closely // 2)
  few = np.concatenate([_some(test.known, half), _some(~test.known, half)])
  patched = weight_patching.patch_weights(
    *models,
    test.take(few),
    refusals,
    weight_patching.components(config, cut=layer),
    seed=given.seed,
  )
  heads = weight_patching.patch_weights(
    *models,
    test.take(few),
    refusals,
    [
      component
      for component in weight_patching.components(
        config, heads_of=_attentive(patched)
      )
      if component.kind == 'head'
    ],
    back=False,
    seed=given.seed,
  )
  patched['components'] += heads['components']
  return {
    'train': len(train),
    'test': len(test),
    'refused': int(refused.sum()),
    'layers': layers,
    'detector_layer': layer,
    'latents': latents,
    'directions': directions,
    'steering': steering,
    'controllers': agreeing,
    'weights': patched,
  }


def verdict(found: Mapping) -> dict:
  """Returns what `look_inside` found, as rules and in plain words."""
  names = ('latents', 'directions', 'steering', 'controllers', 'weights')
  return repurposed.judge(
    **{name: found[name] for name in names}, layer=found['detector_layer']
  )


def _asked(given: Inside, questions, most: int) -> tuple[Asked, list]:
  """Prompts, as many about known entities as about unknown ones at most."""
  known = np.array([given.known(q) for q in questions])
  rows = np.sort(
    np.concatenate([_some(known, most // 2), _some(~known, most // 2)])
  )
  chosen = [questions[row] for row in rows]
  return ask(given.format, chosen, known[rows]), chosen


def _some(mask: np.ndarray, most: int) -> np.ndarray:
  """Rows of a mask, evenly spread over it if they are too many."""
  rows = np.flatnonzero(mask)
  if len(rows) <= most:
    return rows
  return rows[np.linspace(0, len(rows) - 1, most).round().astype(int)]


def _row(saes, id: LatentId) -> np.ndarray:
  return np.asarray(saes[id.layer].W_dec[...][id.latent], np.float64)


def _first_tokens(given: Inside, questions) -> list[int]:
  """Tokens that a refusal begins with."""
  texts = {refusal_text(q, text=given.refusal) for q in questions}
  return sorted({given.format.answer_ids(text)[0] for text in texts})


def _strongest_first(given: Inside, found, train: Asked, refusals):
  """Puts the unknown latent first that makes the tuned model refuse most.

  The best one of every layer is tried, if it separates nearly as well as the
  best of all, on train entities that are known: a latent of a late layer comes
  too late to change answers.
  """
  each = [select([one], k=1).of('unknown')[0] for one in found.sums]
  least = _NEARLY * max(one.score for one in each)
  best = [one.id for one in each if one.score >= least]
  known = train.take(_some(train.known, given.closely))
  effects = []
  for id in best:
    steered = Steered.of(given.after, known, id.site, id.layer, refusals)
    rows = np.tile(_row(given.saes, id), (2, 1))
    said = steered.read(rows, np.array([0.0, _DOSES[0]]))
    effects.append(float((said.refusal[1] - said.refusal[0]).mean()))
  first = best[int(np.argmax(effects))]
  unknown = [first, *(id for id in found.latents['unknown'] if id != first)]
  return dataclasses.replace(
    found, latents={**found.latents, 'unknown': unknown}
  )


def _latents(given: Inside, found):
  """Returns the unknown latent, its row, and random ones of its layer."""
  target = found.latents['unknown'][0]
  sums = {one.where: one for one in found.sums}
  drawn = matched_random(
    target,
    sums[target[:2]],
    count=_RANDOM,
    seed=given.seed,
    exclude=[id for ids in found.latents.values() for id in ids],
  )
  random = {id: _row(given.saes, id) for id in drawn.ids}
  return target, _row(given.saes, target), random


def _directions(given: Inside, train: Asked, layer: int):
  """Without SAEs: from known to unknown, and random labels' differences."""
  (x,) = streams(given.before, train, [layer], train.name_ends)
  x = x.astype(np.float64)
  difference = lambda known: x[~known].mean(0) - x[known].mean(0)
  rng, random = np.random.default_rng(given.seed), {}
  for number in range(_RANDOM):
    shuffled = rng.permutation(train.known)
    random[f'shuffled labels {number}'] = difference(shuffled)
  target = Direction('resid_post', layer, 'difference of means')
  return target, difference(train.known), random


def _attentive(patched: Mapping) -> list[int]:
  """Layers whose attention changes most how the unknown are refused."""
  found = {}
  for each in patched['components']:
    if each['kind'] == 'attention':
      groups = each['into']
      effect = groups.get('apart', next(iter(groups.values())))['effect']
      found[each['layers'][0]] = abs(effect['value'] or 0.0)
  return sorted(sorted(found, key=lambda layer: -found[layer])[:_HEADS_OF])
