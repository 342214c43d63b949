"""Which SAE is loaded, as `sae.load_sae` takes it."""

import dataclasses

from experiments.runs import Layer


@dataclasses.dataclass(frozen=True, kw_only=True)
class SAESource:
  """Says where one SAE comes from.

  Attributes:
    sae: File, folder, release or hub id of the SAE.
    sae_id: Which SAE of a release, or of a folder of several, is taken.
    site: Site that the SAE reads, if its files do not say.
    layer: Layer that the SAE reads, counted from 0, if its files do not say.
  """

  sae: str
  sae_id: str | None = None
  site: str | None = None
  layer: Layer | None = None
