"""Exact sweeps that share their work.

A cell starts at its layer and at its first changed token, from the recording
of the run that is patched: n (T - p) (L - l) blocks instead of n T L, and two
logits instead of T V. Tokens before the pairs differ are never run again: a
patch there replaces what is there by the same.

One program per suffix length serves all cells of all maps: site, layer and
head are data.
"""

from collections.abc import Callable, Mapping
import functools

import jax
import jax.numpy as jnp
import numpy as np

from experiments.patching.cells import (
  HEAD_MAPS,
  MAPS,
  every_cell,
  first_slot,
  moving_cells,
)
from experiments.patching.runs import PairRun, logit_difference
import gemma_jax as gj


def first_difference(base: PairRun, donor: PairRun) -> int:
  """Returns the first token in which any pair differs.

  Raises:
    ValueError: no pair differs.
  """
  differ = (base.tokens != donor.tokens).any(axis=0)
  if not differ.any():
    raise ValueError('The two sides of all pairs are the same.')
  return int(differ.argmax())


def sweep(
  model: gj.Decoder,
  base: PairRun,
  donor: PairRun,
  cells: Mapping[str, np.ndarray] | None = None,
  *,
  progress: Callable[[int], None] = lambda count: None,
) -> dict[str, np.ndarray]:
  """Returns the difference of logits after each patch.

  Args:
    model: Stacked.
    base: The run that is patched.
    donor: The run that activations come from.
    cells: Map -> bool [L, X], which cells; None is all of all maps.
    progress: Called with the number of cells that were started.

  Returns:
    Map -> float32 [L, X, n]; NaN in cells that were not asked for.
  """
  config, T = model.config, base.tokens.shape[1]
  differ = first_difference(base, donor)
  cells = every_cell(config, T) if cells is None else cells
  # Only what is used: it is part of what programs are compiled for.
  sources = {MAPS[name]: donor.sources[MAPS[name]] for name in cells}
  found = {}
  for name, wanted in cells.items():
    moving = wanted & moving_cells(name, wanted.shape, differ)
    for layer, column in np.argwhere(moving):
      slot = first_slot(name, int(column), T, differ)
      whole = name == 'z_all'
      used = {'z': sources['z']} if whole else sources
      found[name, layer, column] = _patched(
        model,
        base.recording,
        used,
        base.answers,
        np.int32(layer),
        np.int32(sorted(used).index(MAPS[name])),
        np.int32(column if name in HEAD_MAPS else 0),
        slot=slot,
        whole=whole,
      )
    progress(int(wanted.sum()))
  found = jax.device_get(found)
  patched = {}
  for name, wanted in cells.items():
    rows = np.broadcast_to(base.difference, (*wanted.shape, len(base.tokens)))
    patched[name] = np.where(wanted[:, :, None], rows, np.float32(np.nan))
  for (name, layer, column), row in found.items():
    gj.check_finite(row, model.dtype, 'Differences of logits, patched,')
    patched[name][layer, column] = row
  return patched


@functools.partial(jax.jit, static_argnames=('slot', 'whole'))
def _patched(
  model, recording, sources, answers, layer, which, head, *, slot, whole
):
  """Returns float32 [n], the difference of logits after one patch.

  `which` counts the sites of `sources` in order, `head` matters for z. The
  patch is at `slot`; at all tokens from there on if `whole`.
  """
  here = jnp.arange(model.config.num_layers) == layer
  changes = [
    gj.patch(
      site,
      sources[site][layer, :, slot : None if whole else slot + 1],
      layers=here & (which == number),
      heads=head if site == 'z' else None,
      positions=None if whole else slot,
      source_positions=recording.positions[:, slot:] if whole else None,
    )
    for number, site in enumerate(sorted(sources))
  ]
  x, _ = gj.resume(
    model, recording, layer=layer, slot=slot, interventions=changes
  )
  return logit_difference(model, x, answers)
