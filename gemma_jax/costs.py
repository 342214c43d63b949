"""Operations of a decoder, from its configuration; a multiply-add is two.

Norms, gates, rotations and softmax are left out: they are below 1 %.
"""

from gemma_jax.config import ModelConfig


def block_flops(config: ModelConfig) -> int:
  """Returns operations of a block's matrix products, per token.

  Attention's own products are not among them, see `attention_flops`.
  """
  heads = 2 * (config.num_heads + config.num_kv_heads) * config.head_dim
  return 2 * config.d_model * (heads + (2 + config.gated) * config.d_ff)


def attention_flops(config: ModelConfig, keys: int) -> int:
  """Returns operations of scores and values, for a query with so many keys."""
  return 4 * config.num_heads * config.head_dim * keys


def unembedding_flops(config: ModelConfig, tokens: int | None = None) -> int:
  """Returns operations of the logits of one position.

  Args:
    config: The model's configuration.
    tokens: How many tokens have a logit; None is the vocabulary.
  """
  return 2 * config.d_model * (config.vocab_size if tokens is None else tokens)
