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
  """Returns what `sweeps.sweep` gives, from `gemma_jax.run` alone.

  Args:
    model: Any.
    base: int32 [n, T], the rows that are patched.
    donor: int32 [n, T], the rows that activations come from.
    answers: int32 [n, 2].
    cells: Map -> bool [L, X].

  Returns:
    Map -> float32 [L, X, n]; NaN in cells that were not asked for.
  """
  sites = sorted({MAPS[name] for name in cells})
  given = gj.run(model, donor, capture=gj.capture(*sites))
  patched = {}
  for name, wanted in cells.items():
    patched[name] = np.full((*wanted.shape, len(base)), np.nan, np.float32)
    site = MAPS[name]
    for layer, column in np.argwhere(wanted).tolist():
      of_token = name in TOKEN_MAPS
      at = None if name == 'z_all' else 'last'
      change = gj.patch(
        site,
        given,
        layers=layer,
        heads=None if of_token else column,
        positions=column if of_token else at,
      )
      logits = gj.run(
        model, base, interventions=[change], logits_at='last'
      ).logits[:, 0]
      chosen = np.take_along_axis(jax.device_get(logits), answers, axis=1)
      patched[name][layer, column] = chosen[:, 0] - chosen[:, 1]
  return patched
