"""The whole study: latents that predict errors, beside all other detectors."""

from collections.abc import Mapping, Sequence
import dataclasses
import os
from typing import Annotated

import numpy as np

from experiments.activations import latents_at_positions, make_rows
from experiments.entities.modes import is_reference
from experiments.latents import SPLITS, matched_random
from experiments.runs import Count, Seed, check_numbers, whole
from experiments.uncertainty import error_detectors as lib
from experiments.uncertainty.asked_questions import TRIVIA
from experiments.uncertainty.data import Data, counts_of, types_to_use
from experiments.uncertainty.latent_reading import (
  across_types,
  answer_detectors,
  promoted_by,
  read_stream,
  stream_detectors,
  sums_of_train,
)
from experiments.uncertainty.latent_search import CLASS_OF, choose
from experiments.uncertainty.summary import Table, summarise
import gemma_jax as gj
from sae.jumprelu import JumpReLUSAE


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchOptions:
  """Says how latents and other detectors are found.

  Attributes:
    tokens: Which token latents are read at; see `activations.make_rows`.
    mode: 'reference' balances classes by leaving questions out, and has the
      published probe.
    at_least: Errors, and correct answers, that a type needs in train. A t-test
      needs two of each.
    num_chosen: Latents of each label.
    num_random: Random latents beside the best one.
    batch_size: Prompts per run of the model.
    seed: Random seed of all draws.
  """

  tokens: str = 'model'
  mode: str = 'default'
  at_least: Annotated[int, whole(2)] = 5
  num_chosen: Count = 5
  num_random: Annotated[int, whole(0, 10_000)] = 20
  batch_size: Count = 64
  seed: Seed = 0

  def __post_init__(self):
    check_numbers(self)


def find(
  model: gj.Decoder,
  tokenizer: gj.Tokenizer,
  saes: Sequence[JumpReLUSAE],
  data: Data,
  options: SearchOptions,
  *,
  transfer: Data | None = None,
  folder: str | os.PathLike | None = None,
  identity: Mapping | None = None,
) -> tuple[dict, dict[str, np.ndarray]]:
  """Chooses latents on train, thresholds on validation, and tests on test.

  Args:
    model: The chat model.
    tokenizer: The model's tokenizer.
    saes: Whose latents are searched.
    data: Questions about entities, in three splits.
    options: How they are found.
    transfer: Other questions, which nothing is fitted on.
    folder: Where sums are kept, to go on from.
    identity: What tells model and SAEs apart, so that sums of others are not
      taken for theirs.

  Returns:
    Numbers for results.json; and arrays, a score per question and detector.

  Raises:
    ValueError: there are too few errors or correct answers, or the token is
      not in the questions.
  """
  types, left_out = types_to_use(data, options.at_least)
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
    tokens=options.tokens,
    chat=True,
    ids=[f'{each.type}/{each.id}' for each in asked],
  )
  read = rows.prompt_rows >= 0
  if not read.all():
    first = rows.dropped[0]
    raise ValueError(
      f'{len(rows.dropped)} of {len(asked)} questions cannot be read with '
      f'--tokens={options.tokens}: {first.reason}; the first is {first.id}. '
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
  rng = np.random.default_rng(options.seed)
  fits = {name: table.splits == name for name in SPLITS}
  if is_reference(options.mode):
    train = lib.balanced(table.error, fits['train'], rng)
    for name in ('validation', 'test'):
      fits[name] = lib.balanced(table.error, fits[name], rng)
  sums = sums_of_train(
    model, saes, rows, table, tuple(types), options, folder, identity
  )
  chosen = {
    label: choose(sums, label, options.num_chosen) for label in CLASS_OF
  }
  best = chosen['error'][0].id
  cross = {}
  if len(types) > 1:
    cross = {name: choose(sums, 'error', 1, without=name)[0] for name in types}
  sae_of = {(s.origin.site, s.origin.layer): s for s in saes}
  controls = None
  if options.num_random:
    decoder = np.asarray(sae_of[best[:2]].W_dec[...])
    # Nothing is known of whether they tell errors: that is what they are for.
    controls = matched_random(
      best,
      next(one for one in sums if one.where == best[:2]),
      count=options.num_random,
      seed=options.seed,
      separating=True,
      norms=np.linalg.norm(decoder, axis=1),
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
    batch_size=options.batch_size,
  )
  activation = dict(zip(ids, values[:, rows.prompt_rows], strict=True))
  places = {id[:2] for id in (best, *(f.id for f in cross.values()))}
  stream = read_stream(model, places, rows, options.batch_size)
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
  if is_reference(options.mode):
    made.append(
      lib.Detector(
        name=f'published probe at {where}',
        kind=lib.PROBE,
        scores=lib.published_probe(x, table.error, train),
        where=where,
      )
    )
  made += answer_detectors(kept, table, options.mode)
  results, arrays = summarise(
    table,
    fits,
    made,
    random={str(id): activation[id].astype(np.float64) for id in random_ids},
    cross=across_types(stream, table, cross, activation, skipped),
    seed=options.seed,
  )
  results = {
    'settings': dataclasses.asdict(options),
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
