"""The weights of a decoder: a few arrays, those of the blocks stacked.

NNX modules hold them and nothing else; they are plain pytrees, so `jax.jit`,
`jax.grad` and `jax.lax.scan` take them directly.
"""

import math

from flax import nnx
import jax
import jax.numpy as jnp

from gemma_jax import sharding
from gemma_jax.config import ModelConfig

# Every weight that a family may have -> one letter per dimension (config.py).
# Orientation is [out, in], so that loading most checkpoints is stacking.
# Names that end with _b, and bq to bo, are biases.
BLOCK_LETTERS = {
  'pre_attn_norm': 'LD',
  'pre_attn_norm_b': 'LD',
  'wq': 'LNHD',
  'wk': 'LKHD',
  'wv': 'LKHD',
  'wo': 'LDNH',
  'bq': 'LNH',
  'bk': 'LKH',
  'bv': 'LKH',
  'bo': 'LD',
  'q_norm': 'LH',
  'k_norm': 'LH',
  'post_attn_norm': 'LD',
  'pre_mlp_norm': 'LD',
  'pre_mlp_norm_b': 'LD',
  'gate': 'LFD',
  'up': 'LFD',
  'down': 'LDF',
  'gate_b': 'LF',
  'up_b': 'LF',
  'down_b': 'LD',
  'post_mlp_norm': 'LD',
}
LETTERS = {
  'embed': 'VD',
  'positions': 'MD',
  'unembed': 'VD',
  'final_norm': 'D',
  'final_norm_b': 'D',
} | BLOCK_LETTERS


def weight_letters(config: ModelConfig) -> dict[str, str]:
  """Returns the weights of a model -> letters of their dimensions."""
  absent = {
    'positions': not config.position_rows,
    'unembed': config.tied,
    'gate': not config.gated,
    'gate_b': not (config.gated and config.mlp_bias),
    'bo': not config.out_bias,
  }
  absent |= dict.fromkeys(('bq', 'bk', 'bv'), not config.qkv_bias)
  absent |= dict.fromkeys(('up_b', 'down_b'), not config.mlp_bias)
  absent |= dict.fromkeys(('q_norm', 'k_norm'), not config.qk_norm)
  absent |= dict.fromkeys(
    ('post_attn_norm', 'post_mlp_norm'), not config.post_norms
  )
  absent |= dict.fromkeys(
    ('pre_attn_norm_b', 'pre_mlp_norm_b', 'final_norm_b'),
    config.norm != 'layer',
  )
  return {
    name: letters for name, letters in LETTERS.items() if not absent.get(name)
  }


def weight_shape(config: ModelConfig, name: str) -> tuple[int, ...]:
  """Shape of one of the weights."""
  sizes = {
    'L': config.num_layers,
    'D': config.d_model,
    'F': config.d_ff,
    'N': config.num_heads,
    'K': config.num_kv_heads,
    'H': config.head_dim,
    'V': config.vocab_size,
    'M': config.position_rows,
  }
  return tuple(sizes[letter] for letter in LETTERS[name])


class Blocks(nnx.Module):
  """The layers' weights, each with a leading axis L.

  Attributes are the names of BLOCK_LETTERS; None where the model has none.
  """

  def __init__(self, weights: dict[str, jax.Array]):
    for name in BLOCK_LETTERS:
      array = weights.get(name)
      setattr(self, name, None if array is None else nnx.Param(array))


class Decoder(nnx.Module):
  """A decoder: its weights and its configuration.

  Attributes:
    config: ModelConfig; static, part of what a program is compiled for.
    embed: [V, D].
    positions: [M, D], learned positions; None with rotary ones.
    unembed: [V, D]; None where the embedding serves.
    blocks: Blocks; or, after `unstack_layers`, L of them without the L axis.
    final_norm: [D].
    final_norm_b: [D]; None without LayerNorm.
  """

  def __init__(self, config: ModelConfig, weights: dict[str, jax.Array]):
    """Takes the arrays of `weight_letters(config)`, all of one dtype.

    Raises:
      ValueError: one is missing, unknown or of another shape or dtype.
    """
    letters = weight_letters(config)
    if wrong := sorted(letters.keys() ^ weights.keys()):
      raise ValueError(
        f'Weights of a {config.family} model are {", ".join(letters)}; '
        f'{wrong[0]} is {"missing" if wrong[0] in letters else "not one"}.'
      )
    dtypes = {str(array.dtype) for array in weights.values()}
    if len(dtypes) > 1:
      raise ValueError(f'Weights must be of one dtype, got {sorted(dtypes)}.')
    for name in letters:
      want = weight_shape(config, name)
      if weights[name].shape != want:
        raise ValueError(
          f'{name} has shape {weights[name].shape}, expected {want} '
          f'([{", ".join(letters[name])}]).'
        )
    self.config = config
    self.blocks = Blocks(weights)
    for name in (n for n in LETTERS if n not in BLOCK_LETTERS):
      array = weights.get(name)
      setattr(self, name, None if array is None else nnx.Param(array))

  @property
  def dtype(self) -> jnp.dtype:
    """Returns the dtype of the weights and of the activations."""
    return self.embed.dtype

  @property
  def unembedding(self) -> jax.Array:
    """[V, D]: the rows that the final stream is multiplied with."""
    return (self.embed if self.unembed is None else self.unembed)[...]

  @property
  def is_stacked(self) -> bool:
    """Returns True until `unstack_layers` took the layers apart."""
    return isinstance(self.blocks, Blocks)

  def weights(self) -> dict[str, jax.Array]:
    """Returns the arrays by their names; blocks must be stacked."""
    if not self.is_stacked:
      raise ValueError(
        'The layers are unstacked; keep the model that `unstack_layers` was '
        'given for saving and resharding.'
      )
    return {
      name: getattr(self.blocks if letters[0] == 'L' else self, name)[...]
      for name, letters in weight_letters(self.config).items()
    }


def init_model(
  config: ModelConfig, key: jax.Array, dtype=jnp.float32, mesh=None
) -> Decoder:
  """Returns a model with random weights, placed by the sharding rules.

  Matrices are normal with standard deviation 1 / sqrt(inputs), so that every
  sublayer starts at unit scale; the embedding has standard deviation
  1 / sqrt(D), undone by its scale where it has one; norms have a gain of 1,
  and biases are 0.
  """
  weights = {}
  letters = weight_letters(config)
  keys = jax.random.split(key, len(letters))
  for subkey, (name, dims) in zip(keys, letters.items(), strict=True):
    shape = weight_shape(config, name)
    placed = sharding.weight_sharding(dims, shape, mesh)
    inputs = math.prod(shape[2:]) if name == 'wo' else shape[-1]

    def draw(subkey, name=name, shape=shape, inputs=inputs):
      if is_norm(name):
        return jnp.full(shape, 1 - config.norm_offset, dtype)
      if is_bias(name):
        return jnp.zeros(shape, dtype)
      values = jax.random.normal(subkey, shape, jnp.float32)
      return (values * inputs**-0.5).astype(dtype)

    weights[name] = jax.jit(draw, out_shardings=placed)(subkey)
  return Decoder(config, weights)


def is_norm(name: str) -> bool:
  """Returns True if a weight is the gain of a norm."""
  return name.endswith('norm')


def is_bias(name: str) -> bool:
  """Returns True if a weight is a bias."""
  return name.endswith('_b') or name in ('bq', 'bk', 'bv', 'bo')


def unstack_layers(model: Decoder) -> Decoder:
  """Returns the same model with one set of weights per layer instead of a
  stack.

  The forward pass then is L blocks in a row instead of one scan: the same
  numbers to rounding, without copying each layer's weights out of the stack on
  every step. On CPU that makes decoding of one row about twice as fast
  (tools/BENCHMARKS.md); compile time grows with L. Memory is that of the
  stack: drop the original.
  """
  weights = model.weights()
  blocks = {n: array for n, array in weights.items() if n in BLOCK_LETTERS}
  layers = [
    Blocks({name: array[i] for name, array in blocks.items()})
    for i in range(model.config.num_layers)
  ]
  unstacked = Decoder(model.config, weights)
  unstacked.blocks = nnx.List(layers)
  return unstacked
