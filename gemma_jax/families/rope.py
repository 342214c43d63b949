"""Rotary bases and scaling in `config.json`, as versions of HF write them.

Older files have rope_theta, rope_local_base_freq and rope_scaling; newer ones
have rope_parameters, with an entry per kind of layer where they differ.
"""

from collections.abc import Mapping
import dataclasses
from typing import Any

from gemma_jax.config import (
  POSITIVE,
  SIZE,
  ModelConfig,
  RopeScaling,
  check_field,
)
from gemma_jax.families.family import Family

# What HF calls local and global layers.
LAYER_TYPES = ('sliding_attention', 'full_attention')
# rope_type -> its fields, in the order of RopeScaling's.
_ROPE_TYPES = {
  'default': (),
  'linear': ('factor',),
  'llama3': (
    'factor',
    'low_freq_factor',
    'high_freq_factor',
    'original_max_position_embeddings',
  ),
}


def read_rope(hf: Mapping, family: Family) -> dict[str, Any]:
  """Rotary bases and scaling, wherever a version of HF writes them."""
  two = 'rope_local_theta' in family.defaults
  found: dict[str, Any] = {}

  def put(name, value, key):
    if value is None:
      return
    check_field(POSITIVE, value, f'{key}: {name}' if key != name else key)
    if found.setdefault(name, value) != value:
      raise ValueError(
        f'{key}: rope_theta is said twice, {found[name]!r} and {value!r}; '
        f'expected one value, got {sorted((found[name], value))}.'
      )

  put('rope_theta', hf.get('rope_theta'), 'rope_theta')
  if two:
    put(
      'rope_local_theta', hf.get('rope_local_base_freq'), 'rope_local_base_freq'
    )
  said = hf.get('rope_parameters')
  if said is None:
    groups = {'rope_scaling': (hf.get('rope_scaling'), 'rope_theta')}
  elif two and isinstance(said, Mapping) and said.keys() & set(LAYER_TYPES):
    if unknown := said.keys() - set(LAYER_TYPES):
      raise ValueError(
        f'rope_parameters={said!r} is not supported; expected '
        f'{LAYER_TYPES}, got {sorted(unknown)} too.'
      )
    groups = {
      'rope_parameters.full_attention': (
        said.get(LAYER_TYPES[1]),
        'rope_theta',
      ),
      'rope_parameters.sliding_attention': (
        said.get(LAYER_TYPES[0]),
        'rope_local_theta',
      ),
    }
  else:
    groups = {'rope_parameters': (said, 'rope_theta')}
    if hf.get('rope_scaling') not in (None, said):
      groups['rope_scaling'] = (hf['rope_scaling'], 'rope_theta')
  for key, (group, name) in groups.items():
    if group is None:
      continue
    if not isinstance(group, Mapping):
      raise ValueError(
        f'{key}={group!r} is not supported; expected an object with rope_type.'
      )
    kind = group.get('rope_type', group.get('type', 'default'))
    wanted = _ROPE_TYPES.get(kind) if isinstance(kind, str) else None
    used = {'rope_type', 'type', 'rope_theta', *(wanted or ())}
    if wanted is None or group.keys() - used or set(wanted) - group.keys():
      raise ValueError(
        f'{key}={dict(group)!r} is not supported; expected rope_type '
        "'default', 'linear' (factor) or 'llama3' "
        f'({", ".join(_ROPE_TYPES["llama3"])}), and nothing else.'
      )
    put(name, group.get('rope_theta'), key)
    if kind != 'default':
      values = [group[field] for field in wanted]
      for field, value in zip(wanted, values, strict=True):
        integer = field == 'original_max_position_embeddings'
        check_field(SIZE if integer else POSITIVE, value, f'{key}: {field}')
      if kind == 'llama3' and not values[1] < values[2]:
        raise ValueError(
          f'{key}={dict(group)!r} is not supported; expected low_freq_factor '
          'below high_freq_factor.'
        )
      if name != 'rope_theta' or 'rope_scaling' in found:
        raise ValueError(
          f'{key}={dict(group)!r} is not supported; expected one scaling, of '
          'the global layers.'
        )
      names = ('factor', 'low_freq_factor', 'high_freq_factor')
      names = (*names, 'original_positions')
      found['rope_scaling'] = RopeScaling(
        **dict(zip(names, values, strict=False))
      )
  return found


def rope_fields(config: ModelConfig, family: Family) -> dict[str, Any]:
  """`rope_parameters`, as transformers 5 writes them."""
  full = {'rope_type': 'default', 'rope_theta': float(config.rope_theta)}
  if (scaling := config.rope_scaling) is not None:
    linear = scaling.original_positions is None
    full['rope_type'] = 'linear' if linear else 'llama3'
    values = dataclasses.astuple(scaling)
    full |= dict(zip(_ROPE_TYPES[full['rope_type']], values, strict=False))
  if 'rope_local_theta' not in family.defaults:
    return {'rope_parameters': full}
  theta = config.rope_local_theta or config.rope_theta
  local = {'rope_type': 'default', 'rope_theta': float(theta)}
  return {
    'rope_parameters': {'full_attention': full, 'sliding_attention': local}
  }
