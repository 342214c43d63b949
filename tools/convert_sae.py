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

from collections.abc import Sequence

from absl import flags

from experiments.inputs import sae_source_flags
from experiments.runs import define_number, outputs, real
from sae.formats.gemma_scope import save_gemma_scope
from sae.formats.loading import load_sae
from sae.formats.releases import list_saes
from sae.formats.sae_lens import save_sae_lens

FORMATS = ('sae_lens', 'gemma_scope')


def define_flags(values: flags.FlagValues = flags.FLAGS) -> list[str]:
  """Defines this program's flags; returns their names."""
  names = sae_source_flags.define_flags(values)
  before = set(values)
  common = {'flag_values': values}
  flags.DEFINE_string(
    'list', None, 'Print the ids of this release, and do no more.', **common
  )
  flags.DEFINE_string(
    'revision', None, 'Branch, tag or commit on the hub.', **common
  )
  flags.DEFINE_string('target', None, 'Folder to write into.', **common)
  flags.DEFINE_enum('to', 'sae_lens', FORMATS, 'Format to write.', **common)
  define_number(
    'l0',
    None,
    'Mean active latents per token, which names a folder of Gemma Scope. '
    'Default: what its files say; experiments.sae_training.evaluate '
    'measures it.',
    real(0, 1e6),
    **common,
  )
  flags.DEFINE_bool(
    'normalise',
    False,
    'For gemma_scope, whose decoder rows have norm 1: rescale rows and latents '
    'where they have another.',
    **common,
  )
  return sorted([*names, *set(values) - before])


def convert(values: flags.FlagValues) -> str:
  """Does what parsed flags say; returns the folder written.

  Raises:
    FileExistsError, FileNotFoundError, ImportError, ValueError: a
      flag is missing, or see `load_sae` and the writers.
  """
  for name in ('sae', 'target'):
    if values[name].value is None:
      raise ValueError(f'--{name} is needed; see --help.')
  loaded = load_sae(
    values.sae,
    values.sae_id,
    site=values.site,
    layer=values.layer,
    revision=values.revision,
  )
  if values.to == 'sae_lens':
    save_sae_lens(loaded, values.target)
    return values.target
  l0 = loaded.origin.l0 if values.l0 is None else values.l0
  if l0 is None:
    raise ValueError(
      f'{loaded.origin} does not say its L0, after which Gemma Scope names '
      'folders. Give --l0; experiments.sae_training.evaluate measures it.'
    )
  path = save_gemma_scope(
    loaded, values.target, l0=l0, normalise=values.normalise
  )
  return str(path.parent)


def run(values: flags.FlagValues, names: Sequence[str]) -> int:
  """Converts or lists; returns the exit code."""
  del names
  try:
    if values.list is not None:
      print('\n'.join(list_saes(values.list)))
    else:
      print(f'{convert(values)}: written in the format of {values.to}.')
  except (ImportError, OSError, ValueError) as error:
    return outputs.failed(error)
  return 0


if __name__ == '__main__':
  outputs.start(define_flags, run)
