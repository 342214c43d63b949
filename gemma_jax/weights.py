"""The weights of a Gemma 2 model: 13 arrays, those of the blocks stacked.

NNX modules hold them and nothing else; they are plain pytrees, so `jax.jit`,
`jax.grad` and `jax.lax.scan` take them directly.
"""

import math

from flax import nnx
import jax
import jax.numpy as jnp

from gemma_jax import sharding
from gemma_jax.config import ModelConfig

# Name -> one letter per dimension (config.py). Orientation is the
# checkpoint's, [out, in], so that loading is stacking.
BLOCK_WEIGHTS = {
  'pre_attn_norm': 'LD',
  'wq': 'LNHD',
  'wk': 'LKHD',
  'wv': 'LKHD',
  'wo': 'LDNH',
  'post_attn_norm': 'LD',
  'pre_mlp_norm': 'LD',
  'gate': 'LFD',
  'up': 'LFD',
  'down': 'LDF',
  'post_mlp_norm': 'LD',
}
WEIGHTS = {'embed': 'VD', 'final_norm': 'D'} | BLOCK_WEIGHTS


def weight_shape(config: ModelConfig, name: str) -> tuple[int, ...]:
  """Shape of one entry of WEIGHTS."""
  sizes = {
    'L': config.num_layers,
    'D': config.d_model,
    'F': config.d_ff,
    'N': config.num_heads,
    'K': config.num_kv_heads,
    'H': config.head_dim,
    'V': config.vocab_size,
  }
  return tuple(sizes[letter] for letter in WEIGHTS[name])


class Blocks(nnx.Module):
  """The layers' weights, each with a leading axis L (BLOCK_WEIGHTS)."""

  def __init__(self, weights: dict[str, jax.Array]):
    for name in BLOCK_WEIGHTS:
      setattr(self, name, nnx.Param(weights[name]))


class Decoder(nnx.Module):
  """A Gemma 2 model: its weights and its configuration.

  Attributes:
    config: ModelConfig; static, part of what a program is compiled for.
    embed: [V, D], also the unembedding.
    blocks: Blocks; or, after `unstack_layers`, L of them without the L axis.
    final_norm: [D].
  """

  def __init__(self, config: ModelConfig, weights: dict[str, jax.Array]):
    """Takes the arrays of WEIGHTS, all of one dtype."""
    dtypes = {str(weights[name].dtype) for name in WEIGHTS}
    if len(dtypes) > 1:
      raise ValueError(f'Weights must be of one dtype, got {sorted(dtypes)}.')
    for name in WEIGHTS:
      want = weight_shape(config, name)
      if weights[name].shape != want:
        raise ValueError(
          f'{name} has shape {weights[name].shape}, expected {want} '
          f'([{", ".join(WEIGHTS[name])}]).'
        )
    self.config = config
    self.embed = nnx.Param(weights['embed'])
    self.blocks = Blocks(weights)
    self.final_norm = nnx.Param(weights['final_norm'])

  @property
  def dtype(self) -> jnp.dtype:
    """Of the weights and of the activations."""
    return self.embed.dtype

  @property
  def is_stacked(self) -> bool:
    """Whether the layers are one stack; False after `unstack_layers`."""
    return isinstance(self.blocks, Blocks)

  def weights(self) -> dict[str, jax.Array]:
    """The arrays by their names in WEIGHTS; blocks must be stacked."""
    if not self.is_stacked:
      raise ValueError(
        'The layers are unstacked; keep the model that `unstack_layers` was '
        'given for saving and resharding.'
      )
    arrays = {name: getattr(self.blocks, name)[...] for name in BLOCK_WEIGHTS}
    return {
      'embed': self.embed[...],
      'final_norm': self.final_norm[...],
    } | arrays


def init_model(
  config: ModelConfig, key: jax.Array, dtype=jnp.float32, mesh=None
) -> Decoder:
  """A model with random weights, placed by the sharding rules.

  Matrices are normal with standard deviation 1 / sqrt(inputs), so that every
  sublayer starts at unit scale; the embedding has standard deviation
  1 / sqrt(D), undone by its scale; norm weights are 0, a gain of 1.
  """
  weights = {}
  keys = jax.random.split(key, len(WEIGHTS))
  for subkey, (name, letters) in zip(keys, WEIGHTS.items(), strict=True):
    shape = weight_shape(config, name)
    placed = sharding.weight_sharding(letters, shape, mesh)
    inputs = math.prod(shape[2:]) if name == 'wo' else shape[-1]

    def draw(subkey, name=name, shape=shape, inputs=inputs):
      if name.endswith('norm'):
        return jnp.zeros(shape, dtype)
      values = jax.random.normal(subkey, shape, jnp.float32)
      return (values * inputs**-0.5).astype(dtype)

    weights[name] = jax.jit(draw, out_shardings=placed)(subkey)
  return Decoder(config, weights)


def unstack_layers(model: Decoder) -> Decoder:
  """The same model with one set of weights per layer instead of a stack.

  The forward pass then is L blocks in a row instead of one scan: the same
  numbers to rounding, without copying each layer's weights out of the stack on
  every step. On CPU that makes decoding of one row about twice as fast
  (tools/BENCHMARKS.md); compile time grows with L. Memory is that of the
  stack: drop the original.
  """
  layers = [
    Blocks({n: getattr(model.blocks, n)[...][i] for n in BLOCK_WEIGHTS})
    for i in range(model.config.num_layers)
  ]
  unstacked = Decoder(model.config, model.weights())
  unstacked.blocks = nnx.List(layers)
  return unstacked
