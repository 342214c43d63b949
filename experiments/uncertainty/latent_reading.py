"""What the study takes from the model and from its answers.

Letters: n questions, D width of the site.
"""

from collections.abc import Iterator
import pathlib

import numpy as np

from experiments.activations import (
  HarvestRows,
  gather,
  read_sums,
  stream_scores,
  write_sums,
)
from experiments.latents import (
  ClassSums,
  Groups,
  LatentId,
  class_sums,
  promoted_tokens,
)
from experiments.runs.checksums import of_value
from experiments.runs.stages import stage
from experiments.uncertainty import error_detectors as lib
from experiments.uncertainty.answer_signals import answer_signals, error_rates
from experiments.uncertainty.asked_questions import TRIVIA
from experiments.uncertainty.latent_search import CLASS_OF


def sums_of_train(
  model, saes, rows: HarvestRows, table, types, options, folder, whose
) -> list[ClassSums]:
  """Returns sums of every SAE over the answers of train."""
  groups = Groups(types, ('train',))
  of_prompts = [
    groups.number(kind, CLASS_OF['error' if error else 'correct'])
    if split == 'train'
    else -1
    for kind, split, error in zip(
      table.types, table.splits, table.error, strict=True
    )
  ]
  of_rows = rows.groups(of_prompts)
  stream = lambda: stream_scores(
    model,
    saes,
    rows,
    of_rows,
    groups.count,
    batch_size=options.batch_size,
    description='Reading latents of train',
  )
  if folder is None:
    sums = stream()
  else:
    place = pathlib.Path(folder)
    read = [rows.texts, rows.positions.tolist(), of_rows.tolist()]
    digest = of_value(read)
    stage(
      place,
      {**(whose or {}), 'rows': digest, 'tokens': options.tokens},
      lambda to: write_sums(to / 'sums.safetensors', stream()),
    )
    sums = read_sums(place / 'sums.safetensors')
  return [class_sums(one, groups) for one in sums]


def read_stream(
  model, places, rows: HarvestRows, batch_size: int
) -> dict[tuple[str, int], np.ndarray]:
  """Returns (site, layer) -> float32 [n, D], the activations there."""
  found = {}
  for site in sorted({site for site, _ in places}):
    layers = sorted(layer for each, layer in places if each == site)
    every = gather(model, site, layers, rows, batch_size=batch_size)
    for layer, x in zip(layers, every, strict=True):
      found[site, layer] = x[rows.prompt_rows]
  return found


def stream_detectors(x, where, table, skipped) -> Iterator[lib.Detector]:
  """Yields detectors that read the stream where the best latent does."""
  train, validation = table.splits == 'train', table.splits == 'validation'
  yield lib.Detector(
    name=f'difference of means at {where}',
    kind=lib.MEANS,
    scores=lib.difference_of_means(x, table.error, train, table.types),
    where=where,
  )
  try:
    scores, about = lib.probe(x, table.error, train, validation, table.types)
  except ValueError as error:
    skipped.append(f'linear probe: {error}')
    return
  yield lib.Detector(
    name=f'linear probe at {where}',
    kind=lib.PROBE,
    scores=scores,
    where=where,
    about=about,
  )


def answer_detectors(kept, table, mode: str) -> Iterator[lib.Detector]:
  """Yields detectors that read answers, or nothing of the model."""
  answers = [part.answers[i] for part, i in kept]
  signals = answer_signals(table.asked, answers, mode)
  no_model = ('length of the question',)
  for name, scores in signals.items():
    kind = lib.NO_MODEL if name in no_model else lib.ANSWER
    yield lib.Detector(name=name, kind=kind, scores=scores)
  train = table.splits == 'train'
  if len({each.prompt_type for each in table.asked}) > 1:
    scores = error_rates(table.asked, table.error, train)
    scores[table.splits == TRIVIA] = np.nan  # it has no such types
    yield lib.Detector(
      name='error rate of what is asked', kind=lib.NO_MODEL, scores=scores
    )
  if all(part.p_refusal is not None for part, _ in kept):
    found = np.array([part.p_refusal[i] for part, i in kept])
    yield lib.Detector(name='P(refusal)', kind=lib.ANSWER, scores=found)
  if all(part.p_true is not None for part, _ in kept):
    found = np.array([part.p_true[i] for part, i in kept])
    yield lib.Detector(
      name='P(True)',
      kind=lib.P_TRUE,
      scores=1 - found[:, 0],
      probabilities=1 - found[:, 0],
      about={'mass_of_both_words': float(found[:, 1].mean())},
    )


def across_types(stream, table, cross, activation, skipped) -> dict:
  """Returns type -> kind -> scores of detectors made without that type.

  The probe and the difference of means read the stream where the latent does
  that was chosen on the others.
  """
  found = {}
  for name, latent in cross.items():
    x = stream[latent.id[:2]]
    others = (table.splits == 'train') & (table.types != name)
    validation = (table.splits == 'validation') & (table.types != name)
    mine = {
      lib.LATENT: activation[latent.id].astype(np.float64),
      lib.MEANS: lib.difference_of_means(x, table.error, others, table.types),
    }
    try:
      scores, _ = lib.probe(x, table.error, others, validation, table.types)
      mine[lib.PROBE] = scores
    except ValueError as error:
      skipped.append(f'linear probe without {name}: {error}')
    found[name] = mine
  return found


def promoted_by(model, tokenizer, sae_of, best: LatentId) -> dict | None:
  """Returns tokens that the best latent's decoder row raises.

  Returns None if the row is not of the stream.
  """
  row = np.asarray(sae_of[best[:2]].W_dec[...][best.latent], np.float32)
  if len(row) != model.config.d_model:
    return None
  return promoted_tokens(model, tokenizer, row)
