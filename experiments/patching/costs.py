"""Operations of sweeps: what formulas say, and what is executed.

They are counted as in `gemma_jax/costs.py`. Where a formula is quoted,
attention's products are left out, as they are below 1 % for short prompts; what
is executed counts them.

Letters: n pairs, T tokens, L layers, N heads; X columns of a map.
"""

from collections.abc import Mapping

import numpy as np

from experiments.patching.cells import TOKEN_MAPS, first_slot, moving_cells
import gemma_jax as gj
from gemma_jax.costs import attention_flops, block_flops, unembedding_flops


def naive_cost(config: gj.ModelConfig, n: int, T: int, cells: int) -> int:
  """Returns operations if every cell is a whole run, as in TransformerLens."""
  logits = unembedding_flops(config)
  return cells * n * T * (config.num_layers * block_flops(config) + logits)


def minimal_cost(config: gj.ModelConfig, n: int, T: int, name: str) -> int:
  """Returns operations of what patches of all cells of a map can reach.

  n c L(L+1)/2 T(T+1)/2 for a map over tokens. A head at the last token has one
  token to run, a head at all tokens T of them.
  """
  layers = config.num_layers * (config.num_layers + 1) // 2
  if name in TOKEN_MAPS:
    tokens = T * (T + 1) // 2
  else:
    tokens = config.num_heads * (1 if name == 'z_last' else T)
  return n * block_flops(config) * layers * tokens


def sweep_cost(
  config: gj.ModelConfig,
  n: int,
  T: int,
  differ: int,
  cells: Mapping[str, np.ndarray],
) -> int:
  """Returns what `sweeps.sweep` executes, without the two recordings.

  Args:
    config: The model's config.
    n: Pairs.
    T: Tokens of each side.
    differ: First token in which pairs differ.
    cells: Map -> bool [L, X].
  """
  per_token = block_flops(config) + attention_flops(config, T)
  total = 0
  for name, wanted in cells.items():
    moving = wanted & moving_cells(name, wanted.shape, differ)
    for layer, column in np.argwhere(moving).tolist():
      tokens = T - first_slot(name, column, T, differ)
      total += n * tokens * (config.num_layers - layer) * per_token
      total += n * unembedding_flops(config, 2)
  return total


def recording_cost(config: gj.ModelConfig, n: int, T: int) -> int:
  """Returns operations of the two runs that all sweeps start from."""
  per_token = block_flops(config) + attention_flops(config, T)
  return (
    2 * n * (T * config.num_layers * per_token + unembedding_flops(config, 2))
  )
