"""What chosen latents, and other detectors, do on entities they were not chosen
on: firing rates, separation and AUROC, with intervals.
"""

from collections.abc import Sequence
import math

import numpy as np

from experiments.latents.class_sums import ClassSums
from experiments.latents.labelled import (
  CLASSES,
  LabelledEntities,
  check_classes,
)
from experiments.latents.ranking import LatentId
from experiments.stats.curves import AUROC, auroc, mean_auroc
from experiments.stats.intervals import Estimate, wilson


def difference(a: Estimate, b: Estimate) -> Estimate:
  """a - b of two independent proportions, by Newcombe's interval.

  Method 10 of Statistics in Medicine 17:873 (1998), from Wilson's intervals.
  """
  value = a.value - b.value
  return Estimate(
    value=value,
    low=value - math.hypot(a.value - a.low, b.high - b.value),
    high=value + math.hypot(a.high - a.value, b.value - b.low),
    n=a.n + b.n,
  )


def firing_rates(id: LatentId, label: str, sums: Sequence[ClassSums]) -> dict:
  """Returns a latent's rates on each type, and how they separate its label.

  Args:
    id: Id of the latent.
    label: 'known' or 'unknown'; separation is high if it fires on these.
    sums: Sums of each SAE, over the entities to report on.

  Returns:
    'types': type -> 'known', 'unknown' and 'separation', each with value, low,
    high and n; 'lowest': the smallest separation, with its interval and 'type'.

  Raises:
    KeyError: there are no sums of its SAE.
    ValueError: a class of a type is empty.
  """
  one = {one.where: one for one in sums}.get(id[:2])
  if one is None:
    raise KeyError(
      f'There is no SAE for {id}, only for {[one.where for one in sums]}.'
    )
  check_classes(one.types, one.n, 'the evaluated split')
  types = {}
  for e, name in enumerate(one.types):
    rates = {
      c: wilson(int(one.active[e, i, id.latent]), int(one.n[e, i]))
      for i, c in enumerate(CLASSES)
    }
    other = 'unknown' if label == 'known' else 'known'
    rates['separation'] = difference(rates[label], rates[other])
    types[name] = {key: found.to_dict() for key, found in rates.items()}
  lowest = min(types, key=lambda name: types[name]['separation']['value'])
  return {
    'types': types,
    'lowest': types[lowest]['separation'] | {'type': lowest},
  }


def mean_activations(id: LatentId, sums: Sequence[ClassSums]) -> dict:
  """Returns a latent's mean activation by type and class.

  Args:
    id: Id of the latent.
    sums: Sums of each SAE, over the entities to report on.

  Returns:
    Type -> 'known' and 'unknown', each with 'value', its standard error 'se',
    and n.
  """
  (one,) = (one for one in sums if one.where == id[:2])
  found = {}
  for e, name in enumerate(one.types):
    found[name] = {}
    for c, label in enumerate(CLASSES):
      n = int(one.n[e, c])
      total = float(one.total[e, c, id.latent])
      scatter = float(one.squares[e, c, id.latent]) - total**2 / n
      variance = max(scatter, 0.0) / max(n - 1, 1)
      found[name][label] = {
        'value': total / n,
        'se': math.sqrt(variance / n),
        'n': n,
      }
  return found


def detection(
  entities: LabelledEntities, scores: np.ndarray, positive: str = 'known'
) -> dict:
  """Returns how well a score finds one class on each type, and over all.

  Args:
    entities: n of them.
    scores: float [n], higher for the positive class.
    positive: 'known' or 'unknown'.

  Returns:
    'positive'; 'types': type -> AUROC as a dict; 'mean': of these, each type
    counting the same; 'pooled': one AUROC over entities of all types, which
    also has to get differences between types right.

  Raises:
    ValueError: a class of a type is empty, or see `curves.auroc`.
  """
  check_classes(entities.types, entities.counts(), 'the evaluated split')
  wanted = entities.known == (positive == 'known')
  parts: dict[str, AUROC] = {}
  for e, name in enumerate(entities.types):
    mine = entities.type_of == e
    parts[name] = auroc(wanted[mine], np.asarray(scores)[mine])
  return {
    'positive': positive,
    'types': {name: part.to_dict() for name, part in parts.items()},
    'mean': mean_auroc(list(parts.values())).to_dict(),
    'pooled': auroc(wanted, scores).to_dict(),
  }
