"""Small random models for tests: ours, and the same in HF transformers."""

import functools
import tempfile

import jax
import numpy as np
import torch
import transformers

import gemma_jax as gj

TINY = {
  'vocab_size': 97,
  'hidden_size': 40,
  'intermediate_size': 56,
  'num_hidden_layers': 5,
  'num_attention_heads': 4,
  'num_key_value_heads': 2,
  'head_dim': 16,
  'query_pre_attn_scalar': 11,
  'sliding_window': 5,
}


@functools.cache
def pair(seed: int = 0, **overrides):
  """(HF model in float32, our model with the same weights).

  Norm weights are not 0 and matrices are large, so that a forgotten gain,
  cap or scale shows.
  """
  config = transformers.Gemma2Config(
    **(TINY | overrides), attn_implementation='eager'
  )
  hf = transformers.Gemma2ForCausalLM(config).eval()
  generator = torch.Generator().manual_seed(seed)
  with torch.no_grad():
    for name, parameter in hf.named_parameters():
      std = 0.3 if 'norm' in name else 1.5 * parameter.shape[-1] ** -0.5
      parameter.normal_(0, std, generator=generator)
    # Tokens repeat less when their embeddings differ in length.
    hf.model.embed_tokens.weight.mul_(0.3)
  with tempfile.TemporaryDirectory() as folder:
    hf.save_pretrained(folder)
    return hf, gj.load_checkpoint(folder)


def ours(dtype=np.float32, seed: int = 0, **overrides) -> gj.Decoder:
  """Our model of `pair`, in another dtype."""
  model = pair(seed, **overrides)[1]
  weights = {name: w.astype(dtype) for name, w in model.weights().items()}
  return gj.Decoder(model.config, weights)


def ragged(batch: int, length: int, side: str, seed: int = 0, vocab: int = 97):
  """Tokens and positions int32 [batch, length], padded on one side.

  The first row is full, the second has one token; the others are between.
  """
  rng = np.random.default_rng(seed)
  tokens = np.zeros((batch, length), np.int32)
  positions = np.full((batch, length), -1, np.int32)
  lengths = [length, 1, *rng.integers(2, length, max(0, batch - 2))][:batch]
  for row, n in enumerate(lengths):
    at = slice(length - n, length) if side == 'left' else slice(0, n)
    tokens[row, at] = rng.integers(3, vocab, n)
    positions[row, at] = np.arange(n)
  return tokens, positions


def hf_forward(hf, tokens, positions, **kwargs):
  """HF's forward pass of a padded batch, with explicit positions."""
  with torch.no_grad():
    return hf(
      torch.tensor(tokens).long(),
      attention_mask=torch.tensor(positions >= 0).long(),
      position_ids=torch.tensor(np.maximum(positions, 0)).long(),
      use_cache=False,
      **kwargs,
    )


def count_traces(function):
  """`jax.jit(function)` and a list that grows with every compilation."""
  traces = []

  def traced(*args, **kwargs):
    traces.append(1)
    return function(*args, **kwargs)

  return jax.jit(traced), traces
