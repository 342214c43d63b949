"""Where training arrays live on a mesh of axes 'data' and 'model'.

Tokens are split over 'data', latents over 'model': the devices then exchange
reconstructions [B, D] instead of gradients of all weights. Dimensions that an
axis does not divide are replicated.
"""

import jax
from jax.sharding import NamedSharding, PartitionSpec

RULES = {'B': 'data', 'F': 'model'}
# S sources, R runs; see update.py.
_PARAMS = {
  'W_enc': 'SRDF',
  'W_dec': 'SRFD',
  'b_enc': 'SRF',
  'b_dec': 'SRD',
  'log_threshold': 'SRF',
}


def placement(letters: str, shape, mesh) -> NamedSharding | None:
  """Returns where an array lives whose dimensions are named by letters."""
  if mesh is None:
    return None
  axes = []
  for letter, size in zip(letters, shape, strict=True):
    axis = RULES.get(letter)
    splits = mesh.shape.get(axis, 1)
    axes.append(axis if splits > 1 and size % splits == 0 else None)
  return NamedSharding(mesh, PartitionSpec(*axes))


def constrain(x: jax.Array, letters: str, mesh) -> jax.Array:
  """Pins x to the rules, if there is a mesh."""
  if mesh is None:
    return x
  placed = placement(letters, x.shape, mesh)
  return jax.lax.with_sharding_constraint(x, placed)


def constrain_state(state, mesh):
  """Pins a training state (update.State) to the rules."""
  if mesh is None:
    return state

  def pin(path, x):
    names = [getattr(key, 'name', None) for key in path]
    letters = next((_PARAMS[n] for n in names if n in _PARAMS), None)
    letters = 'SRF' if 'silent' in names else letters
    return constrain(x, letters or '?' * x.ndim, mesh)

  return jax.tree_util.tree_map_with_path(pin, state)
