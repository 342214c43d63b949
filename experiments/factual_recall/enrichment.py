"""How a subject is enriched: its attributes rate after every layer.

Geva et al. 2023 find that the stream of a subject's last token comes to hold
many of its attributes, asked for or not. `attributes.py` says what the rate is;
here it is compared between places. (Section 2.1 of the recall specification.)
"""

from collections.abc import Sequence

import numpy as np

from experiments.factual_recall.attributes import Attributes, estimate_rates
from experiments.factual_recall.dissection import recorded_batches
from experiments.factual_recall.task_prompts import Prompts
import gemma_jax as gj

# The subject's last token, the last token, and all other tokens of a prompt, of
# which the mean is taken.
SUBJECT_END, END, OTHERS = 'subject', 'last', 'others'
PLACES = (SUBJECT_END, END, OTHERS)
# How many tokens the published measure takes instead of K.
MOST = 50


def attributes_rate(
  model: gj.Decoder,
  prompts: Prompts,
  tokens: Sequence[Sequence[int]],
  *,
  rows_per_batch: int = 32,
  seed: int = 0,
) -> dict:
  """Measures the attributes rate after every layer.

  Args:
    model: Stacked.
    prompts: n of them.
    tokens: n lists; see `attribute_tokens`.
    rows_per_batch: How many prompts are recorded at once; bounds memory.
    seed: Random seed of the controls and of the resamples.

  Returns:
    n; size, the mean K; site, 'resid_post', which all layers are of; rates:
    place -> 'K' and str(MOST) -> own, control and difference, [L] estimates
    each, with their n; arrays: 'rate/place/K', float64 [L, n, 2], own and
    control, NaN where there is no token. Demonstrations are not among the other
    tokens of a prompt.
  """
  L, n = model.config.num_layers, len(prompts)
  attributes = Attributes.of(prompts, tokens, seed)
  names = ('K', str(MOST))
  found = {
    (place, name): np.full((L, n, 2), np.nan)
    for place in PLACES
    for name in names
  }
  P = len(prompts.prefix)
  for rows, recording in recorded_batches(model, prompts, rows_per_batch):
    # [L, b, T, D]
    streams = np.asarray(recording.stream[1:, :, P:], np.float32)
    positions = prompts.positions[rows]
    where = _places(positions, prompts.spans[rows])
    real = np.broadcast_to(positions >= 0, streams.shape[:3])  # [L, b, T]
    numbers = np.broadcast_to(rows[:, None], real.shape)[real]
    rates = np.full((*real.shape, 2, 2), np.nan)
    rates[real] = attributes.rates(model, streams[real], numbers, (None, MOST))
    for (place, name), into in found.items():
      some = rates[..., names.index(name), :]
      into[:, rows] = _mean_over(some, where[place])
  result = {
    'n': n,
    'size': float(attributes.size.mean()),
    'site': 'resid_post',
    'rates': {place: {} for place in PLACES},
    'arrays': {},
  }
  for (place, name), rates in found.items():
    result['rates'][place][name] = estimate_rates(rates, prompts.units, seed)
    result['arrays'][f'rate/{place}/{name}'] = rates
  return result


def _places(positions, spans) -> dict[str, np.ndarray]:
  """Place -> bool [b, T], which tokens of rows are there."""
  subject = positions == spans[:, 1:] - 1
  last = positions == positions.max(1, keepdims=True)
  return {
    SUBJECT_END: subject,
    END: last,
    OTHERS: (positions >= 0) & ~subject & ~last,
  }


def _mean_over(rates, here) -> np.ndarray:
  """[L, b, 2] of rates [L, b, T, 2], over tokens bool [b, T]; NaN of none."""
  count = here.sum(1)[None, :, None]
  total = np.where(here[None, :, :, None], rates, 0).sum(2)
  return np.divide(
    total, count, out=np.full(total.shape, np.nan), where=count > 0
  )
