"""A latent with what it is compared with."""

from collections.abc import Mapping
import dataclasses

import numpy as np

from experiments.latents.ranking import LatentId


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Target:
  """A latent to steer with, and what it is compared with.

  Attributes:
    label: 'known' or 'unknown': the class of entities it fires on.
    id: LatentId.
    direction: float32 [D], its decoder row.
    controls: Random latents of the same SAE -> their decoder rows [D].
    mean_difference: float32 [D], from the other class's mean to that of
      `label`, at the same site and layer; None if not known.
  """

  label: str
  id: LatentId
  direction: np.ndarray
  controls: Mapping[LatentId, np.ndarray]
  mean_difference: np.ndarray | None = None

  @property
  def norm(self) -> float:
    """The norm of the direction."""
    return float(np.linalg.norm(self.direction))
