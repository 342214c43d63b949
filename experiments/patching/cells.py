"""What is patched: maps of cells, a layer by a token or by a head.

  resid_pre   layer x token   the stream entering the layer
  attn_out    layer x token   what attention adds to it
  mlp_out     layer x token   what the MLP adds to it
  z_last      layer x head    a head's output, at the last token
  z_all       layer x head    the same, at all tokens at once

A patch never reaches a layer below it or a token before it.
"""

from collections.abc import Mapping
from typing import Literal

import numpy as np

import gemma_jax as gj

Map = Literal['resid_pre', 'attn_out', 'mlp_out', 'z_last', 'z_all']
# Map -> its site.
TOKEN_MAPS = {site: site for site in ('resid_pre', 'attn_out', 'mlp_out')}
HEAD_MAPS = {'z_last': 'z', 'z_all': 'z'}
MAPS = TOKEN_MAPS | HEAD_MAPS

# 'denoising' puts the known entity's activations into the unknown one's run,
# as published; 'noising' is the opposite.
DIRECTIONS = ('denoising', 'noising')


def map_shape(
  config: gj.ModelConfig, name: str, num_tokens: int
) -> tuple[int, int]:
  """Returns the layers, and the tokens or heads, of a map.

  Raises:
    KeyError: there is no such map.
  """
  if name not in MAPS:
    raise KeyError(f'{name!r} is not one of the maps {", ".join(MAPS)}.')
  columns = num_tokens if name in TOKEN_MAPS else config.num_heads
  return config.num_layers, columns


def first_slot(name: str, column: int, num_tokens: int, differ: int) -> int:
  """Returns the first token that a cell's patch changes.

  Args:
    name: The map.
    column: The cell's token or head.
    num_tokens: T.
    differ: The first token in which prompts differ: before it, activations of
      both runs are the same.
  """
  if name in TOKEN_MAPS:
    return column
  return num_tokens - 1 if name == 'z_last' else differ


def every_cell(
  config: gj.ModelConfig, num_tokens: int, names=tuple(MAPS)
) -> dict[str, np.ndarray]:
  """Returns bool [L, X] for each map: all of its cells."""
  return {
    name: np.ones(map_shape(config, name, num_tokens), bool) for name in names
  }


def moving_cells(name: str, shape: tuple[int, int], differ: int) -> np.ndarray:
  """Returns bool [L, X]: cells where the two runs can differ at all."""
  moving = np.ones(shape, bool)
  if name in TOKEN_MAPS:
    moving[:, :differ] = False
  return moving


def top_cells(
  scores: Mapping[str, np.ndarray], count: int
) -> dict[str, np.ndarray]:
  """Returns bool [L, X] for each map: cells of the largest |score| [L, X]."""
  chosen = {}
  for name, score in scores.items():
    order = np.argsort(-np.abs(score), axis=None, kind='stable')
    chosen[name] = np.zeros(score.shape, bool)
    chosen[name].flat[order[:count]] = True
  return chosen
