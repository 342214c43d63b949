"""Small random models for tests: ours, and the same in HF transformers."""

import functools
import tempfile

import jax
import numpy as np
import torch
import transformers

import gemma_jax as gj

# Threads that wait for each other cost more than these models; test processes
# share the cores.
torch.set_num_threads(1)

_ROTARY = {
  'vocab_size': 97,
  'hidden_size': 40,
  'intermediate_size': 56,
  'num_hidden_layers': 5,
  'num_attention_heads': 4,
  'num_key_value_heads': 2,
  'head_dim': 16,
}
_GEMMA = {'query_pre_attn_scalar': 11, 'sliding_window': 5}
# Family -> HF's configuration class, and sizes that are hard on it.
FAMILIES = {
  'gemma': ('GemmaConfig', _ROTARY),
  'gemma2': ('Gemma2Config', _ROTARY | _GEMMA),
  'gemma3_text': (
    'Gemma3TextConfig',
    _ROTARY | _GEMMA | {'max_position_embeddings': 128},
  ),
  'llama': ('LlamaConfig', _ROTARY | {'tie_word_embeddings': False}),
  'mistral': ('MistralConfig', _ROTARY | {'sliding_window': 5}),
  'qwen2': (
    'Qwen2Config',
    {k: v for k, v in _ROTARY.items() if k != 'head_dim'},
  ),
  'qwen3': ('Qwen3Config', _ROTARY),
  'gpt2': (
    'GPT2Config',
    {
      'vocab_size': 97,
      'n_embd': 40,
      'n_inner': 56,
      'n_layer': 5,
      'n_head': 4,
      'n_positions': 64,
      'bos_token_id': 2,
      'eos_token_id': 1,
    },
  ),
  'opt': (
    'OPTConfig',
    {
      'vocab_size': 97,
      'hidden_size': 40,
      'word_embed_proj_dim': 40,
      'ffn_dim': 56,
      'num_hidden_layers': 5,
      'num_attention_heads': 4,
      'max_position_embeddings': 64,
    },
  ),
}


@functools.cache
def pair(seed: int = 0, family: str = 'gemma2', **overrides):
  """(HF model in float32, our model with the same weights).

  Gains of norms are far from 1, biases from 0, and matrices are large, so that
  a forgotten gain, bias, cap or scale shows.
  """
  kind, sizes = FAMILIES[family]
  config = getattr(transformers, kind)(**_plain(sizes | overrides))
  config._attn_implementation = 'eager'
  hf = transformers.AutoModelForCausalLM.from_config(
    config, attn_implementation='eager'
  ).eval()
  generator = torch.Generator().manual_seed(seed)
  offset = 0.0 if family.startswith('gemma') else 1.0
  with torch.no_grad():
    for name, parameter in hf.named_parameters():
      gain = parameter.ndim == 1 and name.endswith('weight')
      std = 1.5 * parameter.shape[-1] ** -0.5 if parameter.ndim > 1 else 0.3
      mean = offset if gain else 0.0
      parameter.normal_(mean, std, generator=generator)
    # Tokens repeat less when their embeddings differ in length.
    hf.get_input_embeddings().weight.mul_(0.3)
  with tempfile.TemporaryDirectory() as folder:
    hf.save_pretrained(folder)
    return hf, gj.load_checkpoint(folder)


def _plain(value):
  """Tuples of pairs, which `functools.cache` can hash, as dictionaries."""
  if isinstance(value, tuple) and value and isinstance(value[0], tuple):
    return {key: _plain(item) for key, item in value}
  if isinstance(value, dict):
    return {key: _plain(item) for key, item in value.items()}
  return list(value) if isinstance(value, tuple) else value


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
