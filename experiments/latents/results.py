"""Findings as they are kept: a plain dict for results.json, and arrays.

`to_results` gives, with every proportion, AUROC and p-value as a dict of value,
low, high (a 95 % interval) and n:

  settings      `AnalysisOptions`
  definitions   what the terms mean, in words
  types         names of entity types
  saes          [{site, layer, width}]
  entities      split -> type -> {known, unknown}: how many
  selection     {split, criterion, n, text_filter,
                unfiltered: {label: latent}}
  chosen        label -> [{id, site, layer, latent, label, score, scores:
                {type}, mean_score, mean_rank, text_frequency, tied,
                test: {types: {type: {known, unknown, separation}}, lowest},
                auroc: {positive, types, mean, pooled},
                meaning: {entities, promoted, suppressed, final_norm_gain}
                or None}], the best first
  criteria      criterion -> label -> the best latent by it: {id, score, tied,
                test, auroc: {mean, lowest}, mean_activation, null}
  candidates    label -> [{id, score, random}], the best latent of each SAE
  layers        label -> [{site, layer, types: {type: {mean, min, max, n}},
                maxmin, latent, null: {median, high} or None}]
  null          {label: {observed, p_value, null_median, null_95, null_max},
                num_permutations, seed} or None
  random        label -> {of, ids, pool, rule, frequency, frequencies, norm,
                norms}
  detectors     [{name, kind, site, layer, positive, types, mean, pooled,
                about}]
  norms         [{site, layer, value, n}], mean L2 norm of what each SAE reads
  examples      [{id, text, tokens, activations: {latent: [...]}}]
  warnings, skipped   sentences

`to_arrays` gives, for a safetensors file:

  test_active/SITE.LAYER      int32 [E, 2, F], entities of test that fire
  text_active/SITE.LAYER      int32 [F], positions of plain text, if any
  null_best/LABEL             float64 [P], best scores under shuffled labels
  null_layers/LABEL           float64 [P, S]
  test_type, test_known       int32 [n], bool [n]: the entities of test
  direction/DETECTOR          float32 [D], towards known
  activation/SITE.LAYER/LATENT  float32 [n], chosen latents at these
"""

from collections.abc import Mapping
import dataclasses
import os

import numpy as np
from safetensors.numpy import load_file

from experiments.latents.analysis import Findings
from experiments.latents.held_out_rates import firing_rates, mean_activations
from experiments.latents.labelled import CLASSES
from experiments.latents.scores import layer_curve
from gemma_jax.whole_files import save_tensors

DEFINITIONS = {
  'fires': 'a latent is above 1e-6 at the last token of the entity',
  'criterion': (
    'what latents are chosen by: the difference between the class means of '
    'whether a latent fires (frequency), of its activation in mean norms of '
    'the stream (mean_activation), or of its rank, which is 2 AUROC - 1 '
    '(auroc)'
  ),
  'separation': (
    'the share of entities of its own class on which a latent fires, less that '
    'of the other class'
  ),
  'score': (
    'the lowest difference over entity types by the criterion, on the selected '
    'split'
  ),
  'MaxMin': 'the highest score of all latents',
  'AUROC': (
    'of the activation, for the class in `positive`; the mean over types '
    'unless another one is named'
  ),
  'intervals': (
    '95 %, with entities as units: Wilson for shares, Newcombe for their '
    'differences, DeLong for AUROC'
  ),
  'p-value': (
    'the share of shuffled labels, real ones included, with which the best of '
    'all latents is at least as good'
  ),
}


def to_results(findings: Findings) -> dict:
  """Returns the dict for results.json; see the top of this file."""
  selection, criterion = findings.selection, findings.settings.criterion
  null = findings.nulls.get(criterion)
  types = findings.test[0].types
  auroc = {
    (d.about['label'], d.about['latent']): d.found
    for d in findings.detectors
    if d.kind == 'latent'
  }
  curves = {
    label: layer_curve(findings.chosen_on, findings.scores, label)
    for label in CLASSES
  }
  for label in CLASSES:
    for s, place in enumerate(curves[label]):
      place['null'] = None if null is None else null.band(label, s)
  return {
    'settings': dataclasses.asdict(findings.settings),
    'definitions': DEFINITIONS,
    'types': list(types),
    'saes': [
      {'site': one.site, 'layer': one.layer, 'width': one.width}
      for one in findings.test
    ],
    'entities': {
      split: {
        name: dict(zip(CLASSES, map(int, row), strict=True))
        for name, row in zip(types, counts, strict=True)
      }
      for split, counts in findings.entities.items()
    },
    'selection': {
      'split': selection.split,
      'criterion': criterion,
      'n': selection.n,
      'text_filter': dataclasses.asdict(selection.text_filter),
      'unfiltered': {
        label: {'id': str(best.id), 'score': best.score}
        for label, best in selection.unfiltered.items()
      },
    },
    'chosen': {
      label: [
        chosen.to_dict()
        | {
          'test': firing_rates(chosen.id, label, findings.test),
          'auroc': auroc[label, str(chosen.id)],
          'meaning': findings.meaning.get(str(chosen.id)),
        }
        for chosen in selection.of(label)
      ]
      for label in CLASSES
    },
    'criteria': {
      name: {
        label: _chosen_by(findings, name, label, auroc) for label in CLASSES
      }
      for name in findings.selections
    },
    'layers': curves,
    'null': None if null is None else null.to_dict(),
    'candidates': {
      label: [
        {'id': str(best.id), 'score': best.score, 'random': drawn.to_dict()}
        for best, drawn in of_label
      ]
      for label, of_label in findings.candidates.items()
    },
    'random': {label: r.to_dict() for label, r in findings.random.items()},
    'detectors': [detector.to_dict() for detector in findings.detectors],
    'norms': [
      {
        'site': one.site,
        'layer': one.layer,
        'value': float(one.norm_total.sum() / one.n.sum()),
        'n': int(one.n.sum()),
      }
      for one in findings.chosen_on
    ],
    'examples': list(findings.examples),
    'warnings': list(selection.warnings),
    'skipped': list(findings.skipped),
  }


def _chosen_by(findings: Findings, criterion: str, label: str, auroc) -> dict:
  """Returns the best latent of a criterion, its test, and the null."""
  best = findings.selections[criterion].of(label)[0]
  null = findings.nulls.get(criterion)
  found = auroc[label, str(best.id)]
  lowest = min(found['types'], key=lambda t: found['types'][t]['value'])
  return {
    'id': str(best.id),
    'score': best.score,
    'tied': best.tied,
    'test': firing_rates(best.id, label, findings.test),
    'auroc': {
      'mean': found['mean'],
      'lowest': found['types'][lowest] | {'type': lowest},
    },
    'mean_activation': mean_activations(best.id, findings.test),
    'null': None if null is None else null.to_dict()[label],
  }


def to_arrays(findings: Findings) -> dict[str, np.ndarray]:
  """Arrays for a safetensors file; see the top of this file."""
  arrays = {}
  for one in findings.test:
    name = f'{one.site}.{one.layer}'
    arrays[f'test_active/{name}'] = one.active.astype(np.int32)
    if one.text_n:
      arrays[f'text_active/{name}'] = one.text_active.astype(np.int32)
  null = findings.nulls.get(findings.settings.criterion)
  if null is not None:
    for label in CLASSES:
      arrays[f'null_best/{label}'] = null.null_best[label]
      arrays[f'null_layers/{label}'] = null.null[label]
  arrays['test_type'] = findings.test_entities.type_of.astype(np.int32)
  arrays['test_known'] = findings.test_entities.known
  for name, direction in findings.directions.items():
    arrays[f'direction/{name}'] = direction.astype(np.float32)
  for name, values in findings.activations.items():
    arrays[f'activation/{name}'] = values
  return arrays


def write_arrays(path: str | os.PathLike, arrays: Mapping[str, np.ndarray]):
  """Writes a safetensors file that is either the old one or the whole new."""
  save_tensors(path, arrays)


def read_arrays(path: str | os.PathLike) -> dict[str, np.ndarray]:
  """Returns what `write_arrays` wrote."""
  return load_file(path)
