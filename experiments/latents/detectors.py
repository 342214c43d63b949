"""Latents, their controls and fitted probes, as detectors of known entities."""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses

import numpy as np

from experiments.activations import HarvestRows, gather
from experiments.entities.prompt_tokens import tokenize_prompt
from experiments.latents.class_sums import SPLITS, ClassSums
from experiments.latents.controls import RandomLatents, difference_of_means
from experiments.latents.held_out_rates import detection
from experiments.latents.labelled import CLASSES, LabelledEntities
from experiments.latents.probes import (
  graded_probe,
  linear_probe,
  text_probe,
  token_probe,
)
from experiments.latents.ranking import LatentId
from experiments.latents.selection import Selection
from experiments.stats.ranks import spearman
import gemma_jax as gj

# Resamples of rank correlations, whose ranks are computed anew in each.
_RESAMPLES = 500
KINDS = (
  'latent',
  'random latents',
  'difference of means',
  'linear probe',
  'graded probe',
  'name tokens',
  'text of the name',
)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class SplitData:
  """The entities of one split, as three lists in one order.

  Attributes:
    entities: n, with labels.
    rows: Their prompts' rows, read at the entity's last token.
    name_tokens: Ids of the tokens of their names.
    grades: float [n], how much is known of each, such as the share of right
      answers; None where only the class is known.
  """

  entities: LabelledEntities
  rows: HarvestRows
  name_tokens: Sequence[Sequence[int]]
  grades: np.ndarray | None = None

  def __post_init__(self):
    sizes = len(self.entities), len(self.rows), len(self.name_tokens)
    if self.grades is not None and len(self.grades) != sizes[0]:
      raise ValueError(
        f'There are {sizes[0]} entities and {len(self.grades)} grades.'
      )
    if len(set(sizes)) > 1:
      raise ValueError(
        f'There are {sizes[0]} entities, {sizes[1]} rows and the tokens of '
        f'{sizes[2]} names. Leave out entities whose prompts were dropped '
        '(HarvestRows.prompt_rows is -1).'
      )


def name_tokens(tokenizer: gj.Tokenizer, prompts: Sequence) -> list[list[int]]:
  """Ids of the tokens that spell the entity of each `entities.Prompt`."""
  found = (tokenize_prompt(tokenizer, prompt) for prompt in prompts)
  return [list(one.ids[slice(*one.entity)]) for one in found]


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Detector:
  """Something whose score is to tell known from unknown.

  Attributes:
    name: For tables.
    kind: One of KINDS.
    site, layer: What it reads; None for names.
    found: As `evaluation.detection`; of several random latents the mean, and
      as low and high the lowest and highest of them.
    about: More, for JSON.
  """

  name: str
  kind: str
  site: str | None
  layer: int | None
  found: Mapping
  about: Mapping

  def to_dict(self) -> dict:
    """Returns a dict for JSON."""
    fields = dataclasses.asdict(self)
    found = fields.pop('found')
    return fields | found


def latent_detectors(
  selections: Mapping[str, Selection],
  criterion: str,
  random: Mapping[str, RandomLatents],
  activations: Mapping[LatentId, np.ndarray],
  entities: LabelledEntities,
) -> Iterator[Detector]:
  """Yields chosen latents, and the random ones of each label's best.

  Args:
    selections: Criterion -> what was chosen by it.
    criterion: The one whose best latents have controls; of the others only the
      best are detectors here.
    random: Label -> controls of its best latent.
    activations: float [n] of each latent of both.
    entities: n of them.
  """
  for label in CLASSES:
    every = list(selections[criterion].of(label))
    there = {chosen.id for chosen in every}
    for selection in selections.values():
      best = selection.of(label)[0]
      if best.id not in there:
        every.append(best)
        there.add(best.id)
    for chosen in every:
      yield Detector(
        name=f'{label} latent {chosen.id}',
        kind='latent',
        site=chosen.id.site,
        layer=chosen.id.layer,
        found=detection(entities, activations[chosen.id], label),
        about={'label': label, 'latent': str(chosen.id)},
      )
    controls = random[label]
    each = [detection(entities, activations[id], label) for id in controls.ids]
    yield Detector(
      name=f'{len(each)} random latents for {controls.of}',
      kind='random latents',
      site=controls.of.site,
      layer=controls.of.layer,
      found=_spread(each),
      about={
        'label': label,
        'latent': str(controls.of),
        'interval': 'the lowest and the highest of these latents',
      },
    )


def fitted_detectors(
  model: gj.Decoder,
  selection: Selection,
  train: Sequence[ClassSums],
  data: Mapping[str, SplitData],
  skipped: list[str],
  directions: dict[str, np.ndarray],
) -> Iterator[Detector]:
  """Yields detectors that read what the best latents read, or names alone.

  Args:
    model: The model.
    selection: Whose best latents say at which sites and layers.
    train: Sums of each SAE over train.
    data: Split -> its entities.
    skipped: Where to say what is left out, and why.
    directions: Where to put the directions of detectors, float [D], by name.
  """
  places = list(dict.fromkeys(id[:2] for id in selection.best.values()))
  sums = {one.where: one for one in train}
  fits = data['validation'].entities.counts().all()
  if not fits:
    skipped.append(
      'Linear probe and name tokens: a class of a type has no entities in '
      'validation, on which their regularisation is chosen.'
    )
  test = data['test'].entities

  def fitted(probe, x, **about):
    found = detection(test, probe.scores(x))
    return Detector(found=found, about=probe.to_dict(), **about)

  vectors = _gathered(model, places, data, SPLITS if fits else ('test',))
  for site, layer in places:
    x = vectors[site, layer]
    where = {'site': site, 'layer': layer}
    means = difference_of_means(sums[site, layer])
    directions[f'difference of means at {site}.{layer}'] = means
    yield Detector(
      name=f'difference of means at {site}.{layer}',
      kind='difference of means',
      **where,
      found=detection(test, x['test'] @ means),
      about={},
    )
    if fits:
      probe = linear_probe(
        data['train'].entities,
        x['train'],
        data['validation'].entities,
        x['validation'],
      )
      name = f'linear probe at {site}.{layer}'
      directions[name] = probe.weights
      yield fitted(probe, x['test'], name=name, kind='linear probe', **where)
    if fits and data['train'].grades is not None:
      probe = graded_probe(
        data['train'].grades,
        x['train'],
        data['validation'].grades,
        x['validation'],
      )
      name = f'graded probe at {site}.{layer}'
      directions[name] = probe.weights
      scores, grades = probe.scores(x['test']), data['test'].grades
      yield Detector(
        name=name,
        kind='graded probe',
        **where,
        found=detection(test, scores),
        about=probe.to_dict() | graded(scores, grades, test),
      )
  if fits:
    yield fitted(
      text_probe(data['train'].entities, data['validation'].entities),
      test,
      name='text of the name',
      kind='text of the name',
      site=None,
      layer=None,
    )
    probe = token_probe(
      data['train'].entities,
      data['train'].name_tokens,
      data['validation'].entities,
      data['validation'].name_tokens,
    )
    yield fitted(
      probe,
      data['test'].name_tokens,
      name='tokens of the name',
      kind='name tokens',
      site=None,
      layer=None,
    )


def graded(
  scores: np.ndarray, grades: np.ndarray, entities: LabelledEntities
) -> dict:
  """Returns how well scores follow grades: Spearman's rho, with intervals.

  Over all entities and within each class, where the class says nothing: a
  detector of the class alone has 0 there.
  """
  rho = {}
  for name, mine in (
    ('all', np.ones(len(entities), bool)),
    ('known', entities.known),
    ('unknown', ~entities.known),
  ):
    units = [
      (entities.type_of[i], entities.names[i]) for i in np.flatnonzero(mine)
    ]
    rho[name] = spearman(
      scores[mine], grades[mine], units, resamples=_RESAMPLES
    ).to_dict()
  return {'spearman': rho}


def _gathered(model, places, data, splits) -> dict:
  """(site, layer) -> split -> float32 [n, D], all layers of a site at once."""
  found = {place: {} for place in places}
  for site in dict.fromkeys(site for site, _ in places):
    layers = [layer for other, layer in places if other == site]
    for split in splits:
      x = gather(
        model,
        site,
        layers,
        data[split].rows,
        description=f'Gathering {split}',
      )
      for layer, vectors in zip(layers, x, strict=True):
        found[site, layer][split] = vectors
  return found


def _spread(found: Sequence[Mapping]) -> dict:
  """Returns the mean of several detectors with their range."""

  def of(each):
    values = [one['value'] for one in each]
    return each[0] | {
      'value': float(np.mean(values)),
      'low': min(values),
      'high': max(values),
    }

  return {
    'positive': found[0]['positive'],
    'types': {
      name: of([one['types'][name] for one in found])
      for name in found[0]['types']
    },
    'mean': of([one['mean'] for one in found]),
    'pooled': of([one['pooled'] for one in found]),
  }
