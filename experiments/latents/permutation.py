"""Could the best latents be that good by chance?

The best of hundreds of thousands of latents separates any two sets somewhat.
So the whole selection is repeated with labels shuffled within each type: all
latents of all SAEs, the lowest score over types, the highest over latents. What
the real labels give is compared with what these give.

Letters: P permutations, S SAEs, n entities, E types, F latents.
"""

from collections.abc import Iterable, Sequence
import dataclasses

import numpy as np
import tqdm

from experiments.latents.criteria import by_type, class_differences, shuffled
from experiments.latents.firing import Firing
from experiments.latents.labelled import (
  CLASSES,
  LabelledEntities,
  check_classes,
)
from experiments.stats.intervals import wilson

# Permutations at a time: arrays [F, _CHUNK] stay small.
_CHUNK = 128


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class SelectionNull:
  """MaxMin scores with the real labels and with shuffled ones.

  Attributes:
    where: Site and layer of each SAE.
    observed: Label -> float64 [S], the best of each SAE, unfiltered.
    null: Label -> float64 [P, S], the same with shuffled labels.
    observed_best: Label -> the best of all SAEs among the latents to keep.
    null_best: Label -> float64 [P], the same with shuffled labels.
    seed: Random seed of the shuffles.
    criterion: One of criteria.CRITERIA.
  """

  where: tuple[tuple[str, int], ...]
  observed: dict[str, np.ndarray]
  null: dict[str, np.ndarray]
  observed_best: dict[str, float]
  null_best: dict[str, np.ndarray]
  seed: int
  criterion: str

  def p_value(self, label: str) -> dict:
    """Returns the share of shuffles with a best latent at least as good.

    The real labels count as one of them, so that it is never 0 and rejects no
    more often than it says; 'low' and 'high' are Wilson's 95 % interval of the
    share among the P shuffles.
    """
    null = self.null_best[label]
    exceed = int((null >= self.observed_best[label]).sum())
    share = wilson(exceed, len(null))
    return {
      'value': (1 + exceed) / (1 + len(null)),
      'low': share.low,
      'high': share.high,
      'n': len(null),
    }

  def band(self, label: str, s: int) -> dict:
    """Returns an SAE's median and 95 % quantile under shuffled labels."""
    median, high = np.quantile(self.null[label][:, s], [0.5, 0.95])
    return {'median': float(median), 'high': float(high)}

  def to_dict(self) -> dict:
    """Returns a dict for JSON: label -> observed, p, quantiles of the null."""
    found = {}
    for label in CLASSES:
      null = self.null_best[label]
      median, high = np.quantile(null, [0.5, 0.95])
      found[label] = {
        'observed': self.observed_best[label],
        'p_value': self.p_value(label),
        'null_median': float(median),
        'null_95': float(high),
        'null_max': float(null.max()),
      }
    return found | {
      'num_permutations': len(self.null_best['known']),
      'seed': self.seed,
      'criterion': self.criterion,
    }


def permutation_null(
  firings: Iterable[Firing],
  entities: LabelledEntities,
  *,
  criterion: str = 'frequency',
  norms: Sequence[float] | None = None,
  keep: Sequence[np.ndarray] | None = None,
  num_permutations: int = 200,
  seed: int = 0,
) -> SelectionNull:
  """Repeats the selection with shuffled labels.

  Args:
    firings: Firings of each SAE, on the entities that latents were selected on;
      may be read one by one.
    entities: These entities, in the order of the matrices' rows.
    criterion: One of criteria.CRITERIA.
    norms: Mean norm of the stream at each SAE, for 'mean_activation'.
    keep: bool [F] of each SAE, the latents that the filter of plain text keeps
      (`selection.text_filter`); None is all. Labels do not enter it.
    num_permutations: P.
    seed: Random seed of the shuffles, which also depend on the type.

  Raises:
    ValueError: a class of a type is empty, there is no SAE, or matrices have
      other rows than there are entities.
  """
  check_classes(entities.types, entities.counts(), 'the permuted split')
  if num_permutations < 1:
    raise ValueError(f'num_permutations is {num_permutations}, expected 1 up.')
  labels = [
    shuffled(entities.known[entities.type_of == e], num_permutations, [seed, e])
    for e in range(len(entities.types))
  ]
  where, every, kept = [], [], []  # [2, 1 + P] of each SAE
  firings = tqdm.tqdm(
    firings, desc='Shuffling labels', unit=' SAEs', dynamic_ncols=True
  )
  for s, firing in enumerate(firings):
    if firing.matrix.shape[0] != len(entities):
      raise ValueError(
        f'The matrix of {firing.site} of layer {firing.layer} has '
        f'{firing.matrix.shape[0]} rows for {len(entities)} entities.'
      )
    mask = np.ones(firing.matrix.shape[1], bool) if keep is None else keep[s]
    norm = 1.0 if norms is None else norms[s]
    parts = by_type(firing, entities, criterion, norm)
    chunks = [
      _best(parts, [y[:, at : at + _CHUNK] for y in labels], mask)
      for at in range(0, 1 + num_permutations, _CHUNK)
    ]
    of_all, of_kept = (
      np.concatenate(x, axis=1) for x in zip(*chunks, strict=True)
    )
    where.append(firing.where)
    every.append(of_all)
    kept.append(of_kept)
  if not where:
    raise ValueError('There is no SAE whose selection could be repeated.')
  every, kept = np.stack(every), np.max(kept, axis=0)
  if not np.isfinite(kept).all():
    raise ValueError('No latent is kept by the filter of plain text.')
  return SelectionNull(
    where=tuple(where),
    observed={c: every[:, i, 0] for i, c in enumerate(CLASSES)},
    null={c: every[:, i, 1:].T for i, c in enumerate(CLASSES)},
    observed_best={c: float(kept[i, 0]) for i, c in enumerate(CLASSES)},
    null_best={c: kept[i, 1:] for i, c in enumerate(CLASSES)},
    seed=seed,
    criterion=criterion,
  )


def _best(parts, labels, mask) -> tuple[np.ndarray, np.ndarray]:
  """Returns the best of the lowest scores, [2, P]: of all latents, of those
  kept.

  Args:
    parts: Parts of each type, from `criteria.transformed`.
    labels: Labels of each type, float32 [n, P], 1 for known.
    mask: bool [F].
  """
  lowest = None
  for part, known in zip(parts, labels, strict=True):
    score = class_differences(part, known)
    if lowest is None:
      lowest = [score, -score]
    else:
      lowest = [np.minimum(lowest[0], score), np.minimum(lowest[1], -score)]
  return (
    np.stack([x.max(axis=0) for x in lowest]),
    np.stack(
      [x.max(axis=0, where=mask[:, None], initial=-np.inf) for x in lowest]
    ),
  )
