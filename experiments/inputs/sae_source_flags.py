"""Flags that say which SAE is loaded, as `sae.load_sae` takes it."""

from absl import flags

from experiments.runs import LAYER, define_number


def define_flags(values: flags.FlagValues) -> list[str]:
  """Defines them; returns their names."""
  before = set(values)
  common = {'flag_values': values}
  flags.DEFINE_string(
    'sae', None, 'File, folder, release or hub id of the SAE.', **common
  )
  flags.DEFINE_string(
    'sae_id', None, 'Which SAE of a release or folder of several.', **common
  )
  flags.DEFINE_string(
    'site', None, 'What it reads, if its files do not say.', **common
  )
  define_number(
    'layer',
    None,
    'Layer that it reads, if its files do not say.',
    LAYER,
    **common,
  )
  return sorted(set(values) - before)
