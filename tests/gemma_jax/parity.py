"""Odd small models of every family, and their comparison with HF's."""

import numpy as np

import gemma_jax as gj
from tests import tiny
from tests.gemma_jax.hf_hooks import activations

_default = lambda theta: (('rope_type', 'default'), ('rope_theta', theta))
_linear = (*_default(2e4), ('rope_type', 'linear'), ('factor', 4.0))
# Stretched where the prompts are longer than 8 tokens.
_llama3 = (
  *_default(500.0),
  ('rope_type', 'llama3'),
  ('factor', 8.0),
  ('low_freq_factor', 1.0),
  ('high_freq_factor', 4.0),
  ('original_max_position_embeddings', 8),
)
_kinds = lambda word: tuple(
  {'l': 'sliding_attention', 'g': 'full_attention'}[letter] for letter in word
)
_three = {'hidden_size': 42, 'num_attention_heads': 3, 'head_dim': 10}
ONE_KV = {'num_key_value_heads': 1}
ALL_KV = {'num_key_value_heads': 4}
THREE_HEADS = _three | {'num_key_value_heads': 3}
THREE_ON_ONE = _three | ONE_KV
EPS = {'rms_norm_eps': 1e-3}
# What each family may have; a name says what is hard.
CASES = {
  'gemma': {
    'grouped heads': {},
    'one kv head': ONE_KV,
    'three heads': THREE_HEADS,
    'inexact embedding scale': THREE_ON_ONE | {'hidden_size': 72},
    'other base': {'rope_parameters': _default(500.0)} | EPS,
    'scaled, untied': {
      'rope_parameters': _linear,
      'tie_word_embeddings': False,
    },
  },
  'gemma2': {
    'grouped heads': {},
    'one kv head': ONE_KV,
    'as many kv heads': ALL_KV,
    'three heads': THREE_ON_ONE | {'query_pre_attn_scalar': 7},
    'inexact embedding scale': {'hidden_size': 72},
    'no soft caps': {
      'attn_logit_softcapping': None,
      'final_logit_softcapping': None,
    },
    'other base': {'rope_parameters': _default(500.0)} | EPS,
    'all layers local': {'layer_types': _kinds('lllll')},
  },
  'gemma3_text': {
    'all layers local': ONE_KV,
    'two bases': {
      'layer_types': _kinds('llgll'),
      'rope_parameters': (
        ('full_attention', _default(3e4)),
        ('sliding_attention', _default(50.0)),
      ),
    },
    'global layers scaled': {
      'layer_types': _kinds('lglgg'),
      'rope_parameters': (
        ('full_attention', _linear),
        ('sliding_attention', _default(1e4)),
      ),
    }
    | THREE_ON_ONE,
    'three heads': THREE_HEADS | {'layer_types': _kinds('lgggl')},
    'soft cap, untied': {
      'final_logit_softcapping': 2.0,
      'tie_word_embeddings': False,
    },
    'inexact embedding scale': {'hidden_size': 72, 'sliding_window': 1} | EPS,
  },
  'llama': {
    'untied': {},
    'tied': {'tie_word_embeddings': True} | ONE_KV,
    'biases': {'attention_bias': True, 'mlp_bias': True} | THREE_ON_ONE,
    'scaled by wavelength': {'rope_parameters': _llama3},
    'scaled': {'rope_parameters': _linear} | THREE_HEADS,
    'head_dim from d_model': {'head_dim': None, 'attention_bias': True} | EPS,
  },
  'mistral': {
    'window': {},
    'no window': {'sliding_window': None} | ONE_KV,
    'three heads': THREE_HEADS,
    'window of one': {'sliding_window': 1} | THREE_ON_ONE,
    'tied': {'tie_word_embeddings': True, 'sliding_window': 9} | EPS,
    'scaled': {'rope_parameters': _llama3, 'head_dim': None},
  },
  'qwen2': {
    'grouped heads': {},
    'upper layers local': {
      'use_sliding_window': True,
      'sliding_window': 5,
      'max_window_layers': 2,
    },
    'some layers local': {
      'use_sliding_window': True,
      'sliding_window': 3,
      'layer_types': _kinds('glglg'),
    }
    | ALL_KV,
    'three heads': {
      'hidden_size': 42,
      'num_attention_heads': 3,
      'num_key_value_heads': 1,
    },
    'tied': {'tie_word_embeddings': True} | ONE_KV | EPS,
    'scaled': {'rope_parameters': _linear},
  },
  'qwen3': {
    'grouped heads': {},
    'upper layers local': {
      'use_sliding_window': True,
      'sliding_window': 5,
      'max_window_layers': 3,
    },
    'biases': {'attention_bias': True} | THREE_ON_ONE,
    'three heads': THREE_HEADS,
    'tied': {'tie_word_embeddings': True} | ALL_KV | EPS,
    'scaled': {'rope_parameters': _linear},
  },
  'gpt2': {
    'four heads': {},
    'F from D': {'n_inner': None},
    'odd head_dim': {'n_embd': 45, 'n_head': 3},
    'one head': {'n_head': 1, 'layer_norm_epsilon': 1e-2},
    'untied': {'tie_word_embeddings': False},
    'a table that just suffices': {'n_positions': 24, 'n_head': 5},
  },
  'opt': {
    'four heads': {},
    'F below D': {'ffn_dim': 17},
    'odd head_dim': {
      'hidden_size': 45,
      'word_embed_proj_dim': 45,
      'num_attention_heads': 3,
    },
    'one head': {'num_attention_heads': 1},
    'untied': {'tie_word_embeddings': False},
    'a table that just suffices': {
      'max_position_embeddings': 24,
      'num_attention_heads': 5,
    },
  },
}
STREAMS = ('resid_pre', 'resid_mid', 'resid_post')


def assert_equals_hf(family, case):
  """Logits, patterns and every site, with padding on either side."""
  hf, model = tiny.pair(family=family, **CASES[family][case])
  for side in ('left', 'right'):
    tokens, positions = tiny.ragged(4, 24, side)
    out = gj.run(
      model,
      tokens,
      positions,
      logits_at='all',
      capture=gj.capture(*gj.VECTOR_SITES, 'pattern'),
    )
    expected, sites = activations(hf, tokens, positions)
    real = positions >= 0
    want = expected.logits.numpy()[real]
    scale = max(1, np.abs(want).max() / 4)
    np.testing.assert_allclose(
      np.asarray(out.logits)[real], want, atol=1e-4 * scale
    )
    for layer in range(5):
      for site in gj.VECTOR_SITES:
        got = np.asarray(out[site, layer])[real]
        want = sites[site][layer][real]
        error = np.linalg.norm(got - want) / np.linalg.norm(want)
        assert error < (1e-5 if site in STREAMS else 2e-5), (site, layer)
      pattern = np.moveaxis(np.asarray(out['pattern', layer]), 1, 2)
      want = np.moveaxis(expected.attentions[layer].numpy(), 1, 2)
      # Up to 1.1e-5 where vectors are short (AVX2), 2e-6 where they are long.
      np.testing.assert_allclose(pattern[real], want[real], atol=5e-5)
