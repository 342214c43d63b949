"""Numbers of a type's sweeps for results.json."""

from collections.abc import Mapping, Sequence

import numpy as np

from experiments.patching.cells import (
  DIRECTIONS,
  HEAD_MAPS,
  MAPS,
  TOKEN_MAPS,
  moving_cells,
)
from experiments.patching.effect_sizes import eq13_grid, moved, moved_grid
from experiments.stats.intervals import bootstrap_mean
from experiments.stats.multiplicity import max_t_permutation
from experiments.stats.ranks import spearman_of_means

# As many heads are listed as the paper labels in its figures, and some more.
TOP_HEADS = 10


def summarise(
  arrays: Mapping[str, np.ndarray], labels: Sequence[str], seed: int = 0
) -> dict:
  """Returns the numbers of both directions.

  Args:
    arrays: What `study.study_pairs` returned.
    labels: What stands at each token, [T].
    seed: Random seed of intervals and permutations.

  Returns:
    {direction: {'differences', 'defined', 'maps', 'top_heads', 'flow'}}.
    'maps' has, by map, `moved` and `eq13` with intervals, the max-T test of the
    pairs' shares, and how well attribution ranks the cells that were run;
    `flow` has the token where most of the answer is, by layer, or None where no
    cell was run. 'chosen_on': how many first pairs said which cells to run; the
    test is over the others. 0 where all cells were run.
  """
  return {
    direction: _direction(
      {
        key.split('/', 1)[1]: value
        for key, value in arrays.items()
        if key.startswith(f'{direction}/')
      },
      int(arrays['differ'][0]),
      int(arrays['chosen_on'][0]),
      direction,
      seed,
    )
    for direction in DIRECTIONS
  } | {
    'tokens': list(labels),
    'first_difference': int(arrays['differ'][0]),
    'chosen_on': int(arrays['chosen_on'][0]),
  }


def pair_shares(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
  """Returns '<direction>/<map>' -> each pair's share, float32 [L, X, n]."""
  return {
    f'{direction}/{name}': moved(
      arrays[f'{direction}/{name}'],
      arrays[f'{direction}/base'],
      arrays[f'{direction}/donor'],
    ).astype(np.float32)
    for direction in DIRECTIONS
    for name in MAPS
  }


def _direction(arrays, differ, chosen_on, direction, seed) -> dict:
  base, donor = arrays['base'], arrays['donor']
  known, unknown = (donor, base) if direction == 'denoising' else (base, donor)
  way = bootstrap_mean(donor - base, seed)
  maps = {
    name: _map(arrays, name, known, differ, chosen_on, seed) for name in MAPS
  }
  return {
    'differences': {
      'known': bootstrap_mean(known, seed).to_dict(),
      'unknown': bootstrap_mean(unknown, seed).to_dict(),
      'donor_minus_base': way.to_dict(),
    },
    # Shares of nothing are nothing: both runs must differ.
    'defined': bool(way.low > 0 or way.high < 0),
    'maps': maps,
    'top_heads': {name: _top_heads(maps[name]) for name in HEAD_MAPS},
    'flow': _flow(maps['resid_pre']['moved'], differ),
  }


def _map(arrays, name, known, differ, chosen_on, seed) -> dict:
  patched, guessed = arrays[name], arrays[f'{name}/attribution']
  base, donor = arrays['base'], arrays['donor']
  shape = patched.shape[:2]
  moving = moving_cells(name, shape, differ)
  run = moving & np.isfinite(patched).all(-1)
  shares = moved(patched, base, donor)
  tested = run & np.isfinite(shares).all(-1)
  test, p = None, np.full(shape, np.nan)
  if len(base) - chosen_on > 1 and tested.any():
    units = np.moveaxis(shares[tested], -1, 0)[chosen_on:]
    found = max_t_permutation(units, seed=seed)
    test, p[tested] = found.to_dict(), found.p_adjusted
  change = patched[run] - base
  k = max(1, min(10, int(run.sum()) // 4))
  return {
    'site': MAPS[name],
    'columns': 'token' if name in TOKEN_MAPS else 'head',
    'cells_run': int(np.isfinite(patched).all(-1).sum()),
    'moved': moved_grid(patched, base, donor, seed).to_dict(),
    'eq13': eq13_grid(patched, known, seed).to_dict(),
    'p_adjusted': p,
    'test': test,
    'attribution': {
      'value': moved(base + guessed, base, donor).mean(-1),
      'spearman': spearman_of_means(change.T, guessed[run].T, seed).to_dict(),
      'cells': int(run.sum()),
      'top': {'k': k, 'shared': _shared(change, guessed[run], k)},
    },
  }


def _shared(exact, guessed, k) -> int:
  """Returns how many of the k largest are among the other's k largest."""
  top = [
    set(np.argsort(-abs(x.mean(-1)))[:k].tolist()) for x in (exact, guessed)
  ]
  return len(top[0] & top[1])


def _top_heads(found) -> list[dict]:
  """Returns heads of the largest absolute share, with what is known of each."""
  grid = found['moved']
  value = np.nan_to_num(grid['value'])
  order = np.argsort(-abs(value), axis=None, kind='stable')[:TOP_HEADS]
  order = order[np.isfinite(np.ravel(grid['value'])[order])]
  return [
    {
      'layer': int(layer),
      'head': int(head),
      'name': f'L{layer}H{head}',
      'moved': {
        part: float(grid[part][layer, head])
        for part in ('value', 'low', 'high')
      }
      | {'n': grid['n']},
      'p_adjusted': float(found['p_adjusted'][layer, head]),
    }
    for layer, head in zip(*np.unravel_index(order, value.shape), strict=True)
  ]


def _flow(grid, differ) -> list[dict]:
  """Returns for each layer the token whose stream moves the answer most."""
  value = np.where(np.isfinite(grid['value']), grid['value'], -np.inf)
  value[:, :differ] = -np.inf
  peaks = [
    int(row.argmax()) if np.isfinite(row).any() else None for row in value
  ]
  return [
    {
      'layer': layer,
      'token': token,
      'moved': None
      if token is None
      else {
        part: float(grid[part][layer, token])
        for part in ('value', 'low', 'high')
      }
      | {'n': grid['n']},
    }
    for layer, token in enumerate(peaks)
  ]
