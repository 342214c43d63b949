"""Attribution patching: every patch at once, to first order.

A patch x + g (donor - x) with gate g = 0 changes nothing, and the derivative of
the answer with respect to g is (donor - x) times the gradient at x: what the
whole patch would do, were the model linear. All gates of all maps are
differentiated in one backward pass (Nanda 2023; Syed et al., arXiv 2310.10348),
for about four forward passes. It guesses; `sweeps.py` knows.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from experiments.patching.cells import HEAD_MAPS, MAPS, TOKEN_MAPS, map_shape
from experiments.patching.runs import PairRun
from experiments.patching.sweeps import first_difference
import gemma_jax as gj


def attribute(
  model: gj.Decoder, base: PairRun, donor: PairRun
) -> dict[str, np.ndarray]:
  """Returns first-order changes of the difference of logits, of all cells.

  Args:
    model: Stacked.
    base: The run that is patched.
    donor: The run that activations come from.

  Returns:
    Map -> float32 [L, X, n]; 0 before the first token in which pairs differ.
  """
  differ = first_difference(base, donor)
  slopes = jax.device_get(
    _slopes(model, base.tokens, base.answers, donor.sources, differ=differ)
  )
  n, T = base.tokens.shape
  found = {}
  for name, slope in slopes.items():  # [n, columns, L]
    shape = map_shape(model.config, name, T)
    found[name] = np.zeros((*shape, n), np.float32)
    found[name][:, shape[1] - slope.shape[1] :] = slope.transpose(2, 1, 0)
  return found


@functools.partial(jax.jit, static_argnames=('differ',))
def _slopes(model, tokens, answers, sources, *, differ):
  """Returns map -> [n, columns, L] for tokens from `differ` on, or heads."""
  L, N = model.config.num_layers, model.config.num_heads
  n, T = tokens.shape
  gates = {
    name: jnp.zeros((n, T - differ if name in TOKEN_MAPS else N, L))
    for name in MAPS
  }

  def moved(gates):
    changes = []
    for name, site in MAPS.items():
      for i in range(gates[name].shape[1]):
        source, where = sources[site], {'source_positions': np.arange(T)}
        if name != 'z_all':
          at = differ + i if name in TOKEN_MAPS else T - 1
          source, where = source[:, :, at : at + 1], {'positions': at}
        changes.append(
          gj.patch(
            site,
            source,
            layers=gj.per_row(gates[name][:, i]),
            heads=i if name in HEAD_MAPS else None,
            **where,
          )
        )
    logits = gj.forward(
      model,
      tokens,
      interventions=changes,
      logits_at='last',
      remat=True,
    ).logits[:, 0]
    chosen = jnp.take_along_axis(logits, answers, axis=1)
    return (chosen[:, 0] - chosen[:, 1]).sum()  # rows do not see each other

  return jax.grad(moved)(gates)
