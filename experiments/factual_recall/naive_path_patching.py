"""Path patching without sharing anything: every sender is a whole run."""

from collections.abc import Iterable

import numpy as np

from experiments.factual_recall.task_prompts import Prompts
from experiments.factual_recall.trace import Readout
import gemma_jax as gj


def naive_total_effects(
  model: gj.Decoder,
  donor: dict[str, np.ndarray],
  prompts: Prompts,
  readout: Readout,
  layers: Iterable[int] | None = None,
) -> np.ndarray:
  """Returns what `path_patching.total_effects` gives, from `gj.run` and patches
  alone.

  Args:
    model: Any.
    donor: From `path_patching.donors`.
    prompts: n of them, all run in one batch, demonstrations included.
    readout: Readout of the prompts.
    layers: The senders' layers; None is all.

  Returns:
    float64 [len(layers), S, n, 2].
  """
  L, N = model.config.num_layers, model.config.num_heads
  batch = prompts.whole()
  whole = gj.run(model, *batch, capture=gj.capture('z'))
  last = gj.capture('resid_post', layers=L - 1, positions='last')
  found = []
  for layer in range(L) if layers is None else layers:
    at = {'layers': layer, 'positions': 'last'}
    z, mlp_out = (donor[site][layer][:, None] for site in ('z', 'mlp_out'))
    senders = [gj.patch('z', source=z, heads=head, **at) for head in range(N)]
    for sender in [*senders, gj.patch('mlp_out', source=mlp_out, **at)]:
      changes = [gj.patch('z', source=whole), sender]
      out = gj.run(model, *batch, interventions=changes, capture=last)
      found.append(readout.pi(out['resid_post', L - 1][:, 0]))
  return np.stack(found).reshape(-1, N + 1, len(prompts), 2)
