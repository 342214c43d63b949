"""Checkpoints of a training run, from which it goes on bit for bit.

Orbax writes them in the background. One holds the state (update.State) and a
record of the configuration; the order of activations follows from the step.
The record also has a checksum of each array, because Orbax reads flipped bits
as other numbers.
"""

import contextlib
import os
import pathlib
import shutil

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from sae.training.recipe import TrainConfig
from sae.training.update import State

_REMEDY = 'Remove that folder to go on from the checkpoint before it.'


class Snapshots:
  """The checkpoints in a folder.

  Attributes:
    folder: Where they are.
    shape: (S, D) of the newest, or None if there is none.
  """

  def __init__(self, folder: str | os.PathLike, config: TrainConfig, keep=2):
    """Opens or makes the folder.

    Raises:
      ValueError: it has checkpoints of a run with another configuration.
    """
    self.folder = pathlib.Path(folder).resolve()
    self._config = config
    self._manager = ocp.CheckpointManager(
      self.folder,
      options=ocp.CheckpointManagerOptions(
        max_to_keep=keep, enable_async_checkpointing=True
      ),
      item_names=('state', 'record'),
    )
    self.shape = None
    if self.latest is not None:
      self._read_record()

  @property
  def latest(self) -> int | None:
    """Returns the step of the newest complete checkpoint."""
    return self._manager.latest_step()

  def path(self, step: int) -> pathlib.Path:
    """Returns the folder of a checkpoint."""
    return self.folder / str(step)

  def save(self, step: int, state: State):
    """Writes a checkpoint in the background; `state` may then be donated.

    The copy is needed: on CPU, Orbax would read memory that the next update
    writes to.

    Raises:
      OSError: the checkpoint before this one could not be written, or this one
        not begun.
    """
    state = _copied(state)
    record = {
      'config': self._config.identity,
      'shape': [state.params.b_dec.shape[i] for i in (0, -1)],
      'checksums': np.asarray(_checksums(state)).tolist(),
    }
    with self._writing():
      self._manager.save(
        step,
        args=ocp.args.Composite(
          state=ocp.args.StandardSave(state),
          record=ocp.args.JsonSave(record),
        ),
      )

  def restore(self, like: State) -> State:
    """Returns the newest checkpoint, in the shapes and places of `like`.

    Raises:
      ValueError: it is damaged, of other shapes, or of a version that wrote no
        checksums.
    """
    state = self._restored(state=ocp.args.StandardRestore(like))
    written = self._restored(record=ocp.args.JsonRestore()).get('checksums')
    if np.asarray(_checksums(state)).tolist() != written:
      raise ValueError(
        f'{self.path(self.latest)} is damaged, or an earlier version wrote it: '
        f'its arrays do not have the checksums in its record. {_REMEDY}'
      )
    return state

  def close(self):
    """Waits for what is being written.

    Raises:
      OSError: it could not be written.
    """
    with self._writing():
      self._manager.wait_until_finished()
    self._manager.close()

  @contextlib.contextmanager
  def _writing(self):
    """Turns what Orbax and tensorstore raise into an error with a remedy."""
    try:
      yield
    except (OSError, ValueError) as error:
      free = shutil.disk_usage(self.folder).free
      raise OSError(
        f'{self.folder}: a checkpoint could not be written; {free / 2**20:,.1f}'
        ' MiB are free there. Make space and repeat the command, which goes on '
        f'from the last whole one. What was said: {error}'
      ) from error

  def _read_record(self):
    """Refuses to go on with what another configuration has begun."""
    record = self._restored(record=ocp.args.JsonRestore())
    shape, before = record.get('shape'), record.get('config')
    if not (isinstance(shape, list) and isinstance(before, dict)):
      raise ValueError(
        f'{self.path(self.latest)} has a record without shape or '
        f'configuration. {_REMEDY}'
      )
    self.shape = tuple(shape)
    # JSON has lists where the configuration has tuples.
    now = {
      k: list(v) if isinstance(v, tuple) else v
      for k, v in self._config.identity.items()
    }
    other = sorted(k for k in now | before if now.get(k) != before.get(k))
    if other:
      raise ValueError(
        f'{self.folder} has checkpoints of a run with '
        + ', '.join(f'{k}={before.get(k)} (now {now.get(k)})' for k in other)
        + '. Use its configuration to resume it, or another folder.'
      )

  def _restored(self, **what):
    """Returns one item of the newest checkpoint."""
    (name,) = what
    try:
      items = self._manager.restore(
        self.latest, args=ocp.args.Composite(**what)
      )
    except Exception as error:  # of any kind, for damaged files
      raise ValueError(
        f'{self.path(self.latest)} cannot be restored: {error!s:.300}. '
        f'{_REMEDY}'
      ) from error
    return items[name]


@jax.jit
def _copied(state):
  return jax.tree.map(jnp.copy, state)


@jax.jit
def _checksums(state):
  """uint32, one for each array: sums of its bits, each times an odd number.

  Any one number that changes changes the sum, on any mesh.
  """

  def checksum(x):
    bits = lax.bitcast_convert_type(x, jnp.uint32)
    place = jnp.arange(x.size, dtype=jnp.uint32).reshape(x.shape)
    return jnp.sum(bits * (2 * place + 1), dtype=jnp.uint32)

  return jnp.stack([checksum(x) for x in jax.tree.leaves(state)])
