"""Do entity-recognition latents fire on the same entities after tuning?

The SAEs are those of the base model, and read the untuned and the tuned model
at the last token of an entity's name. Beside chosen latents stand random ones
of the same SAE that fire as often; and a direction that needs no SAE, from the
mean of unknown to the mean of known entities, whose score is the projection.
Latents, controls and directions are found on training entities of the untuned
model, and compared on others.

Letters: n prompts, k readers (latents or directions), R resamples.
"""

from collections.abc import Mapping, Sequence
import dataclasses

import numpy as np

from experiments.activations import ACTIVE, latents_at_positions, stream_scores
from experiments.latents import (
  CLASSES,
  ClassSums,
  Groups,
  LatentId,
  class_sums,
  matched_random,
  select,
)
from experiments.refusal_tuning.asked import (
  Asked,
  check_classes,
  check_pair,
  streams,
)
from experiments.refusal_tuning.score_changes import (
  compare_scores,
  values_alone,
)
import gemma_jax as gj
from sae.jumprelu import JumpReLUSAE

# Random latents beside each chosen one.
CONTROLS = 10
_TYPE = 'entity'


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Found:
  """Latents that were chosen, and what they were chosen on.

  Attributes:
    latents: Label, 'known' or 'unknown', -> latents, best first.
    sums: What each SAE did on the training entities.
    warnings: What to say beside them.
  """

  latents: Mapping[str, Sequence[LatentId]]
  sums: Sequence[ClassSums]
  warnings: Sequence[str] = ()


def find_latents(
  model: gj.Decoder,
  saes: Mapping[int, JumpReLUSAE],
  train: Asked,
  *,
  latents: Mapping[str, Sequence[LatentId]] | None = None,
  count: int = 3,
  text: Sequence[Sequence[int]] = (),
) -> Found:
  """Chooses the latents that separate known from unknown entities best.

  Args:
    model: The untuned model, stacked.
    saes: Layer -> SAE of the base model.
    train: Prompts about training entities.
    latents: Label -> latents, where they were chosen before.
    count: How many of each label.
    text: Plain text, token ids; how often latents fire at each text's last
      token filters those out that are about no entity (`latents.select`).

  Raises:
    ValueError: there are no SAEs, or none for a latent that is given; or a
      class has too few entities.
  """
  rows, groups = (
    train.rows(train.name_ends),
    Groups(types=(_TYPE,), splits=('train',)),
  )
  of_rows = [
    groups.number(_TYPE, CLASSES[0 if known else 1]) for known in train.known
  ]
  summed = stream_scores(
    model,
    list(saes.values()),
    rows,
    of_rows,
    groups.count,
    description='Reading all latents',
  )
  on_text = [None] * len(summed)
  if len(text):
    on_text = stream_scores(
      model,
      list(saes.values()),
      _texts(text),
      np.zeros(len(text), int),
      1,
      description='Reading latents on plain text',
    )
  sums = [
    class_sums(each, groups, text=plain)
    for each, plain in zip(summed, on_text, strict=True)
  ]
  if latents is not None:
    places = {one.where for one in sums}
    for id in (id for ids in latents.values() for id in ids):
      if id[:2] not in places:
        raise ValueError(
          f'There is no SAE for {id}, only for {sorted(places)}.'
        )
    return Found(latents=latents, sums=sums)
  chosen = select(sums, k=count)
  return Found(
    latents={label: [one.id for one in chosen.of(label)] for label in CLASSES},
    sums=sums,
    warnings=chosen.warnings,
  )


def compare_latents(
  before: gj.Decoder,
  after: gj.Decoder,
  saes: Mapping[int, JumpReLUSAE],
  asked: Asked,
  found: Found,
  *,
  controls: int = CONTROLS,
  seed: int = 0,
) -> dict:
  """Compares what chosen latents do in two models, beside random ones.

  Args:
    before: The untuned model, stacked.
    after: The tuned one.
    saes: Layer -> SAE of the base model.
    asked: Prompts about entities that latents were not chosen on.
    found: From `find_latents`.
    controls: Random latents per chosen one.
    seed: Random seed of the controls and the resamples.

  Returns:
    'n', 'entities', 'warnings'; 'latents': see `compare_scores`, with 'name',
    'label', 'layer', and 'random': for each of its controls, which are as
    'random_note' says, the same but rates, as numbers alone. 'rank' is that of
    its AUROC after among theirs: 1 if none of them has one as high.

  Raises:
    ValueError: the models do not match, or a class is empty.
  """
  check_pair(before, after)
  sums = {one.where: one for one in found.sums}
  chosen = [(label, id) for label, ids in found.latents.items() for id in ids]
  random, notes = {}, {}
  for _, id in chosen:
    try:
      drawn = matched_random(
        id,
        sums[id[:2]],
        count=controls,
        seed=seed,
        exclude=[other for _, other in chosen],
      )
    except ValueError as error:
      random[id], notes[id] = (), str(error)
      continue
    random[id] = drawn.ids
    notes[id] = (
      'of the same layer and frequency'
      if drawn.rule == 'matched'
      else 'of the same layer, the nearest in frequency'
    )
  every = list(
    dict.fromkeys(
      [id for _, id in chosen] + [i for ids in random.values() for i in ids]
    )
  )
  readers = [(saes[id.layer], id.latent) for id in every]
  read = [
    dict(
      zip(
        every,
        latents_at_positions(
          model,
          readers,
          asked.rows(asked.name_ends),
          description=f'Reading chosen latents {name}',
        ),
        strict=True,
      )
    )
    for name, model in (('before', before), ('after', after))
  ]

  def compared(id, label, compare=compare_scores, **options):
    pair = [np.asarray(values[id], np.float64) for values in read]
    fires = [x > ACTIVE for x in pair]
    found = compare(*pair, asked, label, fires=fires, **options)
    return {'name': str(id), 'label': label, 'layer': id.layer} | found

  results = []
  for label, id in chosen:
    own = compared(id, label, seed=seed)
    own['random'] = [compared(each, label, values_alone) for each in random[id]]
    own['random_note'] = notes[id]
    own['rank'] = 1 + sum(
      other['auroc']['after'] >= own['auroc']['after']['value']
      for other in own['random']
    )
    results.append(own)
  return {
    'n': len(asked),
    'entities': len(set(asked.entities)),
    'latents': results,
    'warnings': list(found.warnings),
  }


def compare_directions(
  before: gj.Decoder,
  after: gj.Decoder,
  layers: Sequence[int],
  train: Asked,
  asked: Asked,
  *,
  seed: int = 0,
) -> list[dict]:
  """Compares projections on the untuned model's difference of means.

  A reader fires where its projection is above the middle between the means of
  the two classes of the untuned model.

  Args:
    before: The untuned model, stacked.
    after: The tuned one.
    layers: Layers of resid_post where the direction is found and read.
    train: Prompts about entities that it is found on.
    asked: Prompts about others.
    seed: Random seed of the resamples.

  Returns:
    For each layer what `compare_scores` gives, with 'name', 'label', 'layer'.

  Raises:
    ValueError: the models do not match, or a class is empty.
  """
  check_pair(before, after)
  check_classes(train, 'the training entities')
  learnt = streams(before, train, layers, train.name_ends)
  pair = [streams(m, asked, layers, asked.name_ends) for m in (before, after)]
  results = []
  for number, layer in enumerate(layers):
    known, unknown = (
      learnt[number][mine].mean(0, dtype=np.float64)
      for mine in (train.known, ~train.known)
    )
    direction = known - unknown
    middle = (known + unknown) / 2 @ direction
    scores = [x[number] @ direction for x in pair]
    results.append(
      {
        'name': f'difference of means, resid_post.{layer}',
        'label': 'known',
        'layer': layer,
      }
      | compare_scores(
        *scores, asked, 'known', fires=[x > middle for x in scores], seed=seed
      )
    )
  return results


def _texts(text: Sequence[Sequence[int]]):
  """Plain text as rows that are read at their last token."""
  n = len(text)
  whole = Asked(
    ids=tuple(map(tuple, text)),
    spans=np.array([[len(ids) - 1, len(ids)] for ids in text]),
    entities=tuple(map(str, range(n))),
    known=np.zeros(n, bool),
  )
  return whole.rows(whole.name_ends)
