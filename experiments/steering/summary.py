"""From answers to numbers: what each arm does to refusals and to answers.

Every number is computed from the records of `outcomes.make_examples`, for each
class of entities, and in it for each type and for 'all' types.

The original is compared question by question: McNemar's test and Newcombe's
interval for exactly these questions, and an interval from resampling entities,
whose questions stand or fall together. `kl_matched.py` compares directions
where they move the model equally far.

A dose is *specific* where three things hold on the questions that it is to
change: adding the latent changes refusals by MIN_EFFECT or more, the opposite
sign does not change them in that direction (by SAME_SIGN of the effect at
most), and none of the random latents and directions of the same norm changes
them as far. Where none is, the result is that there is no specific dose.
"""

from collections.abc import Iterator, Mapping, Sequence
import dataclasses

import numpy as np

from experiments.latents import CLASSES
from experiments.stats.intervals import (
  bootstrap_mean,
  cluster_bootstrap_mean,
  wilson,
)
from experiments.stats.paired import (
  benjamini_hochberg,
  mcnemar,
  paired_difference,
)
from experiments.stats.resampling import crossed_bootstrap
from experiments.steering import arms as arms_lib
from experiments.steering.arms import Arm
from experiments.steering.divergence import MEASURES
from experiments.steering.doses import OPPOSITE
from experiments.steering.kl_matched import Resamples, compare
from experiments.steering.outcomes import OUTCOMES, REFUSAL, by_arm

ALL = 'all'
# What makes a dose specific; see above.
MIN_EFFECT, SAME_SIGN, SPECIFIC_P = 0.5, 0.1, 0.05


@dataclasses.dataclass(frozen=True)
class _Answers:
  """Holds the answers of one arm to Q questions.

  Attributes:
    outcomes: Q names.
    refused: bool [Q].
    reference: bool [Q], refusals by the published lists.
    kl, kl_first, kl_rest, log_refusal: float [Q], from divergence.py.
  """

  outcomes: np.ndarray
  refused: np.ndarray
  reference: np.ndarray
  kl: np.ndarray
  kl_first: np.ndarray
  kl_rest: np.ndarray
  log_refusal: np.ndarray


def summarise(
  arms: Sequence[Arm],
  examples: Sequence[Mapping],
  text: np.ndarray | None = None,
) -> dict:
  """Returns all numbers of a run.

  Args:
    arms: Arms of the run, the original first.
    examples: What `make_examples` made of their answers and divergences.
    text: Divergence of each arm on ordinary text, float [A, N], in nats per
      token; None if there is none.

  Returns:
    'types'; 'arms', each with its 'counts', the means of divergence.MEASURES
    and of 'text' and, unless it is random, its 'effects'; 'controls' at every
    dose; 'specificity'; 'dose_response'; and 'matched_kl'.
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
    for name in ('refused', *MEASURES)
  }  # [A, Q]
  measured['text'] = text
  divergences = {
    (name, entity_class): resamples.estimates(measured[name], entity_class)
    for name in MEASURES
    for entity_class in resamples.classes
  }
  described = []
  for number, arm in enumerate(arms):
    entry = arm.to_dict() | {'counts': {}, 'effects': {}}
    for (name, entity_class), estimates in divergences.items():
      found = estimates[number].to_dict()
      entry.setdefault(name, {})[entity_class] = found
    if text is not None:
      entry['text'] = bootstrap_mean(text[number]).to_dict()
    compared = arm.kind not in (
      arms_lib.ORIGINAL,
      *arms_lib.RANDOM_KINDS,
      *arms_lib.RANDOM_SWEEPS,
    )
    for (name, scope), at in cells.items():
      if scope != ALL and arm.kind in arms_lib.RANDOM_SWEEPS:
        continue
      mine = answers[arm.name]
      counts = _counts(mine, at) | {'entities': len(set(entities[at]))}
      entry['counts'].setdefault(name, {})[scope] = counts
      if compared:
        effect = _effect(original, mine, at, entities)
        entry['effects'].setdefault(name, {})[scope] = effect
    described.append(entry)
  _adjust(described)
  controls = [
    _controls(arms, answers, cells, entities, target, line, dose)
    for target in _targets(arms)
    for line in arms_lib.RANDOM_LINES
    for dose in _doses(arms, target, line)
  ]
  return {
    'types': sorted({e['type'] for e in asked}),
    'arms': described,
    'controls': controls,
    'specificity': [
      _specificity(controls, target) for target in _targets(arms)
    ],
    'dose_response': [
      _dose_response(arms, described, target) for target in _targets(arms)
    ],
    'matched_kl': compare(arms, measured, resamples),
  }


def _answers(records) -> _Answers:
  outcomes = np.array([record['outcome'] for record in records])
  reference = np.array([record['reference_refusal'] for record in records])
  measures = (
    np.array([record[name] for record in records], float) for name in MEASURES
  )
  return _Answers(outcomes, outcomes == REFUSAL, reference, *measures)


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


def _one(arms, target, kind) -> Arm:
  return next(a for a in arms if a.target == target and a.kind == kind)


def _at_dose(arms, target, line, dose) -> list[Arm]:
  """Returns the arms of a line at a dose, whatever its sign."""
  return [
    arm
    for arm in arms
    if arm.target == target
    and arm.kind in arms_lib.LINES[line]
    and abs(abs(arm.dose) - dose) < 1e-6
  ]


def _doses(arms, target, line) -> list[float]:
  """Returns the doses of a line, in order."""
  return sorted(
    {
      round(abs(arm.dose), 6)
      for arm in arms
      if arm.target == target and arm.kind in arms_lib.LINES[line]
    }
  )


def _controls(arms, answers, cells, entities, target, line, dose) -> dict:
  """Returns the latent among its random controls of a kind, at a dose.

  p is the share of arms, the latent's own among them, that move refusals at
  least as far in the expected direction: what a random one would reach. It is
  there for the latent and for its opposite, whose direction is the other one.
  """
  random = _at_dose(arms, target, line, dose)
  own = {
    'steered': _at_dose(arms, target, 'latent', dose)[0],
    'reversed': _at_dose(arms, target, 'wrong sign', dose)[0],
  }
  sign = arms_lib.EXPECTED[target]
  chosen = _one(arms, target, arms_lib.STEERED).dose
  found = {
    'target': target,
    'kind': arms_lib.LINES[line][0],
    'dose': dose,
    'chosen': abs(abs(chosen) - dose) < 1e-6,
    'expected': sign,
    'classes': {},
  }
  for (name, scope), at in cells.items():
    theirs = np.stack([answers[a.name].refused[at] for a in random])  # [C, n]
    rates = theirs.mean(axis=1)
    cell = {
      'n': len(at),
      'arms': len(random),
      'mean': float(rates.mean()),
      'sd': float(rates.std(ddof=1)) if len(random) > 1 else None,
      'low': float(rates.min()),
      'high': float(rates.max()),
      'before': float(answers[arms[0].name].refused[at].mean()),
    }
    if scope == ALL or found['chosen']:
      cell['rates'] = {
        arm.name: float(rate) for arm, rate in zip(random, rates, strict=True)
      }
    for key, towards in (('steered', sign), ('reversed', -sign)):
      mine = answers[own[key].name].refused[at]
      rate = mine.mean()
      as_far = int((towards * rates >= towards * rate - 1e-12).sum())
      cell[key] = float(rate)
      cell[f'{key}_rank'] = as_far + 1
      cell[f'{key}_p'] = (as_far + 1) / (len(random) + 1)
      cell[f'{key}_excess'] = crossed_bootstrap(
        mine - theirs.astype(float), entities[at]
      ).to_dict()
    found['classes'].setdefault(name, {})[scope] = cell
  return found


def _specificity(controls, target) -> dict:
  """Returns at which doses the latent's effect is its own; see the top.

  'doses' has, for each dose, the change of refusals by the latent and by its
  opposite on the questions that it is to change, the smallest p of its kind of
  control, and what holds.
  """
  sign = arms_lib.EXPECTED[target]
  asked_about = OPPOSITE[target]
  doses = {}
  for control in controls:
    if control['target'] != target or asked_about not in control['classes']:
      continue
    cell = control['classes'][asked_about][ALL]
    here = doses.setdefault(
      control['dose'],
      {
        'dose': control['dose'],
        'change': cell['steered'] - cell['before'],
        'reversed': cell['reversed'] - cell['before'],
        'p': {},
      },
    )
    here['p'][control['kind']] = cell['steered_p']
  for here in doses.values():
    effect = sign * here['change']
    here['sufficient'] = bool(effect >= MIN_EFFECT)
    here['sign_flips'] = bool(sign * here['reversed'] <= SAME_SIGN * effect)
    here['beyond_controls'] = bool(
      here['p'] and max(here['p'].values()) <= SPECIFIC_P
    )
    here['specific'] = (
      here['sufficient'] and here['sign_flips'] and here['beyond_controls']
    )
  specific = [dose for dose, here in sorted(doses.items()) if here['specific']]
  return {
    'target': target,
    'asked_about': asked_about,
    'specific_doses': specific,
    'smallest': specific[0] if specific else None,
    'doses': [here for _, here in sorted(doses.items())],
  }


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
        **{
          key: entries[name][key]
          for key in ('counts', *MEASURES, 'text')
          if key in entries[name]
        },
      }
      for dose, alpha, name in sorted(at)
    ]
  random = {
    (line, dose): [
      entries[arm.name] for arm in _at_dose(arms, target, line, dose)
    ]
    for line in arms_lib.RANDOM_LINES
    for dose in _doses(arms, target, line)
  }
  steered = _one(arms, target, arms_lib.STEERED)
  return {
    'target': target,
    'dose': steered.dose,
    'points': points,
    'random': [
      {
        'line': line,
        'dose': dose,
        'arms': len(many),
        'classes': {
          name: _spread([each['counts'][name][ALL] for each in many])
          for name in many[0]['counts']
        },
        'kl': {
          name: float(np.mean([each['kl'][name]['value'] for each in many]))
          for name in many[0]['kl']
        },
      }
      for (line, dose), many in sorted(random.items())
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
