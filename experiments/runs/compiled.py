"""Compiled programs, kept in a run's folder."""

import os
import pathlib

import jax


def keep_programs(folder: str | os.PathLike):
  """Has JAX keep what it compiles in a folder, and look there first.

  A study that compiles the same program for several arms, or is resumed, then
  compiles it once. A cache that the user has chosen stays.

  Args:
    folder: Made if it is not there; may be deleted at any time.
  """
  if jax.config.jax_compilation_cache_dir is not None:
    return
  path = pathlib.Path(folder)
  path.mkdir(parents=True, exist_ok=True)
  jax.config.update('jax_compilation_cache_dir', str(path))
  jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)
  jax.config.update('jax_persistent_cache_min_entry_size_bytes', -1)
