"""Checkpoints of a training run, from which it goes on bit for bit.

Orbax writes them in the background. One holds the state (update.State) and a
record of the configuration; the order of activations follows from the step.
"""

import os
import pathlib

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from sae.recipe import TrainConfig
from sae.update import State


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
    """The step of the newest complete checkpoint."""
    return self._manager.latest_step()

  def path(self, step: int) -> pathlib.Path:
    """The folder of a checkpoint."""
    return self.folder / str(step)

  def save(self, step: int, state: State):
    """Writes a checkpoint in the background; `state` may then be donated.

    The copy is needed: on CPU, Orbax would read memory that the next update
    writes to.
    """
    self._manager.save(
      step,
      args=ocp.args.Composite(
        state=ocp.args.StandardSave(_copied(state)),
        record=ocp.args.JsonSave(
          {
            'config': self._config.identity,
            'shape': [state.params.b_dec.shape[i] for i in (0, -1)],
          }
        ),
      ),
    )

  def restore(self, like: State) -> State:
    """The newest checkpoint, in the shapes and places of `like`.

    Raises:
      ValueError: it is damaged or of other shapes.
    """
    return self._restored(state=ocp.args.StandardRestore(like))

  def close(self):
    """Waits for what is being written."""
    self._manager.wait_until_finished()
    self._manager.close()

  def _read_record(self):
    """Refuses to go on with what another configuration has begun."""
    record = self._restored(record=ocp.args.JsonRestore())
    self.shape = tuple(record['shape'])
    before = record['config']
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
    """One item of the newest checkpoint."""
    (name,) = what
    try:
      items = self._manager.restore(
        self.latest, args=ocp.args.Composite(**what)
      )
    except (ValueError, OSError, KeyError) as error:
      raise ValueError(
        f'{self.path(self.latest)} cannot be restored: {error}. Remove that '
        'folder to go on from the checkpoint before it.'
      ) from error
    return items[name]


@jax.jit
def _copied(state):
  return jax.tree.map(jnp.copy, state)
