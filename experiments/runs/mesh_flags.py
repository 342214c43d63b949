"""Flags that say over which devices a run is split."""

from absl import flags
import jax

from experiments.runs import FEW, define_number
import gemma_jax as gj


def define_flags(values: flags.FlagValues) -> list[str]:
  """Defines them; returns their names."""
  before = set(values)
  common = {'flag_values': values}
  define_number(
    'data',
    None,
    'Devices over which batches are split. Default: those that '
    '--model_parallel leaves; without it, one device.',
    FEW,
    **common,
  )
  define_number(
    'model_parallel',
    1,
    'Devices over which latents, heads and hidden units are split.',
    FEW,
    **common,
  )
  return sorted(set(values) - before)


def make_mesh(values: flags.FlagValues) -> jax.sharding.Mesh | None:
  """The mesh that parsed flags ask for; None is one device.

  Raises:
    ValueError: there are not so many devices.
  """
  if values.data is None and values.model_parallel == 1:
    return None
  return gj.make_mesh(values.data, values.model_parallel)


def sizes(mesh: jax.sharding.Mesh | None) -> dict[str, int]:
  """Devices along each axis, as estimates of memory take them."""
  return {
    'data': mesh.shape['data'] if mesh else 1,
    'model_parallel': mesh.shape['model'] if mesh else 1,
  }
