"""Three ways to say how differently a latent behaves on two classes.

Each is a difference of class means, within one type, of something that is
computed from a latent's activations on all entities of the type:

  frequency         1 where it fires, else 0: the score of arXiv 2411.14257
  auroc             its rank among the entities, scaled so that the difference
                    is 2 AUROC - 1
  mean_activation   the activation, in mean norms of the stream

The first says nothing of how strongly a latent fires: one that fires on every
entity, and twice as strongly on the unknown ones, scores 0. So latents are
chosen by the second, and the other two stand beside it.

Letters: n entities of a type, F latents, P labellings.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import sparse, stats

from experiments.latents.class_sums import ClassSums
from experiments.latents.firing import Firing
from experiments.latents.labelled import LabelledEntities

CRITERIA = {
  'auroc': 'AUROC',
  'frequency': 'firing frequency',
  'mean_activation': 'mean activation',
}


class Transformed(NamedTuple):
  """What the class means of a criterion are of.

  Attributes:
    values: Sparse [F, n]; whole numbers for ranks and firings, so that equal
      scores are equal numbers and ties are seen.
    unit: What differences of class means are divided by.
  """

  values: sparse.csr_array
  unit: float


def transformed(
  activations: sparse.csr_array, criterion: str, norm: float = 1.0
) -> Transformed:
  """Returns what the class means of a criterion are of.

  Args:
    activations: Sparse float [n, F], 0 or above, of the entities of one type.
    criterion: One of CRITERIA.
    norm: Mean norm of the stream there, for 'mean_activation'.

  Raises:
    KeyError: there is no such criterion.
  """
  if criterion not in CRITERIA:
    raise KeyError(f'{criterion!r} is not one of {", ".join(CRITERIA)}.')
  by_latent = activations.T.tocsr()
  if criterion == 'frequency':
    # As float32, counts are exact and products are BLAS-like.
    return Transformed((by_latent > 0).astype(np.float32), 1.0)
  by_latent = by_latent.astype(np.float64)
  if criterion == 'mean_activation':
    return Transformed(by_latent, norm)
  n = by_latent.shape[1]
  for start, stop in zip(
    by_latent.indptr[:-1], by_latent.indptr[1:], strict=True
  ):
    silent = n - (stop - start)
    # Twice the rank, less that of the silent ones, which share one.
    rank = stats.rankdata(by_latent.data[start:stop]) + silent
    by_latent.data[start:stop] = 2 * rank - (silent + 1)
  return Transformed(by_latent, n)


def class_differences(part: Transformed, known: np.ndarray) -> np.ndarray:
  """Returns differences of class means, known less unknown, float64 [F, P].

  Args:
    part: From `transformed`.
    known: [n, P], 1 for known and 0 for unknown; every column has as many.
  """
  k = int(known[:, 0].sum())
  u = known.shape[0] - k
  values = part.values
  both = np.asarray(values.sum(axis=1), np.float64)[:, None]  # [F, 1]
  of_known = (values @ known.astype(values.dtype)).astype(np.float64)  # [F, P]
  # One division, of whole numbers.
  return (of_known * (k + u) - both * k) / (k * u * part.unit)


def by_type(
  firing: Firing, entities: LabelledEntities, criterion: str, norm: float = 1.0
) -> list[Transformed]:
  """Returns `transformed` of the entities of each of E types."""
  return [
    transformed(firing.matrix[entities.type_of == e], criterion, norm)
    for e in range(len(entities.types))
  ]


def scores_of(
  firings: Sequence[Firing],
  entities: LabelledEntities,
  criterion: str,
  sums: Sequence[ClassSums],
) -> list[np.ndarray]:
  """Returns how each latent separates known from unknown, on each type.

  Args:
    firings: Activations of each SAE's latents on the entities.
    entities: n of them, in the order of the rows.
    criterion: One of CRITERIA.
    sums: Sums of each SAE, whose mean norms are the unit of mean activations.

  Returns:
    float64 [E, F] of each SAE, above 0 where known entities have more.
  """
  known = [
    entities.known[entities.type_of == e][:, None]
    for e in range(len(entities.types))
  ]
  return [
    np.stack(
      [
        class_differences(part, labels)[:, 0]
        for part, labels in zip(
          by_type(firing, entities, criterion, mean_norm(one)),
          known,
          strict=True,
        )
      ]
    )
    for firing, one in zip(firings, sums, strict=True)
  ]


def mean_norm(sums: ClassSums) -> float:
  """Returns the mean norm of the stream over entities."""
  return float(sums.norm_total.sum() / sums.n.sum())


def shuffled(known: np.ndarray, count: int, key: Sequence[int]) -> np.ndarray:
  """Returns float32 [n, 1 + count]: labels as they are, then shuffled ones."""
  rng = np.random.default_rng(key)
  labels = np.empty((len(known), 1 + count), np.float32)
  labels[:, 0] = known
  for column in range(1, 1 + count):
    labels[:, column] = rng.permutation(known)
  return labels
