"""The devices over which a run is split."""

import dataclasses

import jax

from experiments.runs.numbers import Few
import gemma_jax as gj


@dataclasses.dataclass(frozen=True, kw_only=True)
class Devices:
  """The devices over which a run is split.

  Attributes:
    data: Number of devices over which batches are split. Default: all that
      --model_parallel leaves; without it, one device.
    model_parallel: Number of devices over which latents, heads and hidden units
      are split.
  """

  data: Few | None = None
  model_parallel: Few = 1

  def make_mesh(self) -> jax.sharding.Mesh | None:
    """Returns the mesh; None for one device.

    Raises:
      ValueError: there are not so many devices.
    """
    if self.data is None and self.model_parallel == 1:
      return None
    return gj.make_mesh(self.data, self.model_parallel)
