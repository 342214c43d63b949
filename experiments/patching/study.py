"""All sweeps of the pairs of one type of entities."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from experiments.patching.attribution_patching import attribute
from experiments.patching.cells import (
  DIRECTIONS,
  MAPS,
  every_cell,
  moving_cells,
  top_cells,
)
from experiments.patching.pairs import Pair
from experiments.patching.runs import record_pairs
from experiments.patching.sweeps import first_difference, sweep
import gemma_jax as gj


def study_pairs(
  model: gj.Decoder,
  pairs: Sequence[Pair],
  *,
  verify: int | None = None,
  pairs_per_batch: int = 32,
  progress: Callable[[int], None] = lambda count: None,
) -> dict[str, np.ndarray]:
  """Attributes and sweeps exactly, in both directions.

  Args:
    model: Stacked.
    pairs: Pairs of equal length.
    verify: Number of cells of each map that are run exactly, those of the
      largest mean attribution over the first half of the pairs, so that the
      others can test them. Default: all cells.
    pairs_per_batch: Pairs that are run at once, which bounds memory.
    progress: Called with the number of cells that were run.

  Returns:
    '<direction>/<map>' and '<direction>/<map>/attribution' -> float32
    [L, X, n], the differences of logits after each patch (NaN where it was
    not run) and the changes attributed to it; '<direction>/base' and
    '<direction>/donor' -> float32 [n]; 'differ' [1], the first token in which
    pairs differ; 'chosen_on' [1], how many first pairs cells were chosen on.
  """
  n, size = len(pairs), min(pairs_per_batch, len(pairs))
  arrays = {}
  for direction in DIRECTIONS:
    batches = [
      record_pairs(model, _filled(pairs[i : i + size], size), direction)
      for i in range(0, n, size)
    ]
    differ = min(first_difference(*batch) for batch in batches)
    guessed = _joined([attribute(model, *batch) for batch in batches], n)
    cells = every_cell(model.config, len(pairs[0].known.ids))
    if verify is not None:
      cells = choose_cells(guessed, differ, verify)
    patched = _joined(
      [sweep(model, *batch, cells, progress=progress) for batch in batches], n
    )
    for name in MAPS:
      arrays[f'{direction}/{name}'] = patched[name]
      arrays[f'{direction}/{name}/attribution'] = guessed[name]
    for i, side in enumerate(('base', 'donor')):
      rows = np.concatenate([batch[i].difference for batch in batches])
      arrays[f'{direction}/{side}'] = rows[:n]
    arrays['differ'] = np.asarray([differ])
  arrays['chosen_on'] = np.asarray([0 if verify is None else half(n)])
  return arrays


def half(n: int) -> int:
  """Returns how many of n pairs cells are chosen on, one at least."""
  return -(-n // 2)


def choose_cells(
  guessed: Mapping[str, np.ndarray], differ: int, count: int
) -> dict[str, np.ndarray]:
  """Returns bool [L, X] for each map: cells to run.

  Args:
    guessed: Map -> attributed changes [L, X, n]; of half of the pairs the
      largest mean sizes are taken.
    differ: The first token in which pairs differ.
    count: Cells per map.
  """
  means = {
    name: np.where(
      moving_cells(name, guess.shape[:2], differ),
      guess[..., : half(guess.shape[-1])].mean(-1),
      0,
    )
    for name, guess in guessed.items()
  }
  return top_cells(means, count)


def _filled(batch: Sequence[Pair], size: int) -> list[Pair]:
  """Repeats the last pair, so that one program serves all batches."""
  return [*batch, *[batch[-1]] * (size - len(batch))]


def _joined(parts, n) -> dict[str, np.ndarray]:
  """Returns map -> [L, X, n] of batches, without what filled the last one."""
  return {
    name: np.concatenate([part[name] for part in parts], axis=-1)[..., :n]
    for name in parts[0]
  }
