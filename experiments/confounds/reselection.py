"""The whole selection again: with shuffled labels, and on other splits.

Shuffled labels: known and unknown are shuffled within each type, in all splits;
the best latent of each label is selected on train, and its separation measured
on test, against the shuffled labels. A search that finds something there finds
it in noise. Beside it stands `latents.permutation`, whose p-value compares the
scores on train.

Other splits: new random halves of all entities; which latents are among the
best k, and how well the best one does on entities that it was not selected on.

Letters: S SAEs, n entities, E types, F latents, k the best.
"""

from collections.abc import Sequence
import itertools
import math

import numpy as np
import tqdm

from experiments.latents import (
  CLASSES,
  Firing,
  LabelledEntities,
  LatentId,
  difference,
  rank,
)
from experiments.stats.intervals import Estimate, wilson


def lowest_scores(
  firing: Firing,
  entities: LabelledEntities,
  known: np.ndarray,
  use: np.ndarray,
) -> np.ndarray:
  """Returns float64 [2, F], the lowest separation over types.

  The first row is of known, the second of unknown entities.

  Args:
    firing: Where latents of one SAE fire; rows are the entities.
    entities: n of them, whose own labels do not matter.
    known: bool [n], the labels.
    use: bool [n], which entities count.

  Raises:
    ValueError: a class of a type is empty.
  """
  best = None
  for e, name in enumerate(entities.types):
    mine = use & (entities.type_of == e)
    sides = np.stack([mine & known, mine & ~known])
    k, u = sides.sum(axis=1)
    if not (k and u):
      raise ValueError(
        f'{k} known and {u} unknown entities of type {name!r} are used; both '
        'are needed.'
      )
    a, b = (firing.fires.T @ sides.T.astype(np.float64)).T
    score = (a * u - b * k) / (k * u)
    now = np.stack([score, -score])
    best = now if best is None else np.minimum(best, now)
  return best


def best_latents(
  firings: Sequence[Firing],
  entities: LabelledEntities,
  known: np.ndarray,
  use: np.ndarray,
  keep: Sequence[np.ndarray],
  k: int,
) -> dict[str, list[LatentId]]:
  """Returns label -> the k best of all SAEs, as `latents.select` finds them."""
  scores = [lowest_scores(one, entities, known, use) for one in firings]
  where = [one.where for one in firings]
  return {
    label: [found.id for found in rank(where, [s[c] for s in scores], k, keep)]
    for c, label in enumerate(CLASSES)
  }


def separation_of(
  id: LatentId,
  label: str,
  firings: Sequence[Firing],
  entities: LabelledEntities,
  known: np.ndarray,
  use: np.ndarray,
) -> Estimate:
  """Returns the mean over types of the separation of one latent.

  Its interval is put together from Newcombe's of each type by the method of
  variance estimates recovery (`curves.mean_auroc`).
  """
  (matrix,) = (one.fires for one in firings if one.where == id[:2])
  fires = np.asarray(matrix[:, [id.latent]].todense()).reshape(-1)
  mine = known if label == 'known' else ~known
  parts = []
  for e in range(len(entities.types)):
    sides = [use & (entities.type_of == e) & side for side in (mine, ~mine)]
    own, other = (
      wilson(int(fires[side].sum()), int(side.sum())) for side in sides
    )
    parts.append(difference(own, other))
  value = float(np.mean([part.value for part in parts]))
  down = math.hypot(*(part.value - part.low for part in parts)) / len(parts)
  up = math.hypot(*(part.high - part.value for part in parts)) / len(parts)
  return Estimate(
    value=value,
    low=value - down,
    high=value + up,
    n=sum(part.n for part in parts),
  )


def shuffled_selection(
  firings: Sequence[Firing],
  entities: LabelledEntities,
  train: np.ndarray,
  test: np.ndarray,
  keep: Sequence[np.ndarray],
  *,
  num_shuffles: int = 50,
  seed: int = 0,
) -> dict:
  """Returns what runs with shuffled labels find on their own test entities.

  Args:
    firings: Where latents of each SAE fire, on all entities.
    entities: n of them.
    train, test: bool [n].
    keep: bool [F] of each SAE, candidates by plain text.
    num_shuffles: How many runs.
    seed: Random seed of the shuffles.

  Returns:
    Label -> 'observed', with the real labels; 'shuffled', the separations on
    test; their 'mean' with an interval over shuffles; 'p_value', the share of
    runs, the real one among them, that do at least as well.
  """
  real = _selected(firings, entities, entities.known, train, test, keep)
  rng = np.random.default_rng([seed, 19])
  found = {label: [] for label in CLASSES}
  for _ in tqdm.trange(num_shuffles, desc='Runs with shuffled labels'):
    known = entities.known.copy()
    for e, part in itertools.product(range(len(entities.types)), (train, test)):
      mine = part & (entities.type_of == e)
      known[mine] = rng.permutation(known[mine])
    one = _selected(firings, entities, known, train, test, keep)
    for label, (_, separation) in one.items():
      found[label].append(separation.value)
  return {
    label: {
      'latent': str(real[label][0]),
      'observed': real[label][1].to_dict(),
      'shuffled': values,
      'mean': _mean(values),
      'p_value': (1 + sum(v >= real[label][1].value for v in values))
      / (1 + num_shuffles),
    }
    for label, values in found.items()
  }


def stability(
  firings: Sequence[Firing],
  entities: LabelledEntities,
  chosen: dict[str, LatentId],
  keep: Sequence[np.ndarray],
  *,
  num_splits: int = 20,
  k: int = 10,
  seed: int = 0,
) -> dict:
  """Returns what other train splits would have selected.

  Args:
    firings, entities, keep: See `shuffled_selection`.
    chosen: Label -> the latent in question.
    num_splits: How many random halves.
    k: How many best latents are compared.
    seed: Random seed of the halves.

  Returns:
    Label -> 'splits', a list of 'best' (latents), 'held_out' (the separation
    of the first on the other half) and 'rank' (of the chosen latent, from 1,
    or None beyond k); 'overlap', the mean share of the k that two splits have
    in common, the interval over splits left out one at a time; 'first', how
    often each latent came first; 'chosen_first' and 'chosen_in_best', how
    often the chosen one did.
  """
  rng = np.random.default_rng([seed, 23])
  splits = {label: [] for label in CLASSES}
  for _ in tqdm.trange(num_splits, desc='Runs on other splits'):
    use = _half(entities, rng)
    best = best_latents(firings, entities, entities.known, use, keep, k)
    for label, ids in best.items():
      held_out = separation_of(
        ids[0], label, firings, entities, entities.known, ~use
      )
      mine = chosen.get(label)
      splits[label].append(
        {
          'best': list(map(str, ids)),
          'held_out': held_out.to_dict(),
          'rank': ids.index(mine) + 1 if mine in ids else None,
        }
      )
  found = {}
  for label, ones in splits.items():
    firsts = [one['best'][0] for one in ones]
    found[label] = {
      'splits': ones,
      'k': k,
      'overlap': _overlap([set(one['best']) for one in ones], k),
      'first': {
        id: firsts.count(id)
        for id in sorted(set(firsts), key=firsts.count, reverse=True)
      },
      'held_out': _mean([one['held_out']['value'] for one in ones]),
      'chosen_first': sum(one['rank'] == 1 for one in ones),
      'chosen_in_best': sum(one['rank'] is not None for one in ones),
      'num_splits': num_splits,
    }
  return found


def _selected(firings, entities, known, train, test, keep):
  """Returns label -> its best latent on train, and its separation on test."""
  best = best_latents(firings, entities, known, train, keep, 1)
  return {
    label: (
      ids[0],
      separation_of(ids[0], label, firings, entities, known, test),
    )
    for label, ids in best.items()
  }


def _half(entities: LabelledEntities, rng) -> np.ndarray:
  """Draws bool [n], half of every class of every type."""
  use = np.zeros(len(entities), bool)
  cells = entities.type_of * 2 + entities.known
  for cell in np.unique(cells):
    mine = rng.permutation(np.flatnonzero(cells == cell))
    use[mine[: (len(mine) + 1) // 2]] = True
  return use


def _overlap(sets: Sequence[set], k: int) -> dict:
  """Returns the mean overlap of pairs, with a jackknife over splits."""
  n = len(sets)
  if n < 2:
    return Estimate.without_interval(math.nan, 0).to_dict()
  size = min(k, *map(len, sets))
  pairs = np.array([[len(a & b) / size for b in sets] for a in sets])
  np.fill_diagonal(pairs, 0)
  value = float(pairs.sum() / (n * (n - 1)))
  low = high = math.nan
  if n > 2:
    rest = (pairs.sum() - 2 * pairs.sum(axis=1)) / ((n - 1) * (n - 2))
    error = np.sqrt((n - 1) / n * ((rest - rest.mean()) ** 2).sum())
    low, high = value - 1.96 * error, value + 1.96 * error
  return Estimate(
    value=value,
    low=float(np.clip(low, 0, 1)),
    high=float(np.clip(high, 0, 1)),
    n=n * (n - 1) // 2,
  ).to_dict()


def _mean(values: Sequence[float]) -> dict:
  """Returns the mean, with the middle 95 % of the values themselves."""
  low, high = np.quantile(values, [0.025, 0.975])
  return Estimate(
    value=float(np.mean(values)),
    low=float(low),
    high=float(high),
    n=len(values),
  ).to_dict()
