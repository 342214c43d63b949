"""Where arrays live: one table of rules from shape letters to mesh axes.

A mesh has two axes. Rows of a batch are split over 'data'; heads, the
feed-forward width and the vocabulary over 'model' (tensor parallelism). Weights
are also split over 'data' along d_model (FSDP), so that they take memory once
across the mesh. A dimension that an axis does not divide is replicated: 4
key/value heads on model=8 are.
"""

from collections.abc import Mapping
import contextlib
import os

import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

WEIGHT_RULES = {'V': 'model', 'N': 'model', 'K': 'model', 'F': 'model'}
WEIGHT_RULES |= {'D': 'data'}
ACTIVATION_RULES = {'B': 'data', 'N': 'model', 'K': 'model', 'F': 'model'}
ACTIVATION_RULES |= {'V': 'model'}


def make_mesh(data: int | None = None, model: int = 1) -> jax.sharding.Mesh:
  """Returns a ('data', 'model') mesh over all devices of all processes.

  Args:
    data: How many ways the batch is split; None takes what `model` leaves.
    model: How many ways the heads and the feed-forward width are split.

  Raises:
    ValueError: data * model is not the number of devices.
  """
  devices = jax.device_count()
  data = devices // model if data is None else data
  if data * model != devices:
    raise ValueError(
      f'A mesh of data={data} x model={model} needs {data * model} devices; '
      f'there are {devices}.'
    )
  # Auto axes: the compiler places what the rules leave open.
  return jax.make_mesh((data, model), ('data', 'model'), (AxisType.Auto,) * 2)


def partition_spec(
  letters: str,
  shape: tuple[int, ...],
  mesh,
  rules: Mapping[str, str] = WEIGHT_RULES,
) -> PartitionSpec:
  """Returns the spec of an array whose dimensions are named by `letters`.

  Args:
    letters: One letter per dimension, e.g. 'LNHD'; those without a rule are
      not split.
    shape: Its shape; dimensions that the mesh axis does not divide are
      replicated.
    mesh: A mesh, concrete or abstract.
    rules: Letter to mesh axis.
  """
  axes = []
  for letter, size in zip(letters, shape, strict=True):
    axis = rules.get(letter)
    splits = mesh.shape.get(axis, 1)
    axes.append(axis if splits > 1 and size % splits == 0 else None)
  return PartitionSpec(*axes)


def weight_sharding(letters, shape, mesh) -> NamedSharding | None:
  """Returns where a weight lives; None without a mesh."""
  if mesh is None:
    return None
  return NamedSharding(mesh, partition_spec(letters, shape, mesh))


def constrain(x: jax.Array, letters: str) -> jax.Array:
  """Pins an activation to the rules, where a mesh is set; else returns it."""
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty or 'data' not in mesh.axis_names:
    return x
  spec = partition_spec(letters, x.shape, mesh, ACTIVATION_RULES)
  return jax.lax.with_sharding_constraint(x, spec)


def mesh_of(array: jax.Array):
  """Returns a context with the mesh that a concrete array lives on."""
  sharding = getattr(array, 'sharding', None)
  mesh = getattr(sharding, 'mesh', None)
  already_set = not jax.sharding.get_abstract_mesh().empty
  if isinstance(array, jax.core.Tracer) or mesh is None or already_set:
    return contextlib.nullcontext()
  return jax.set_mesh(mesh)


def initialize_distributed(
  coordinator_address: str | None = None,
  num_processes: int | None = None,
  process_id: int | None = None,
) -> bool:
  """Joins the processes of a multi-host run; call it before anything else.

  Does nothing unless the arguments, or the environment, ask for it:
  JAX_COORDINATOR_ADDRESS with JAX_NUM_PROCESSES and JAX_PROCESS_ID, or
  JAX_DISTRIBUTED=1 where JAX can find them out by itself (Cloud TPU, Slurm,
  Open MPI, Kubernetes).

  Returns:
    True if this is now a distributed run.

  Raises:
    ValueError: only some of the three values are known.
  """
  given = {
    'coordinator_address': coordinator_address
    or os.environ.get('JAX_COORDINATOR_ADDRESS'),
    'num_processes': num_processes or os.environ.get('JAX_NUM_PROCESSES'),
    'process_id': process_id
    if process_id is not None
    else os.environ.get('JAX_PROCESS_ID'),
  }
  known = {name: value for name, value in given.items() if value is not None}
  if not known and os.environ.get('JAX_DISTRIBUTED') != '1':
    return False
  if known and len(known) < 3:
    raise ValueError(
      f'A distributed run needs all of {", ".join(given)}; only '
      f'{", ".join(known)} is given.'
    )
  if known:
    known['num_processes'] = int(known['num_processes'])
    known['process_id'] = int(known['process_id'])
  jax.distributed.initialize(**known)
  return True
