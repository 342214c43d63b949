"""From answers to numbers: what each arm does to refusals and to answers.

Every number is computed from the records of `outcomes.make_examples`, for each
class of entities, and in it for each type and for 'all' types.

The original is compared question by question: McNemar's test and Newcombe's
interval for exactly these questions, and an interval from resampling entities,
whose questions stand or fall together. `kl_matched.py` compares directions
where they move the model equally far.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses

import numpy as np

from experiments.latents import CLASSES
from experiments.stats.intervals import cluster_bootstrap_mean, wilson
from experiments.stats.paired import (
  benjamini_hochberg,
  mcnemar,
  paired_difference,
)
from experiments.steering import arms as arms_lib
from experiments.steering.arms import Arm
from experiments.steering.kl_matched import Resamples, compare
from experiments.steering.outcomes import OUTCOMES, REFUSAL, by_arm

ALL = 'all'


@dataclasses.dataclass(frozen=True)
class _Answers:
  """Holds the answers of one arm to Q questions.

  Attributes:
    outcomes: Q names.
    refused: bool [Q].
    reference: bool [Q], refusals by the published lists.
    kl, kl_first: float [Q], divergence from the original (divergence.py).
  """

  outcomes: np.ndarray
  refused: np.ndarray
  reference: np.ndarray
  kl: np.ndarray
  kl_first: np.ndarray


def summarise(arms: Sequence[Arm], examples: Sequence[Mapping]) -> dict:
  """Returns all numbers of a run.

  Args:
    arms: Arms of the run, the original first.
    examples: What `make_examples` made of their answers and divergences.

  Returns:
    'types'; 'arms', each with its 'counts', its 'kl' and 'kl_first' and, unless
    it is random, its 'effects'; 'controls'; 'dose_response'; and 'matched_kl'.
  """
  records = by_arm(examples)
  asked = records[arms[0].name]
  answers = {name: _answers(each) for name, each in records.items()}
  cells = dict(_cells(asked))
  entities = np.array([f'{e["type"]}/{e["entity"]}' for e in asked])
  original = answers[arms[0].name]
  resamples = Resamples([e['class'] for e in asked], entities)
  in_order = [answers[arm.name] for arm in arms]
  measured = {
    name: np.stack([getattr(each, name) for each in in_order])
    for name in ('refused', 'kl', 'kl_first')
  }  # [A, Q]
  divergences = {
    (name, entity_class): resamples.estimates(measured[name], entity_class)
    for name in ('kl', 'kl_first')
    for entity_class in resamples.classes
  }
  described = []
  for number, arm in enumerate(arms):
    entry = arm.to_dict() | {'counts': {}, 'effects': {}}
    for (name, entity_class), estimates in divergences.items():
      found = estimates[number].to_dict()
      entry.setdefault(name, {})[entity_class] = found
    compared = arm.kind not in (
      arms_lib.ORIGINAL,
      *arms_lib.RANDOM_KINDS,
      *arms_lib.RANDOM_SWEEPS,
    )
    for (name, scope), at in cells.items():
      mine = answers[arm.name]
      counts = _counts(mine, at) | {'entities': len(set(entities[at]))}
      entry['counts'].setdefault(name, {})[scope] = counts
      if compared:
        effect = _effect(original, mine, at, entities)
        entry['effects'].setdefault(name, {})[scope] = effect
    described.append(entry)
  _adjust(described)
  return {
    'types': sorted({e['type'] for e in asked}),
    'arms': described,
    'controls': [
      entry
      for target in _targets(arms)
      for kind in arms_lib.RANDOM_KINDS
      if (entry := _controls(arms, answers, cells, entities, target, kind))
    ],
    'dose_response': [
      _dose_response(arms, described, target) for target in _targets(arms)
    ],
    'matched_kl': compare(arms, measured['refused'], measured['kl'], resamples),
  }


def _answers(records) -> _Answers:
  outcomes = np.array([record['outcome'] for record in records])
  reference = np.array([record['reference_refusal'] for record in records])
  kl, kl_first = (
    np.array([record[name] for record in records])
    for name in ('kl', 'kl_first')
  )
  return _Answers(outcomes, outcomes == REFUSAL, reference, kl, kl_first)


def _cells(asked) -> Iterator[tuple[tuple[str, str], np.ndarray]]:
  """(class, type or 'all') and the numbers of its questions."""
  classes = np.array([example['class'] for example in asked])
  types = np.array([example['type'] for example in asked])
  for name in CLASSES:
    for scope in (*sorted(set(types)), ALL):
      chosen = (classes == name) & ((types == scope) | (scope == ALL))
      if chosen.any():
        yield (name, scope), np.flatnonzero(chosen)


def _counts(mine: _Answers, at) -> dict:
  """Returns how many of each outcome, with Wilson's intervals of the shares."""
  shares = {name: mine.outcomes[at] == name for name in OUTCOMES}
  shares['reference_refusal'] = mine.reference[at]
  return {'n': len(at)} | {
    name: {'count': int(each.sum())} | wilson(each.sum(), len(at)).to_dict()
    for name, each in shares.items()
  }


def _effect(before: _Answers, after: _Answers, at, entities) -> dict:
  """Returns what changed: all shares, and the test of refusals."""
  differences = {
    name: paired_difference(
      before.outcomes[at] == name, after.outcomes[at] == name
    ).to_dict()
    for name in OUTCOMES
  }
  before, after = before.refused[at], after.refused[at]
  change = after.astype(float) - before
  return {
    'differences': differences,
    'by_entity': cluster_bootstrap_mean(change, entities[at]).to_dict(),
    **mcnemar(before, after).to_dict(),
  }


def _adjust(described):
  """Adds 'q' to effects: p-values of single types, all arms, adjusted."""
  effects = [
    effect
    for entry in described
    if entry['kind'] not in arms_lib.SWEEP_KINDS
    for scopes in entry['effects'].values()
    for scope, effect in scopes.items()
    if scope != ALL
  ]
  adjusted = benjamini_hochberg([effect['p'] for effect in effects])
  for effect, q in zip(effects, adjusted, strict=True):
    effect['q'] = q


def _targets(arms) -> list[str]:
  return [arm.target for arm in arms if arm.kind == arms_lib.STEERED]


def _one(arms, target, kind) -> Arm | None:
  found = [a for a in arms if a.target == target and a.kind == kind]
  return found[0] if found else None


def _controls(arms, answers, cells, entities, target, kind) -> dict | None:
  """Returns the latent among its random controls of a kind.

  p is the share of arms, the latent's own among them, that move refusals at
  least as far in the expected direction: what a random one would reach.
  """
  random = [a for a in arms if a.target == target and a.kind == kind]
  if not random:
    return None
  steered = _one(arms, target, arms_lib.STEERED)
  sign = arms_lib.EXPECTED[target]
  found = {'target': target, 'kind': kind, 'expected': sign, 'classes': {}}
  for (name, scope), at in cells.items():
    mine = answers[steered.name].refused[at]
    theirs = np.stack([answers[a.name].refused[at] for a in random])  # [R, n]
    rates, rate = theirs.mean(axis=1), mine.mean()
    as_far = int((sign * rates >= sign * rate - 1e-12).sum())
    found['classes'].setdefault(name, {})[scope] = {
      'n': len(at),
      'arms': len(random),
      'mean': float(rates.mean()),
      'sd': float(rates.std(ddof=1)) if len(random) > 1 else None,
      'low': float(rates.min()),
      'high': float(rates.max()),
      'rates': {a.name: float(r) for a, r in zip(random, rates, strict=True)},
      'steered': float(rate),
      'rank': as_far + 1,
      'p': (as_far + 1) / (len(random) + 1),
      'excess': cluster_bootstrap_mean(
        mine - theirs.mean(axis=0), entities[at]
      ).to_dict(),
    }
  return found


def _dose_response(arms, described, target) -> dict:
  """Outcomes against dose, of the target and of what is swept beside it."""
  entries = {entry['name']: entry for entry in described}
  original = arms[0].name
  lines = arms_lib.LINES
  points = []
  for line, kinds in (
    ('latent', lines['latent'] + lines['wrong sign']),
    ('mean difference', lines['mean difference']),
  ):
    swept = [a for a in arms if a.target == target and a.kind in kinds]
    if not swept:
      continue
    at = [(0.0, 0.0, original)]
    at += [(a.dose, a.coefficient, a.name) for a in swept]
    points += [
      {
        'line': line,
        'dose': dose,
        'alpha': alpha,
        'counts': entries[name]['counts'],
        'kl': entries[name]['kl'],
      }
      for dose, alpha, name in sorted(at)
    ]
  # The same latents at every dose, so that points differ by dose alone.
  kinds = lines['random latents']
  mine = [a for a in arms if a.target == target and a.kind in kinds]
  swept = {
    a.direction.tobytes() for a in mine if a.kind == arms_lib.SWEEP_RANDOM
  }
  random = {}
  for arm in mine:
    if not swept or arm.direction.tobytes() in swept:
      random.setdefault(arm.dose, []).append(entries[arm.name])
  steered = _one(arms, target, arms_lib.STEERED)
  return {
    'target': target,
    'dose': steered.dose,
    'points': points,
    'random': [
      {
        'dose': dose,
        'arms': len(many),
        'classes': {
          name: {
            scope: _spread([each['counts'][name][scope] for each in many])
            for scope in scopes
          }
          for name, scopes in many[0]['counts'].items()
        },
        'kl': {
          name: float(np.mean([each['kl'][name]['value'] for each in many]))
          for name in many[0]['kl']
        },
      }
      for dose, many in sorted(random.items())
    ],
  }


def _spread(cells) -> dict:
  rates = [cell[REFUSAL]['value'] for cell in cells]
  return {
    'mean': float(np.mean(rates)),
    'low': min(rates),
    'high': max(rates),
    'n': cells[0]['n'],
  }
