"""Operations are those that the compiler counts."""

import jax
import jax.numpy as jnp
import pytest

import gemma_jax as gj
from gemma_jax.costs import attention_flops, block_flops, unembedding_flops
from tests import tiny


@pytest.mark.parametrize('vocab_size', [97, 613])
def test_the_compilers_count(vocab_size):
  """Matrix products of a forward pass, per layer as XLA sees the scan."""
  model = tiny.ours(vocab_size=vocab_size)
  config, T = model.config, 24
  tokens = jnp.zeros((1, T), jnp.int32)
  unstacked = gj.unstack_layers(model)
  run = jax.jit(lambda m, t: gj.forward(m, t, logits_at='all').logits)
  counted = run.lower(unstacked, tokens).compile().cost_analysis()['flops']
  per_token = block_flops(config) + attention_flops(config, T)
  mine = T * (config.num_layers * per_token + unembedding_flops(config))
  assert mine < counted < 1.25 * mine
