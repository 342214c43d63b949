"""From knockouts per prompt to numbers per edges, heads and window.

Every number compares a prompt with itself, cut and uncut. Units are entities:
intervals resample them, and the test flips their signs, max-T over all cells of
a study's class together. A share has an interval of another kind where no
resample would differ, all prompts doing the same: Wilson's, Newcombe's for a
difference, of so many units.

With the entity cut off in all layers and heads, prompts that differ only in a
name, of as many tokens, are one computation. Where the same is wanted of all
prompts, as of refusals, what those say after counts once; where it is a fact,
entities decide which of them happen to be right.
"""

from collections.abc import Sequence

import numpy as np
from scipy import stats

from experiments.attention.edges import places, without_entity
from experiments.attention.knockout_runs import Study
from experiments.attention.windows import ALL, FROM
from experiments.latents import CLASSES
from experiments.stats.intervals import wilson
from experiments.stats.multiplicity import max_t_permutation
from experiments.stats.paired import benjamini_hochberg, paired_difference
from experiments.stats.resampling import (
  cluster_bootstrap_means,
  first_of_units,
  mean_by_unit,
)

# Where latents are measured, in the order of Sweep.latents.
PLACES = ('entity_last', 'last')
# A window matters if it costs this share of what cutting everywhere costs.
SHARE = 0.1


def summarise(study: Study, latents: Sequence[str], *, seed: int = 0) -> dict:
  """Returns all numbers of a study.

  Args:
    study: What was run.
    latents: Names of the k latents.
    seed: Random seed of resamples and permutations.

  Returns:
    'uncut', per class; 'effects', one entry per edges, heads, window and class;
    'tests', per class; 'read_out', from which layer on edges are no longer
    needed.
  """
  classes = np.array([case.entity_class for case in study.cases])
  result = {'uncut': {}, 'tests': {}, 'effects': []}
  for name in CLASSES:
    at = np.flatnonzero(classes == name)
    if not len(at):
      continue
    units = [study.cases[i].unit for i in at]
    result['uncut'][name] = _uncut(study, at, units, latents, seed)
    effects, tests = _effects(study, at, units, latents, seed)
    result['tests'][name] = tests
    result['effects'] += [{'class': name, **effect} for effect in effects]
  result['read_out'] = read_out(result['effects'])
  return result


def read_out(effects: Sequence[dict]) -> list[dict]:
  """Finds up to which layer edges are read, from windows 'from' a layer on.

  Per edges and class the last layer such that cutting all heads from it on
  still changes the probability by SHARE of what cutting all layers does; None
  if there is no such change to speak of (below .02).
  """
  curves = {}
  for effect in effects:
    if effect['width'] == FROM and effect['heads'] == ALL:
      curve = curves.setdefault((effect['edges'], effect['class']), {})
      curve[effect['centre']] = effect
  found = []
  for (edges, name), curve in curves.items():
    size = {i: e['probability']['value'] for i, e in curve.items()}
    whole = size[0]
    layers = [i for i, v in size.items() if abs(v) >= SHARE * abs(whole)]
    found.append(
      {
        'edges': edges,
        'class': name,
        'all_layers': whole,
        'says_after': curve[0]['says_after'],
        'last_layer': max(layers) if abs(whole) >= 0.02 else None,
      }
    )
  return found


def commonest_answer(study: Study) -> float:
  """Returns how often the commonest first token of a type's answers is right.

  A model that has lost the entity reaches that at best. It is too high where
  there are few prompts of a type.
  """
  counts = {}
  for case in study.cases:
    of_type = counts.setdefault(case.prompt_type, {})
    for token in case.answer_tokens:
      of_type[token] = of_type.get(token, 0) + 1
  best = sum(max(each.values(), default=0) for each in counts.values())
  return best / len(study.cases)


def _uncut(study, at, units, latents, seed) -> dict:
  sweep = study.sweep
  probability = np.exp(sweep.log_prob[0, at, 0])[:, None]
  says = sweep.says[0, at, 0]
  # Rows that run the entity's last token again know the latents there.
  values = sweep.latents[0, at]  # [n, R, 2, k]
  row = np.isfinite(values[:, :, 0]).all(axis=(0, 2)).argmax()
  return {
    'n': len(at),
    'probability': _means(probability, units, seed)[0],
    'says': _shares(says[:, None], units, seed)[0],
    'latents': {
      name: {
        place: None
        if np.isnan(values[:, row, p, i]).any()
        else _means(values[:, row, p, i][:, None], units, seed)[0]
        for p, place in enumerate(PLACES)
      }
      for i, name in enumerate(latents)
    },
  }


def _effects(study, at, units, latents, seed):
  """Returns effects of all windows and rows on one class, and their test."""
  sweep = study.sweep
  cells = [
    (w, r)
    for r, (_, heads) in enumerate(study.rows)
    for w, window in enumerate(study.windows)
    if (window.layers[:, None] & heads.heads).any()
  ]
  ws, rs = np.array(cells).T
  p = np.exp(sweep.log_prob[:, at].astype(float))  # [1 + W, n, R]
  change = p[ws + 1, :, rs].T - p[0][:, rs]  # [n, cells]
  means = _means(change, units, seed)
  by_unit = mean_by_unit(change, units)[0]
  tests, p_max, q = {}, [None] * len(cells), [None] * len(cells)
  if len(by_unit) > 1 and np.ptp(by_unit, axis=0).any():
    varies = np.ptp(by_unit, axis=0) > 0
    tested = np.where(varies, by_unit, np.nan)
    test = max_t_permutation(tested, seed=seed)
    tests = test.to_dict()
    p_max = [float(x) if np.isfinite(x) else None for x in test.p_adjusted]
    with np.errstate(all='ignore'):
      p_values = stats.ttest_1samp(tested, 0.0).pvalue
    q = benjamini_hochberg(
      [float(x) if np.isfinite(x) else None for x in p_values]
    )
  after = sweep.latents[:, at][ws + 1, :, rs].swapaxes(0, 1)
  moved = after - sweep.latents[0, at][:, rs]  # [n, cells, 2, k]
  of_latents = {
    (i, p): _means(moved[:, :, p, i], units, seed)
    for i in range(len(latents))
    for p in range(len(PLACES))
  }
  before, says = sweep.says[0, at][:, rs], sweep.says[:, at][ws + 1, :, rs].T
  gains, shares = _gains(before, says, units, seed), _shares(says, units, seed)
  if len({tuple(study.wanted[i]) for i in at}) == 1:
    once = first_of_units([without_entity(study.cases[i]) for i in at])
    for c, (w, r) in enumerate(cells):
      if _is_blind(study, at, w, r):
        (shares[c],) = _shares(says[once, c : c + 1], range(len(once)), seed)
  effects = []
  for c, (w, r) in enumerate(cells):
    edges, heads = study.rows[r]
    window = study.windows[w]
    effects.append(
      {
        'edges': str(edges),
        'heads': heads.name,
        'width': window.width,
        'centre': window.centre,
        'layers': [window.first, int(np.flatnonzero(window.layers)[-1])],
        'probability': means[c],
        'p_max_t': p_max[c],
        'q': q[c],
        'says': gains[c],
        'says_after': shares[c],
        'latents': {
          name: {
            place: of_latents[i, p][c]
            for p, place in enumerate(PLACES)
            if of_latents[i, p][c] is not None
          }
          for i, name in enumerate(latents)
        },
      }
    )
  return effects, tests


def _is_blind(study, at, w, r) -> bool:
  """Returns True if no token after the entity sees it, in any layer or head."""
  edges, heads = study.rows[r]
  if not (study.windows[w].layers[:, None] & heads.heads).all():
    return False
  for case in (study.cases[i] for i in at):
    start, stop = case.span
    if not places(edges.queries, case)[stop:].all():
      return False
    if not places(edges.keys, case)[start:stop].all():
      return False
  return True


def _shares(yes: np.ndarray, units: Sequence, seed: int) -> list[dict]:
  """Returns the share of True in each column of bool [n, m]."""
  once, found = first_of_units(units), _means(yes, units, seed)
  for i in _alike(yes, once):
    found[i] = wilson(int(yes[once, i].sum()), len(once)).to_dict()
  return found


def _gains(before, after, units: Sequence, seed: int) -> list[dict]:
  """Returns how much larger that share is after than before."""
  change = after.astype(int) - before
  once, found = first_of_units(units), _means(change, units, seed)
  for i in _alike(change, once):
    found[i] = paired_difference(before[once, i], after[once, i]).to_dict()
  return found


def _alike(values: np.ndarray, once: np.ndarray) -> np.ndarray:
  """Returns columns with one value; all of them, if every row is a unit."""
  whole = len(once) == len(values)
  return np.flatnonzero((values == values[:1]).all(axis=0) | whole)


def _means(values: np.ndarray, units: Sequence, seed: int) -> list:
  """Returns the columns' means, as dicts; None where a value is missing."""
  whole = np.isfinite(values).all(axis=0)
  found = iter(cluster_bootstrap_means(values[:, whole], units, seed))
  return [next(found).to_dict() if ok else None for ok in whole]
