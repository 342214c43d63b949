"""The whole study: latents that predict errors, beside all other detectors."""

from collections.abc import Mapping, Sequence
import dataclasses
import os

import numpy as np

from experiments.activations import latents_at_positions, make_rows
from experiments.entities.modes import is_reference
from experiments.latents import SPLITS, matched_random
from experiments.uncertainty import detectors as lib
from experiments.uncertainty.data import Data, counts_of, types_to_use
from experiments.uncertainty.questions import TRIVIA
from experiments.uncertainty.reading import (
  across_types,
  answer_detectors,
  promoted_by,
  read_stream,
  stream_detectors,
  sums_of_train,
)
from experiments.uncertainty.selection import CLASS_OF, choose
from experiments.uncertainty.summary import Table, summarise
import gemma_jax as gj
from sae.jumprelu import JumpReLUSAE


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
  """What does not depend on model and questions.

  Attributes:
    tokens: Which token latents are read at; see `harvesting/choices.py`.
    mode: 'reference' balances classes by leaving questions out, and has the
      published probe.
    at_least: Errors, and correct answers, that a type needs in train.
    num_chosen: Latents of each label.
    num_random: Random latents beside the best one.
    batch_size: Prompts per run of the model.
    seed: Of all draws.
  """

  tokens: str = 'model'
  mode: str = 'default'
  at_least: int = 5
  num_chosen: int = 5
  num_random: int = 20
  batch_size: int = 64
  seed: int = 0

  def __post_init__(self):
    is_reference(self.mode)
    if self.at_least < 2 or self.num_chosen < 1:
      raise ValueError(
        f'at_least={self.at_least} and num_chosen={self.num_chosen} must be 2 '
        'and 1 at least: a t-test needs two of each.'
      )


def find(
  model: gj.Decoder,
  tokenizer: gj.Tokenizer,
  saes: Sequence[JumpReLUSAE],
  data: Data,
  settings: Settings,
  *,
  transfer: Data | None = None,
  folder: str | os.PathLike | None = None,
  identity: Mapping | None = None,
) -> tuple[dict, dict[str, np.ndarray]]:
  """Chooses latents on train, thresholds on validation, and tests on test.

  Args:
    model: The chat model.
    tokenizer: Its.
    saes: Whose latents are searched.
    data: Questions about entities, in three splits.
    settings: See there.
    transfer: Other questions, which nothing is fitted on.
    folder: Where sums are kept, to go on from.
    identity: Of model and SAEs, so that others' sums are not taken for theirs.

  Returns:
    Numbers for results.json; and arrays, a score per question and detector.

  Raises:
    ValueError: there are too few errors or correct answers, or the token is
      not in the questions.
  """
  types, left_out = types_to_use(data, settings.at_least)
  parts = [data] if transfer is None else [data, transfer]
  if any(part.asked and not part.judged.used.any() for part in parts):
    raise ValueError('The model declined every question of a file.')
  kept = [
    (part, i)
    for part in parts
    for i in np.flatnonzero(part.judged.used)
    if part is transfer or part.asked[i].type in types
  ]
  asked = [part.asked[i] for part, i in kept]
  rows = make_rows(
    tokenizer,
    [each.prompt for each in asked],
    tokens=settings.tokens,
    chat=True,
    ids=[f'{each.type}/{each.id}' for each in asked],
  )
  read = rows.prompt_rows >= 0
  if not read.all():
    first = rows.dropped[0]
    raise ValueError(
      f'{len(rows.dropped)} of {len(asked)} questions cannot be read with '
      f'--tokens={settings.tokens}: {first.reason}; the first is {first.id}. '
      'Choose another token.'
    )
  table = Table(
    asked=asked,
    types=np.array([each.type for each in asked]),
    splits=np.array(
      [TRIVIA if part is transfer else part.asked[i].split for part, i in kept]
    ),
    groups=np.array([part.judged.group[i] for part, i in kept]),
    error=np.array([part.judged.error[i] for part, i in kept]),
    clusters=[each.cluster for each in asked],
  )
  rng = np.random.default_rng(settings.seed)
  fits = {name: table.splits == name for name in SPLITS}
  if is_reference(settings.mode):
    train = lib.balanced(table.error, fits['train'], rng)
    for name in ('validation', 'test'):
      fits[name] = lib.balanced(table.error, fits[name], rng)
  sums = sums_of_train(
    model, saes, rows, table, tuple(types), settings, folder, identity
  )
  chosen = {
    label: choose(sums, label, settings.num_chosen) for label in CLASS_OF
  }
  best = chosen['error'][0].id
  cross = {}
  if len(types) > 1:
    cross = {name: choose(sums, 'error', 1, without=name)[0] for name in types}
  sae_of = {(s.origin.site, s.origin.layer): s for s in saes}
  controls = None
  if settings.num_random:
    decoder = np.asarray(sae_of[best[:2]].W_dec[...])
    # Nothing is known of whether they tell errors: that is what they are for.
    controls = matched_random(
      best,
      next(one for one in sums if one.where == best[:2]),
      count=settings.num_random,
      seed=settings.seed,
      norms=np.linalg.norm(decoder, axis=1),
      max_score=None,
      odds=True,
    )
  random_ids = list(controls.ids) if controls else []
  ids = list(
    dict.fromkeys(
      [f.id for each in chosen.values() for f in each]
      + [f.id for f in cross.values()]
      + random_ids
    )
  )
  values = latents_at_positions(
    model,
    [(sae_of[id[:2]], id.latent) for id in ids],
    rows,
    batch_size=settings.batch_size,
  )
  activation = dict(zip(ids, values[:, rows.prompt_rows], strict=True))
  places = {id[:2] for id in (best, *(f.id for f in cross.values()))}
  stream = read_stream(model, places, rows, settings.batch_size)
  x = stream[best[:2]]
  where = f'{best.site}.{best.layer}'
  made = [
    lib.Detector(
      name=f'{label} latent {found.id}',
      kind=lib.LATENT,
      scores=(1 if label == 'error' else -1)
      * activation[found.id].astype(np.float64),
      where=f'{found.id.site}.{found.id.layer}',
      about=found.to_dict(),
    )
    for label, few in (('error', 3), ('correct', 1))
    for found in chosen[label][:few]
  ]
  skipped = []
  made += stream_detectors(x, where, table, skipped)
  if is_reference(settings.mode):
    made.append(
      lib.Detector(
        name=f'published probe at {where}',
        kind=lib.PROBE,
        scores=lib.published_probe(x, table.error, train),
        where=where,
      )
    )
  made += answer_detectors(kept, table, settings)
  results, arrays = summarise(
    table,
    fits,
    made,
    random={str(id): activation[id].astype(np.float64) for id in random_ids},
    cross=across_types(stream, table, cross, activation, skipped),
    seed=settings.seed,
  )
  results = {
    'settings': dataclasses.asdict(settings),
    'types': types,
    'left_out': left_out,
    'skipped': skipped,
    'counts': counts_of(data),
    'transfer_counts': None if transfer is None else counts_of(transfer),
    'saes': [f'{s.origin.site}.{s.origin.layer}' for s in saes],
    'chosen': {
      label: [found.to_dict() for found in each]
      for label, each in chosen.items()
    },
    'cross_type': {name: found.to_dict() for name, found in cross.items()},
    'controls': controls and controls.to_dict(),
    'promoted': promoted_by(model, tokenizer, sae_of, best),
    **results,
  }
  arrays['activation'] = np.stack([activation[f.id] for f in chosen['error']])
  return results, arrays
