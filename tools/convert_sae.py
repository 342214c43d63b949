"""Writes an SAE in the format of Gemma Scope or SAELens, or lists a release.

  python -m tools.convert_sae --list=gemma-scope-2b-pt-res-canonical

  python -m tools.convert_sae --sae=gemma-scope-2b-pt-res \\
    --sae_id=layer_12/width_16k/average_l0_82 --to=sae_lens --target=out/res_12

  python -m tools.convert_sae --sae=sae_lens_folder --to=gemma_scope \\
    --target=out/collection --l0=41.5

--sae is whatever `sae.load_sae` takes: a name on the hub, or files of Gemma
Scope, SAELens or Llama Scope. What is written acts on raw activations: scales
and centring are folded in, and latents keep their values, unless --normalise.
SAELens then loads it with `SAE.load_from_disk(target)`; a folder of Gemma Scope
is a collection, into which several may be written.
"""

import dataclasses
from typing import Annotated, Literal

from experiments.inputs.sae_source import SAESource
from experiments.runs import KeepFlags, check_numbers, real, start
from sae.formats.gemma_scope import save_gemma_scope
from sae.formats.loading import load_sae
from sae.formats.releases import list_saes
from sae.formats.sae_lens import save_sae_lens


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(SAESource):
  """Says which SAE is written, where and how.

  Attributes:
    sae: File, folder, release or hub id of the SAE; needed without --list.
    list: Release whose ids are printed, and no more is done.
    revision: Branch, tag or commit on the hub.
    target: Folder to write into; needed without --list.
    to: Format to write.
    l0: Mean number of active latents per token (L0), which names a folder of
      Gemma Scope. Default: what the SAE's files say;
      experiments.sae_training.evaluate measures it.
    normalise: Rescale rows and latents for gemma_scope, whose decoder rows have
      norm 1, where they have another norm.
  """

  sae: str | None = None
  list: str | None = None
  revision: str | None = None
  target: str | None = None
  to: Literal['sae_lens', 'gemma_scope'] = 'sae_lens'
  l0: Annotated[float, real(0, 1e6)] | None = None
  normalise: bool = False

  def __post_init__(self):
    check_numbers(self)
    for name in ('sae', 'target'):
      if self.list is None and getattr(self, name) is None:
        raise ValueError(f'--{name} is needed; see --help.')


def convert(settings: Settings) -> str:
  """Writes the SAE; returns the folder written.

  Raises:
    FileExistsError, FileNotFoundError, ImportError, ValueError: see `load_sae`
      and the writers.
  """
  loaded = load_sae(
    settings.sae,
    settings.sae_id,
    site=settings.site,
    layer=settings.layer,
    revision=settings.revision,
  )
  if settings.to == 'sae_lens':
    save_sae_lens(loaded, settings.target)
    return settings.target
  l0 = loaded.origin.l0 if settings.l0 is None else settings.l0
  if l0 is None:
    raise ValueError(
      f'{loaded.origin} does not say its L0, after which Gemma Scope names '
      'folders. Give --l0; experiments.sae_training.evaluate measures it.'
    )
  path = save_gemma_scope(
    loaded, settings.target, l0=l0, normalise=settings.normalise
  )
  return str(path.parent)


def work(settings: Settings, keep_flags: KeepFlags) -> str:
  """Converts or lists; returns what was written, or the list."""
  del keep_flags
  if settings.list is not None:
    return '\n'.join(list_saes(settings.list))
  return f'{convert(settings)}: written in the format of {settings.to}.'


if __name__ == '__main__':
  start(Settings, work)
