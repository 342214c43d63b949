"""Families of decoders as data: one file each, read by `hf_config.py`."""

from gemma_jax.families.family import Family, Stored
from gemma_jax.families.hf_config import (
  FAMILIES,
  config_fields,
  family_of,
  read_config,
)
from gemma_jax.families.presets import PRESETS, preset
