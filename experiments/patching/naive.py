"""The same sweep without sharing anything: every cell is a whole run."""

from collections.abc import Mapping

import jax
import numpy as np

from experiments.patching.cells import MAPS, TOKEN_MAPS
import gemma_jax as gj


def naive_sweep(
  model: gj.Decoder,
  base: np.ndarray,
  donor: np.ndarray,
  answers: np.ndarray,
  cells: Mapping[str, np.ndarray],
) -> dict[str, np.ndarray]:
  """What `sweeps.sweep` gives, from `gemma_jax.run` and its patches alone.

  Args:
    model: Any.
    base: int32 [n, T], the rows that are patched.
    donor: int32 [n, T], the rows that activations come from.
    answers: int32 [n, 2].
    cells: Map -> bool [L, X].

  Returns:
    Map -> float32 [L, X, n]; NaN in cells that were not asked for.
  """
  n, T = base.shape
  sites = sorted({MAPS[name] for name in cells})
  given = gj.run(model, donor, capture=gj.capture(*sites)).activations
  positions = np.arange(T)
  last = np.full((1, 1), T - 1)
  patched = {}
  for name, wanted in cells.items():
    patched[name] = np.full((*wanted.shape, n), np.nan, np.float32)
    site = MAPS[name]
    for layer, column in np.argwhere(wanted).tolist():
      where = {
        'layers': layer,
        'source_positions': positions,
        'positions': None,
        'num_positions': None,
      }
      if name != 'z_all':
        at = column if name in TOKEN_MAPS else T - 1
        where |= {'positions': at, 'num_positions': T}
      if name in TOKEN_MAPS:
        change = gj.patch(model.config, site, given[site], **where)
      else:
        change = gj.ablate_heads(
          model.config, column, source=given[site], **where
        )
      logits = gj.run(
        model, base, interventions={site: (change,)}, logits_at=last
      ).logits[:, 0]
      chosen = np.take_along_axis(jax.device_get(logits), answers, axis=1)
      patched[name][layer, column] = chosen[:, 0] - chosen[:, 1]
  return patched
