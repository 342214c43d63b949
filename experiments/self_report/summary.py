"""From replies to numbers: what each arm does to the model's self-report.

For each class of entities, and in it for each type and for 'all' types. Means
are over questions; what is independent of each other are entities, of which the
published questions repeat some. So intervals and tests take all questions about
an entity as one observation. Effects are paired: the same question under an arm
and under the original.
"""

from collections.abc import Hashable, Iterator, Mapping, Sequence
import math

import numpy as np
from scipy import special

from experiments.latents import CLASSES
from experiments.self_report.replies import Replies
from experiments.stats.curves import auroc
from experiments.stats.detection import auroc_by_cluster
from experiments.stats.intervals import (
  CONFIDENCE,
  Estimate,
  number_units,
  wilson_by_cluster,
)
from experiments.stats.paired import benjamini_hochberg
from experiments.steering import (
  EXPECTED,
  ORIGINAL,
  RANDOM_KINDS,
  RANDOM_LATENT,
  STEERED,
  SWEEP_KINDS,
  Arm,
  Question,
)

ALL = 'all'
# The two words must carry this much of the probability for what is read off
# them to be what the model would say.
LEAST_MASS = 0.5
# What is reported, each yes less no.
METRICS = {
  'logit': 'logit of yes less that of no, which is also the difference of '
  'their log-probabilities',
  'prob': 'probability of yes less that of no',
}


def expected(target: str) -> int:
  """Returns the sign of what adding a latent should do: 1 for 'known'."""
  return -EXPECTED[target]


def summarise(
  questions: Sequence[Question], arms: Sequence[Arm], replies: Replies
) -> dict:
  """Computes all numbers.

  Args:
    questions: Q questions.
    arms: A arms, the original first.
    replies: Replies of every arm to every question.

  Returns:
    'types'; 'asked': class -> scope -> n; 'entities': likewise, how many
    distinct ones these are about; 'mass': class -> the probability of
    yes and no together, of the original; 'says_yes': class -> scope -> the
    share of questions with yes above no, of the original; 'knows': metric ->
    scope -> the AUROC of the original's self-report for known against unknown;
    'arms', each with 'classes': class -> scope -> metric -> 'mean', 'sd' and,
    but for the original, 'effect' with p and q; 'controls': each target among
    its random arms.
  """
  cells = dict(_cells(questions))
  entities, _ = number_units([(q.type, q.entity) for q in questions])
  values = {name: replies.metric(name) for name in METRICS}  # [A, Q] each
  mass = replies.probabilities[0].sum(axis=-1)
  described = [
    arm.to_dict() | {'classes': _describe(number, arm, values, cells, entities)}
    for number, arm in enumerate(arms)
  ]
  _adjust(described)
  asked, distinct, says_yes = {}, {}, {}
  for (name, scope), at in cells.items():
    asked.setdefault(name, {})[scope] = len(at)
    distinct.setdefault(name, {})[scope] = len(set(entities[at]))
    says_yes.setdefault(name, {})[scope] = wilson_by_cluster(
      values['logit'][0, at] > 0, entities[at]
    ).to_dict()
  return {
    'types': sorted({q.type for q in questions}),
    'metrics': METRICS,
    'asked': asked,
    'entities': distinct,
    'mass': {
      name: mean(mass[at], entities[at])[0].to_dict()
      for (name, scope), at in cells.items()
      if scope == ALL
    },
    'says_yes': says_yes,
    'knows': {
      name: _knows(each[0], cells, entities) for name, each in values.items()
    },
    'arms': described,
    'controls': [
      entry
      for target in dict.fromkeys(a.target for a in arms if a.target)
      for kind in RANDOM_KINDS
      if (entry := _controls(arms, values, cells, entities, target, kind))
    ],
  }


def mean(
  values: np.ndarray, clusters: Sequence[Hashable] | None = None
) -> tuple[Estimate, float]:
  """Returns the mean with Student's interval, and the p-value of its being 0.

  Args:
    values: float [n].
    clusters: The cluster of each value; clusters are independent of each other.
      By default every value is a cluster. The error of the mean is from the
      sums of deviations of clusters, with one degree of freedom fewer than
      there are clusters (Liang and Zeger 1986): Student's, for clusters of one.
  """
  values = np.asarray(values, np.float64)
  value, n = float(np.mean(values)), len(values)
  which = np.arange(n) if clusters is None else number_units(clusters)[0]
  apart = np.bincount(which, weights=values - value)
  low = high = p = math.nan
  if len(apart) > 1:
    degrees = len(apart) - 1
    error = math.sqrt((apart**2).sum() * len(apart) / degrees) / n
    margin = special.stdtrit(degrees, (1 + CONFIDENCE) / 2) * error
    low, high = float(value - margin), float(value + margin)
    if error:
      p = float(2 * special.stdtr(degrees, -abs(value) / error))
    else:
      p = float(value == 0)
  return Estimate(value=value, low=low, high=high, n=n), p


def _cells(questions) -> Iterator[tuple[tuple[str, str], np.ndarray]]:
  """Yields (class, type or 'all') and the numbers of its questions."""
  classes = np.array([q.entity_class for q in questions])
  types = np.array([q.type for q in questions])
  for name in CLASSES:
    for scope in (*sorted(set(types)), ALL):
      chosen = (classes == name) & ((types == scope) | (scope == ALL))
      if chosen.any():
        yield (name, scope), np.flatnonzero(chosen)


def _describe(number, arm, values, cells, entities) -> dict:
  found = {}
  for (name, scope), at in cells.items():
    entry = found.setdefault(name, {}).setdefault(scope, {})
    for metric, all_arms in values.items():
      mine = all_arms[number, at]
      entry[metric] = {
        'mean': mean(mine, entities[at])[0].to_dict(),
        'sd': float(mine.std(ddof=1)) if len(mine) > 1 else None,
      }
      if arm.kind != ORIGINAL:
        effect, p = mean(mine - all_arms[0, at], entities[at])
        entry[metric]['effect'] = effect.to_dict() | {
          'p': p if math.isfinite(p) else None
        }
  return found


def _adjust(described):
  """Adds 'q' to effects: p-values of single types, of arms not random."""
  left_out = (*RANDOM_KINDS, *SWEEP_KINDS)
  for metric in METRICS:
    effects = [
      cell[metric]['effect']
      for arm in described
      if arm['kind'] not in left_out
      for scopes in arm['classes'].values()
      for scope, cell in scopes.items()
      if scope != ALL and 'effect' in cell[metric]
    ]
    adjusted = benjamini_hochberg([effect['p'] for effect in effects])
    for effect, q in zip(effects, adjusted, strict=True):
      effect['q'] = q


def _knows(values, cells, entities) -> dict:
  """Returns scope -> AUROC of the self-report, for known entities."""
  found = {}
  known, unknown = CLASSES
  for scope in dict.fromkeys(scope for _, scope in cells):
    if (known, scope) in cells and (unknown, scope) in cells:
      at = np.concatenate([cells[known, scope], cells[unknown, scope]])
      positive = np.arange(len(at)) < len(cells[known, scope])
      once = len(set(entities[at])) == len(at)
      found[scope] = (
        auroc(positive, values[at])
        if once
        else auroc_by_cluster(positive, values[at], entities[at])
      ).to_dict()
  return found


def _controls(arms, values, cells, entities, target, kind) -> dict | None:
  """Compares a latent with its random controls of a kind.

  p is the share of arms, the latent's own among them, that move the
  self-report at least as far in the expected direction.
  """
  random = [
    i for i, a in enumerate(arms) if a.target == target and a.kind == kind
  ]
  steered = [
    i for i, a in enumerate(arms) if a.target == target and a.kind == STEERED
  ]
  if not random or not steered:
    return None
  sign, (mine,) = expected(target), steered
  found = {'target': target, 'kind': kind, 'expected': sign, 'classes': {}}
  for (name, scope), at in cells.items():
    entry = found['classes'].setdefault(name, {}).setdefault(scope, {})
    for metric, all_arms in values.items():
      change = all_arms[:, at] - all_arms[0, at]  # [A, n]
      effects = change[random].mean(axis=1)
      effect = change[mine].mean()
      as_far = int((sign * effects >= sign * effect).sum())
      entry[metric] = {
        'n': len(at),
        'arms': len(random),
        'mean': float(effects.mean()),
        'sd': float(effects.std(ddof=1)) if len(random) > 1 else None,
        'low': float(effects.min()),
        'high': float(effects.max()),
        'effects': {
          arms[i].name: float(e) for i, e in zip(random, effects, strict=True)
        },
        'steered': float(effect),
        'rank': as_far + 1,
        'p': (as_far + 1) / (len(random) + 1),
        'excess': mean(
          change[mine] - change[random].mean(axis=0), entities[at]
        )[0].to_dict(),
      }
  return found


def difference(results: Mapping) -> str:
  """Returns the formula of what figures and summary show."""
  yes, no = (repr(results['wording'][word]) for word in ('yes', 'no'))
  function = {'logit': 'logit', 'prob': 'p'}[results['metric']]
  return f'{function}({yes}) - {function}({no})'


def sentences(results: Mapping) -> list[str]:
  """Says what was found, in sentences.

  Args:
    results: What `summarise` returned, with 'wording' and 'metric'.
  """
  yes, no = (repr(results['wording'][word]) for word in ('yes', 'no'))
  metric, lines = results['metric'], []
  for name, scopes in results['arms'][0]['classes'].items():
    found = scopes[ALL][metric]['mean']
    says = results['says_yes'][name][ALL]
    distinct = results['entities'][name][ALL]
    about = '' if distinct == found['n'] else f' about {distinct} of them'
    lines.append(
      f'Asked about {name} entities: {difference(results)} = '
      f'{_interval(found)}, n = '
      f'{found["n"]}{about}; {yes} above {no} for {says["value"]:.0%} '
      f'[{says["low"]:.0%}, {says["high"]:.0%}].'
    )
  if ALL in results['knows'][metric]:
    found = results['knows'][metric][ALL]
    lines.append(
      'Self-report tells known from unknown entities with AUROC '
      f'{_interval(found, 3)}.'
    )
    there = results.get('ordinary', {}).get('knows', {}).get(metric, {})
    if ALL in there:
      lines.append(
        'The same words after an ordinary question about them: AUROC '
        f'{_interval(there[ALL], 3)}. What they tell there is no self-report.'
      )
  for name, mass in results['mass'].items():
    lines.append(
      f'The two words have {mass["value"]:.2g} of the probability, asked about '
      f'{name} entities.'
    )
  if min(mass['value'] for mass in results['mass'].values()) < LEAST_MASS:
    lines.append(
      f'That is less than {LEAST_MASS:g}: this model would often say neither '
      'word, so this is no self-report, and effects on it are not reported '
      'here.'
    )
    return lines
  controls = {
    entry['target']: entry
    for entry in results['controls']
    if entry['kind'] == RANDOM_LATENT
  }
  for arm in results['arms']:
    if arm['kind'] != STEERED:
      continue
    target = arm['target']
    other = CLASSES[1 - CLASSES.index(target)]
    if other not in arm['classes']:
      continue
    effect = arm['classes'][other][ALL][metric]['effect']
    way = 'up' if expected(target) > 0 else 'down'
    line = (
      f'+ {target} latent, asked about {other} entities: change '
      f'{_interval(effect)} (expected {way})'
    )
    if target in controls:
      random = controls[target]['classes'][other][ALL][metric]
      line += (
        f'; {random["arms"]} random latents of the same norm: '
        f'{random["mean"]:.2f} ({random["low"]:.2f} to {random["high"]:.2f}), '
        f'p = {random["p"]:.3f}'
      )
    lines.append(line + '.')
  return lines


def _interval(found: Mapping, digits: int = 2) -> str:
  if found['low'] is None:
    return f'{found["value"]:.{digits}f}'
  return (
    f'{found["value"]:.{digits}f} [{found["low"]:.{digits}f}, '
    f'{found["high"]:.{digits}f}]'
  )
