"""ModelConfig: published sizes, and config.json of every family both ways.

The references are HF's configuration and rotary classes, and the files and
parameter counts that were published.
"""

import dataclasses
import json
import math

import jax
import numpy as np
import pytest
import torch
import transformers

import gemma_jax as gj
from gemma_jax.config import GLOBAL_WINDOW
from gemma_jax.weights import init_model
from tests import tiny

# As they were published, but for what says nothing about the model.
PUBLISHED = {
  'gemma-2-2b': {
    'architectures': ['Gemma2ForCausalLM'],
    'attention_bias': False,
    'attention_dropout': 0.0,
    'attn_logit_softcapping': 50.0,
    'bos_token_id': 2,
    'cache_implementation': 'hybrid',
    'eos_token_id': 1,
    'final_logit_softcapping': 30.0,
    'head_dim': 256,
    'hidden_act': 'gelu_pytorch_tanh',
    'hidden_activation': 'gelu_pytorch_tanh',
    'hidden_size': 2304,
    'initializer_range': 0.02,
    'intermediate_size': 9216,
    'max_position_embeddings': 8192,
    'model_type': 'gemma2',
    'num_attention_heads': 8,
    'num_hidden_layers': 26,
    'num_key_value_heads': 4,
    'pad_token_id': 0,
    'query_pre_attn_scalar': 256,
    'rms_norm_eps': 1e-06,
    'rope_theta': 10000.0,
    'sliding_window': 4096,
    'torch_dtype': 'float32',
    'transformers_version': '4.42.4',
    'use_cache': True,
    'vocab_size': 256000,
  },
  # Its hidden_act says "gelu" and means the tanh form.
  'gemma-2b': {
    'architectures': ['GemmaForCausalLM'],
    'attention_bias': False,
    'attention_dropout': 0.0,
    'bos_token_id': 2,
    'eos_token_id': 1,
    'head_dim': 256,
    'hidden_act': 'gelu',
    'hidden_size': 2048,
    'initializer_range': 0.02,
    'intermediate_size': 16384,
    'max_position_embeddings': 8192,
    'model_type': 'gemma',
    'num_attention_heads': 8,
    'num_hidden_layers': 18,
    'num_key_value_heads': 1,
    'pad_token_id': 0,
    'rms_norm_eps': 1e-06,
    'rope_scaling': None,
    'rope_theta': 10000.0,
    'vocab_size': 256000,
  },
  # Sparse: what it leaves out is HF's default of the text model.
  'gemma-3-4b': {
    'architectures': ['Gemma3ForConditionalGeneration'],
    'boi_token_index': 255999,
    'eoi_token_index': 256000,
    'eos_token_id': 1,
    'image_token_index': 262144,
    'initializer_range': 0.02,
    'mm_tokens_per_image': 256,
    'model_type': 'gemma3',
    'text_config': {
      'hidden_size': 2560,
      'intermediate_size': 10240,
      'model_type': 'gemma3_text',
      'num_hidden_layers': 34,
      'rope_scaling': {'factor': 8.0, 'rope_type': 'linear'},
      'sliding_window': 1024,
    },
    'torch_dtype': 'bfloat16',
    'vision_config': {'hidden_size': 1152, 'model_type': 'siglip_vision_model'},
  },
  'llama-3.1-8b': {
    'architectures': ['LlamaForCausalLM'],
    'attention_bias': False,
    'attention_dropout': 0.0,
    'bos_token_id': 128000,
    'eos_token_id': 128001,
    'hidden_act': 'silu',
    'hidden_size': 4096,
    'intermediate_size': 14336,
    'max_position_embeddings': 131072,
    'mlp_bias': False,
    'model_type': 'llama',
    'num_attention_heads': 32,
    'num_hidden_layers': 32,
    'num_key_value_heads': 8,
    'pretraining_tp': 1,
    'rms_norm_eps': 1e-05,
    'rope_scaling': {
      'factor': 8.0,
      'low_freq_factor': 1.0,
      'high_freq_factor': 4.0,
      'original_max_position_embeddings': 8192,
      'rope_type': 'llama3',
    },
    'rope_theta': 500000.0,
    'tie_word_embeddings': False,
    'vocab_size': 128256,
  },
  'gpt2': {
    'activation_function': 'gelu_new',
    'architectures': ['GPT2LMHeadModel'],
    'attn_pdrop': 0.1,
    'bos_token_id': 50256,
    'embd_pdrop': 0.1,
    'eos_token_id': 50256,
    'initializer_range': 0.02,
    'layer_norm_epsilon': 1e-05,
    'model_type': 'gpt2',
    'n_ctx': 1024,
    'n_embd': 768,
    'n_head': 12,
    'n_layer': 12,
    'n_positions': 1024,
    'resid_pdrop': 0.1,
    'summary_activation': None,
    'summary_first_dropout': 0.1,
    'summary_proj_to_labels': True,
    'summary_type': 'cls_index',
    'summary_use_proj': True,
    'task_specific_params': {'text-generation': {'do_sample': True}},
    'vocab_size': 50257,
  },
  'opt-125m': {
    '_name_or_path': 'facebook/opt-125m',
    'activation_dropout': 0.0,
    'activation_function': 'relu',
    'architectures': ['OPTForCausalLM'],
    'attention_dropout': 0.0,
    'bos_token_id': 2,
    'do_layer_norm_before': True,
    'dropout': 0.1,
    'eos_token_id': 2,
    'ffn_dim': 3072,
    'hidden_size': 768,
    'init_std': 0.02,
    'layerdrop': 0.0,
    'max_position_embeddings': 2048,
    'model_type': 'opt',
    'num_attention_heads': 12,
    'num_hidden_layers': 12,
    'pad_token_id': 1,
    'prefix': '</s>',
    'vocab_size': 50272,
    'word_embed_proj_dim': 768,
  },
}
# Families' own fields at values that are not their defaults.
_ROPE = {'rope_type': 'default', 'rope_theta': 50_000.0}
_LINEAR = {'rope_type': 'linear', 'rope_theta': 1e6, 'factor': 4.0}
_LLAMA3 = {
  'rope_type': 'llama3',
  'rope_theta': 5e5,
  'factor': 8.0,
  'low_freq_factor': 1.0,
  'high_freq_factor': 4.0,
  'original_max_position_embeddings': 16,
}
ODD = [
  ('gemma', {'rope_parameters': _ROPE, 'eos_token_id': [1, 17]}),
  (
    'gemma2',
    {
      'attn_logit_softcapping': None,
      'final_logit_softcapping': 7.0,
      'layer_types': ['full_attention', *['sliding_attention'] * 4],
      'rms_norm_eps': 1e-5,
      'max_position_embeddings': 99,
      'pad_token_id': 3,
      'bos_token_id': 4,
      'eos_token_id': [1, 17],
    },
  ),
  (
    'gemma3_text',
    {
      'layer_types': [*['sliding_attention'] * 3, 'full_attention']
      + ['sliding_attention'],
      'rope_parameters': {
        'full_attention': _LINEAR,
        'sliding_attention': _ROPE,
      },
      'tie_word_embeddings': False,
    },
  ),
  ('llama', {'rope_parameters': _LLAMA3, 'pad_token_id': 0}),
  ('llama', {'attention_bias': True, 'mlp_bias': True, 'head_dim': 12}),
  ('llama', {'rope_parameters': _LINEAR, 'tie_word_embeddings': True}),
  ('mistral', {'sliding_window': None, 'eos_token_id': None}),
  ('mistral', {'sliding_window': 7}),
  (
    'qwen2',
    {'use_sliding_window': True, 'sliding_window': 6, 'max_window_layers': 2},
  ),
  ('qwen2', {'bos_token_id': None, 'eos_token_id': 5}),
  ('qwen3', {'attention_bias': True, 'rope_parameters': _ROPE}),
  (
    'qwen3',
    {'use_sliding_window': True, 'sliding_window': 6, 'max_window_layers': 3},
  ),
  ('gpt2', {'n_inner': None, 'activation_function': 'gelu_pytorch_tanh'}),
  ('gpt2', {'layer_norm_epsilon': 1e-3, 'tie_word_embeddings': False}),
  ('opt', {'tie_word_embeddings': False, 'max_position_embeddings': 30}),
]


def hf_config(family, **overrides):
  kind, sizes = tiny.FAMILIES[family]
  return getattr(transformers, kind)(**sizes | overrides)


def read_by_hf(config, folder):
  """What transformers reads of the config.json that we write."""
  fields = json.dumps(gj.config_fields(config))
  (folder / 'config.json').write_text(fields)
  return transformers.AutoConfig.from_pretrained(folder)


@pytest.mark.parametrize(
  'name, count',
  [
    ('gpt2', 124_439_808),
    ('gpt2-medium', 354_823_168),
    ('gpt2-large', 774_030_080),
    ('gpt2-xl', 1_557_611_200),
    ('opt-125m', 125_239_296),
    ('opt-1.3b', 1_315_758_080),
    ('gemma-2b', 2_506_172_416),
    ('gemma-7b', 8_537_680_896),
    ('gemma-2-2b', 2_614_341_888),
    ('gemma-2-9b', 9_241_705_984),
    ('gemma-2-27b', 27_227_128_320),
    ('gemma-3-270m', 268_098_176),
    ('gemma-3-1b', 999_885_952),
    ('smollm2-135m', 134_515_008),
    ('llama-3.1-8b', 8_030_261_248),
  ],
)
def test_presets_have_the_published_number_of_parameters(name, count):
  shapes = jax.eval_shape(
    lambda key: init_model(gj.preset(name), key), jax.random.key(0)
  )
  assert sum(math.prod(a.shape) for a in jax.tree.leaves(shapes)) == count


@pytest.mark.parametrize('name', PUBLISHED)
def test_published_configs_are_read_as_the_presets(name):
  assert gj.read_config(PUBLISHED[name]) == gj.preset(name)


def test_presets_are_found_by_hub_ids():
  assert gj.preset('google/gemma-2-2b-it') is gj.preset('gemma-2-2b')
  assert gj.preset('meta-llama/Llama-3.1-8B-Instruct').num_kv_heads == 8
  with pytest.raises(KeyError, match="'gpt-5' is not a known size.*gemma-2-2b"):
    gj.preset('gpt-5')


def test_windows_of_layers():
  windows = gj.preset('gemma-2-2b').windows
  assert windows.dtype == np.int32
  assert windows[:4].tolist() == [4096, GLOBAL_WINDOW, 4096, GLOBAL_WINDOW]
  five_of_six = gj.preset('gemma-3-1b').windows.tolist()
  assert five_of_six[:6] == [512] * 5 + [GLOBAL_WINDOW]
  assert set(gj.preset('gpt2').windows.tolist()) == {GLOBAL_WINDOW}


@pytest.mark.parametrize('name', gj.PRESETS)
def test_transformers_reads_the_presets_as_we_write_them(name, tmp_path):
  config = gj.preset(name)
  hf = read_by_hf(config, tmp_path)
  assert hf.model_type == config.family
  assert hf.hidden_size == config.d_model
  assert hf.num_hidden_layers == config.num_layers
  assert hf.num_attention_heads == config.num_heads
  assert hf.vocab_size == config.vocab_size
  assert hf.max_position_embeddings == config.max_positions
  assert hf.tie_word_embeddings == config.tied
  hf.save_pretrained(tmp_path / 'again')
  assert gj.read_config(tmp_path / 'again') == config


@pytest.mark.parametrize(
  'family, odd', [(family, {}) for family in tiny.FAMILIES] + ODD
)
def test_hf_to_ours_to_hf_loses_nothing(family, odd, tmp_path):
  """Every field of HF's class that says something about the model."""
  hf = hf_config(family, **odd)
  hf.save_pretrained(tmp_path)
  config = gj.read_config(tmp_path)
  again = read_by_hf(config, tmp_path)
  assert type(again) is type(hf)
  silent = {'architectures', 'dtype', 'transformers_version', '_name_or_path'}
  # Implied by other fields, or by the class.
  silent |= {'max_window_layers', 'n_inner', 'activation_function', 'head_dim'}
  silent |= gj.FAMILIES[family].allowed.keys()
  got, want = (
    {k: v for k, v in c.to_dict().items() if k not in silent}
    for c in (again, hf)
  )
  assert got == want
  again.save_pretrained(tmp_path / 'again')
  assert gj.read_config(tmp_path / 'again') == config
  with torch.device('meta'):
    other = transformers.AutoModelForCausalLM.from_config(again)
  ours = jax.eval_shape(lambda: init_model(config, jax.random.key(0)))
  assert other.num_parameters() == sum(
    math.prod(a.shape) for a in jax.tree.leaves(ours)
  )


def test_what_is_in_a_config_reaches_its_field():
  config = gj.read_config(hf_config('gemma2', **ODD[1][1]).to_dict())
  assert config.local_layers == (False, True, True, True, True)
  assert (config.attn_softcap, config.final_softcap) == (None, 7.0)
  assert (config.pad_id, config.bos_id, config.eos_ids) == (3, 4, (1, 17))
  assert config.query_pre_attn_scalar == 11
  config = gj.read_config(hf_config('gemma3_text', **ODD[2][1]).to_dict())
  assert (config.rope_theta, config.rope_local_theta) == (1e6, 50_000)
  assert config.rope_scaling == gj.RopeScaling(factor=4.0)
  assert not config.tied
  config = gj.read_config(hf_config('llama', **ODD[4][1]).to_dict())
  assert config.qkv_bias and config.out_bias and config.mlp_bias
  assert gj.read_config(hf_config('qwen2').to_dict()).out_bias is False
  config = gj.read_config(hf_config('gpt2', n_inner=None).to_dict())
  assert (config.d_ff, config.head_dim, config.position_rows) == (160, 10, 64)
  config = gj.read_config(hf_config('opt').to_dict())
  assert (config.position_rows, config.position_offset) == (66, 2)


def test_the_rotary_base_is_found_wherever_a_version_writes_it():
  old = PUBLISHED['gemma-2-2b']
  new = {k: v for k, v in old.items() if k != 'rope_theta'}
  assert gj.read_config(new).rope_theta == 10_000
  new['rope_parameters'] = {'rope_type': 'default', 'rope_theta': 5e5}
  assert gj.read_config(new).rope_theta == 5e5
  # Gemma 3 of transformers 4 and 5.
  text = hf_config('gemma3_text').to_dict()
  text.pop('rope_parameters')
  old = text | {
    'rope_theta': 7e5,
    'rope_local_base_freq': 2e4,
    'rope_scaling': {'factor': 8.0, 'rope_type': 'linear'},
  }
  new = text | {
    'rope_parameters': {
      'full_attention': _LINEAR | {'rope_theta': 7e5, 'factor': 8.0},
      'sliding_attention': {'rope_type': 'default', 'rope_theta': 2e4},
    }
  }
  assert gj.read_config(old) == gj.read_config(new)
  assert gj.read_config(old).rope_local_theta == 2e4


def test_a_multimodal_config_is_that_of_its_text_model():
  said = PUBLISHED['gemma-3-4b']
  text = transformers.Gemma3Config(**said).text_config
  config = gj.read_config(said)
  assert config.family == 'gemma3_text'
  for ours, theirs in gj.FAMILIES['gemma3_text'].fields.items():
    if ours not in ('pad_token_id', 'bos_token_id'):
      assert getattr(config, theirs) == getattr(text, ours), ours
  local = [kind == 'sliding_attention' for kind in text.layer_types]
  assert config.local_layers == tuple(local)
  assert config.rope_scaling == gj.RopeScaling(factor=8.0)
  # Later ones give everything, and stop tokens beside it.
  full = said | {'text_config': text.to_dict(), 'eos_token_id': [1, 106]}
  assert gj.read_config(full) == dataclasses.replace(config, eos_ids=(1, 106))
  with pytest.raises(ValueError, match='num_experts=8 beside text_config'):
    gj.read_config(said | {'num_experts': 8})


@pytest.mark.parametrize(
  'family, parameters',
  [
    ('llama', _ROPE),
    ('llama', _LLAMA3),
    (
      'llama',
      _LLAMA3 | {'factor': 32.0, 'original_max_position_embeddings': 8192},
    ),
    ('llama', _LINEAR),
    ('gemma2', _ROPE),
    ('qwen3', _ROPE | {'rope_theta': 1e6}),
    (
      'gemma3_text',
      {
        'full_attention': _LINEAR,
        'sliding_attention': _ROPE | {'rope_theta': 1e4},
      },
    ),
  ],
)
@pytest.mark.parametrize('head_dim', [16, 256])
def test_frequencies_are_hfs_to_one_ulp(family, parameters, head_dim):
  types = ['sliding_attention', 'full_attention'] * 2 + ['full_attention']
  odd = {'rope_parameters': parameters, 'head_dim': head_dim}
  if family == 'gemma3_text':
    odd['layer_types'] = types
  hf = hf_config(family, **odd)
  with torch.device('meta'):
    model = transformers.AutoModelForCausalLM.from_config(hf)
  rotary = type(model.model.rotary_emb)(hf)
  ours = gj.read_config(hf.to_dict()).frequencies
  assert ours.shape == (5, head_dim // 2) and ours.dtype == np.float32
  for layer in range(5):
    kind = f'{types[layer]}_' if family == 'gemma3_text' else ''
    theirs = getattr(rotary, f'{kind}inv_freq').numpy()
    np.testing.assert_array_max_ulp(ours[layer], theirs, maxulp=1)


def test_read_config_takes_a_folder_a_file_and_a_mapping(tmp_path):
  config = gj.preset('gemma-2-2b')
  path = tmp_path / 'config.json'
  path.write_text(json.dumps(PUBLISHED['gemma-2-2b']))
  assert gj.read_config(tmp_path) == config
  assert gj.read_config(str(path)) == config
  assert gj.read_config(PUBLISHED['gemma-2-2b']) == config


_YARN = {'rope_type': 'yarn', 'factor': 4.0, 'rope_theta': 1e4}
# family, field, value, what the message says besides the field
REFUSED = [
  ('gemma2', 'model_type', 'mamba', "'mamba'.*not supported.*gemma2.*llama"),
  ('gemma2', 'model_type', None, 'None.*not supported'),
  ('gemma2', 'model_type', 'gemma3n_text', 'not supported'),
  ('gemma2', 'hidden_activation', 'gelu', "'gelu'.*'gelu_pytorch_tanh'"),
  ('gemma2', 'hidden_act', 'silu', "'silu'.*'gelu_pytorch_tanh'"),
  ('gemma2', 'attention_bias', True, 'True.*False'),
  ('gemma2', 'attention_dropout', 0.1, '0.1.*expected 0'),
  ('gemma2', 'use_bidirectional_attention', True, 'True.*None or False'),
  ('gemma2', 'quantization_config', {'bits': 4}, "'bits': 4.*gguf"),
  ('gemma2', 'pruned_heads', {'0': [1]}, r"'0': \[1\]"),
  ('gemma2', 'is_encoder_decoder', True, 'True.*False'),
  ('gemma2', 'rope_parameters', ['default'], r"\['default'\].*rope_type"),
  ('gemma2', 'rope_theta', 7.0, r'said twice.*\[7.0, 10000.0\]'),
  ('gemma2', 'layer_types', ['full_attention'], '5 values'),
  ('gemma2', 'layer_types', ['chunked_attention'] * 5, "'chunked_attention'"),
  ('gemma2', 'layer_types', 'full_attention', "'full_attention'.*5 values"),
  ('gemma2', 'sliding_window_size', 512, '512.*sliding_window'),
  ('gemma2', 'sliding_window', None, 'window'),
  ('gemma2', 'num_hidden_layers', '5', "'5'.*an integer"),
  ('gemma2', 'num_hidden_layers', 5.0, '5.0.*an integer'),
  ('gemma2', 'hidden_size', True, 'True.*an integer'),
  ('gemma2', 'query_pre_attn_scalar', '256', "'256'.*number"),
  ('gemma2', 'eos_token_id', [1, 'stop'], "'stop'.*integer"),
  ('gemma2', 'attn_logit_softcapping', 0.0, '0.0'),
  ('gemma2', 'final_logit_softcapping', -30.0, '-30.0'),
  ('gemma2', 'num_key_value_heads', 3, '4.*3'),
  ('gemma2', 'head_dim', 255, '255'),
  ('gemma2', 'tie_word_embeddings', 1, '1.*true or false'),
  ('gemma2', 'qk_norm', True, 'unknown field qk_norm=True'),
  ('gemma2', 'mlp_multiplier', 2, 'unknown field mlp_multiplier=2'),
  ('gemma', 'hidden_act', 'gelu_new', "'gelu_new'"),
  ('gemma', 'sliding_window', 5, 'unknown field sliding_window=5'),
  ('gemma', 'attn_logit_softcapping', 50.0, 'unknown field'),
  ('gemma3_text', 'use_bidirectional_attention', True, 'True'),
  ('gemma3_text', 'sliding_window_pattern', 'six', "'six'.*an integer"),
  ('gemma3_text', 'rope_local_base_freq', 3.0, r'\[3.0, 10000.0\]'),
  (
    'gemma3_text',
    'rope_parameters',
    {'full_attention': _ROPE, 'sliding_attention': _LINEAR},
    'one scaling, of the global layers',
  ),
  (
    'gemma3_text',
    'rope_parameters',
    {'full_attention': _ROPE, 'chunked_attention': _ROPE},
    'chunked_attention',
  ),
  ('llama', 'rope_parameters', _YARN, "'yarn'.*'linear'"),
  ('llama', 'rope_parameters', _YARN | {'rope_type': 'dynamic'}, "'dynamic'"),
  ('llama', 'rope_parameters', _YARN | {'rope_type': 'longrope'}, 'longrope'),
  ('llama', 'rope_parameters', {'rope_type': 'linear'}, 'factor'),
  ('llama', 'rope_parameters', _LINEAR | {'factor': -1.0}, 'factor=-1.0'),
  ('llama', 'rope_parameters', _LINEAR | {'factor': '8'}, "factor='8'"),
  (
    'llama',
    'rope_parameters',
    _LLAMA3 | {'low_freq_factor': 4.0},
    'low_freq_factor below',
  ),
  (
    'llama',
    'rope_parameters',
    _ROPE | {'partial_rotary_factor': 0.5},
    'partial',
  ),
  ('llama', 'rope_parameters', {'rope_theta': '1e4'}, "'1e4'.*number"),
  ('llama', 'rope_scaling', {'type': 'dynamic', 'factor': 2.0}, 'dynamic'),
  ('llama', 'rope_theta', 500.0, r'\[500.0, 10000.0\]'),
  ('llama', 'hidden_act', 'gelu', "'gelu'.*'silu'"),
  ('llama', 'pretraining_tp', 2, '2.*expected 1'),
  ('llama', 'attention_bias', 'no', "'no'.*true or false"),
  ('llama', 'sliding_window', 5, 'unknown field sliding_window=5'),
  ('llama', 'num_experts', 8, 'unknown field'),
  ('mistral', 'attention_bias', True, 'unknown field attention_bias=True'),
  ('mistral', 'sliding_window', 0, '=0 .*an integer from 1'),
  ('qwen2', 'use_mrope', True, 'True.*False'),
  ('qwen2', 'layer_types', ['sliding_attention'] * 5, 'use_sliding_window'),
  ('qwen3', 'num_experts', 8, 'unknown field'),
  ('gpt2', 'activation_function', 'relu', "'relu'.*'gelu_new'"),
  ('gpt2', 'scale_attn_by_inverse_layer_idx', True, 'True.*False'),
  ('gpt2', 'scale_attn_weights', False, 'False.*True'),
  ('gpt2', 'add_cross_attention', True, 'True.*False'),
  ('gpt2', 'n_ctx', 32, '32.*n_positions, 64'),
  ('gpt2', 'n_head', 3, 'n_embd=40 must be a multiple of n_head=3'),
  ('gpt2', 'rope_theta', 1e4, 'unknown field rope_theta'),
  ('opt', 'activation_function', 'gelu', "'gelu'.*'relu'"),
  ('opt', 'enable_bias', False, 'False.*True'),
  ('opt', 'do_layer_norm_before', False, 'OPT-350m.*opt-125m'),
  ('opt', 'word_embed_proj_dim', 16, 'OPT-350m.*projects its embedding'),
  ('opt', '_remove_final_layer_norm', True, 'True.*False'),
  ('opt', 'num_attention_heads', 3, 'hidden_size=40.*3'),
]
# Every numeric field: values of a wrong type, or out of range.
_HUGE = 10**400
_BAD = {
  int: (0, -1, 2**31, _HUGE, 5.0, '5', [5], {}, True),
  float: (0.0, -1e-6, 1e-300, 1e39, _HUGE, '1e-6', [1e-6], {}, False),
  bool: (0, 1, 1.0, 'true', None, [True]),
}
_SIZES = 'num_hidden_layers hidden_size intermediate_size vocab_size head_dim'
for _family, _type, _fields in (
  ('gemma2', int, f'{_SIZES} num_attention_heads num_key_value_heads'),
  ('gemma2', int, 'max_position_embeddings sliding_window'),
  ('gemma2', float, 'rms_norm_eps query_pre_attn_scalar'),
  ('gemma2', float, 'attn_logit_softcapping final_logit_softcapping'),
  ('gemma2', bool, 'tie_word_embeddings'),
  ('gpt2', int, 'n_layer n_embd n_inner n_head n_positions'),
  ('gpt2', float, 'layer_norm_epsilon'),
  ('llama', bool, 'attention_bias mlp_bias'),
  ('qwen2', bool, 'use_sliding_window'),
  ('gemma3_text', float, 'rope_local_base_freq'),
  ('llama', float, 'rope_theta'),
):
  REFUSED += [
    (_family, _field, _value, 'expected (an integer|a .*number|true or false)')
    for _field in _fields.split()
    for _value in _BAD[_type]
  ]
REFUSED += [
  ('gemma2', 'rms_norm_eps', 2.0, '2.0.*above 0, of at most 1'),
  ('gemma2', 'num_hidden_layers', 10**9, '1000000000.*from 1 to 10000'),
  ('gemma2', 'truncated_from', 10**9, '1000000000.*from 1 to 10000'),
  ('gemma2', 'truncated_from', 5, '5.*an integer above 5'),
  ('gemma2', 'eos_token_id', [], r'\[\].*0 to 96, or a list of them, or null'),
  ('gemma2', 'eos_token_id', 97, '97.*an integer from 0 to 96'),
  ('gemma2', 'eos_token_id', [1, -1], r'\[1, -1\].*from 0 to 96'),
  ('gemma2', 'eos_token_id', True, 'True.*from 0 to 96'),
  ('gemma2', 'eos_token_id', [[1]], r'\[\[1\]\].*from 0 to 96'),
  ('gemma2', 'bos_token_id', 97, '97.*from 0 to 96, or null'),
  ('gemma2', 'bos_token_id', '2', "'2'.*expected an integer"),
  ('gemma2', 'pad_token_id', -1, '-1.*an integer from 0'),
  ('gemma2', 'pad_token_id', [0], r'\[0\].*an integer from 0'),
  ('gemma2', 'model_type', ['gemma2'], r"\['gemma2'\].*not supported"),
  ('gemma2', 'attention_bias', 0, '0.*expected False'),
  ('gemma2', 'attention_dropout', False, 'False.*expected 0'),
  ('gemma2', 'is_decoder', 1, '1.*expected False or True'),
  ('llama', 'pretraining_tp', True, 'True.*expected 1'),
  ('llama', 'rope_parameters', {'rope_type': ['linear']}, r"\['linear'\]"),
  ('llama', 'rope_parameters', {'rope_theta': 1e-300}, '1e-300.*positive'),
  (
    'llama',
    'rope_parameters',
    _LLAMA3 | {'original_max_position_embeddings': 0.5},
    'original_max_position_embeddings=0.5 .*an integer',
  ),
  ('qwen2', 'max_window_layers', '3', "'3'.*an integer from 0"),
  ('opt', 'do_layer_norm_before', 'true', 'OPT-350m'),
]
# What our own check calls it.
_OUR_NAMES = {
  'num_hidden_layers': 'num_layers',
  'num_key_value_heads': 'num_kv_heads',
  'attn_logit_softcapping': 'attn_softcap',
  'final_logit_softcapping': 'final_softcap',
  'sliding_window': 'window',
  'rope_local_base_freq': 'sliding_attention: rope_theta',
}


@pytest.mark.parametrize('family, field, value, message', REFUSED)
def test_a_config_that_we_do_not_honour_is_refused(
  family, field, value, message, tmp_path
):
  path = tmp_path / 'config.json'
  path.write_text(json.dumps(hf_config(family).to_dict() | {field: value}))
  with pytest.raises(ValueError, match=f'(?s){message}') as error:
    gj.read_config(path)
  assert str(path) in str(error.value)
  said = str(error.value)
  assert field in said or _OUR_NAMES[field] in said


@pytest.mark.parametrize('family', tiny.FAMILIES)
def test_a_missing_size_is_named(family):
  """One that HF's class has no honest default for."""
  fields = gj.FAMILIES[family].fields
  sizes = ('num_layers', 'd_model', 'num_heads')
  for field in (f for f, ours in fields.items() if ours in sizes):
    hf = hf_config(family).to_dict()
    hf.pop(field)
    with pytest.raises(ValueError, match=f'lacks {field}'):
      gj.read_config(hf)


@pytest.mark.parametrize('kind', ['BloomConfig', 'GPTNeoXConfig', 'PhiConfig'])
def test_configs_of_other_models_are_refused_by_name(kind, tmp_path):
  other = getattr(transformers, kind)()
  other.save_pretrained(tmp_path)
  with pytest.raises(ValueError, match=f'{other.model_type!r}.*Supported are'):
    gj.read_config(tmp_path)


def test_a_file_that_is_no_config_is_refused(tmp_path):
  with pytest.raises(FileNotFoundError, match='config.json does not exist'):
    gj.read_config(tmp_path)
  path = tmp_path / 'config.json'
  for content, message in (
    (b'{"model_type": ', 'is not JSON'),
    (b'\xff\xfe', 'is not JSON'),
    (b'[1, 2]', 'JSON object'),
    (b'null', 'JSON object'),
    (b'', 'is empty'),
    (b'{"rms_norm_eps": NaN}', 'NaN is no JSON number'),
    (b'{"query_pre_attn_scalar": Infinity}', 'Infinity is no JSON number'),
    (b'{"id2label": {"0": -Infinity}}', 'Infinity is no JSON number'),
    (b'{"head_dim": 1, "head_dim": 2}', "'head_dim' is given twice"),
    (b'{"a": ' + b'[' * 10**5 + b']' * 10**5 + b'}', 'nested too deep'),
  ):
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
      gj.read_config(tmp_path)
    assert str(path) in str(error.value)


def test_a_scaling_that_is_no_number_is_refused():
  for wrong in (
    {'factor': float('nan')},
    {'factor': float('inf')},
    {'factor': 0},
    {'factor': 8.0, 'original_positions': 0.5},
    {'factor': 8.0, 'low_freq_factor': float('nan')},
  ):
    with pytest.raises(ValueError, match=f'{list(wrong)[-1]}=.*expected'):
      gj.RopeScaling(**wrong)


def test_the_widest_window_is_no_window():
  """It is compared with distances as an int32, where 2^31 would wrap."""
  hf = hf_config('gemma2').to_dict() | {'sliding_window': 2**31 - 1}
  assert (gj.read_config(hf).windows > 0).all()


def test_numbers_of_numpy_make_a_config():
  config = gj.preset('gpt2')
  fields = {'num_layers': np.int64(12), 'norm_eps': np.float32(1e-5)}
  assert dataclasses.replace(config, **fields).num_layers == 12


def test_truncated():
  config = gj.read_config(hf_config('gemma2').to_dict())
  assert config.truncated(5) == config
  assert config.truncated(2).local_layers == (True, False)
  assert config.truncated(2).num_layers == 2
  assert config.truncated(3).truncated(2).truncated_from == 5
  again = gj.read_config(gj.config_fields(config.truncated(2)))
  assert again == config.truncated(2), 'saving does not forget it'
  for n in (0, 6, -1):
    with pytest.raises(ValueError, match=f'num_layers={n}.*5'):
      config.truncated(n)


@pytest.mark.parametrize(
  'wrong, words',
  [
    ({'num_kv_heads': 3}, 'num_heads=8 must be a multiple of num_kv_heads=3'),
    ({'head_dim': 7}, 'head_dim must be even'),
    ({'activation': 'swish'}, "'swish'.*gelu_tanh"),
    ({'norm': 'batch'}, "'batch'"),
    ({'local_layers': (True,)}, '26 entries, got 1'),
    ({'window': None}, 'Local layers need a window'),
    ({'d_ff': 0}, 'd_ff=0 .*an integer from 1'),
    ({'num_layers': 0, 'local_layers': ()}, 'num_layers=0 .*from 1 to 10000'),
    ({'num_layers': 10**9, 'local_layers': ()}, 'num_layers=1000000000 '),
    ({'rope_local_theta': -1.0}, 'rope_local_theta=-1.0 .*or null'),
    ({'norm_eps': float('nan')}, 'norm_eps=nan'),
    ({'norm_eps': 0.0}, 'norm_eps=0.0'),
    ({'norm_offset': float('nan')}, 'norm_offset=nan'),
    ({'query_pre_attn_scalar': float('inf')}, 'query_pre_attn_scalar=inf'),
    ({'attn_softcap': float('nan')}, 'attn_softcap=nan'),
    ({'window': 2**31}, 'window=2147483648 .*to 2147483647'),
    ({'window': 4.5}, 'window=4.5 .*an integer'),
    ({'tied': 1}, 'tied=1 .*true or false'),
    ({'eos_ids': (1, -1)}, 'eos_ids=-1'),
    ({'pad_id': -1}, 'pad_id=-1'),
    ({'truncated_from': -1}, 'truncated_from=-1'),
  ],
)
def test_sizes_that_make_no_model_are_refused(wrong, words):
  with pytest.raises(ValueError, match=words):
    dataclasses.replace(gj.preset('gemma-2-2b'), **wrong)


def test_fill_id_is_always_a_token():
  gpt2 = gj.preset('gpt2')
  assert gpt2.pad_id is None and gpt2.fill_id == 50_256
  assert gj.preset('gemma-2-2b').fill_id == 0
  for ids in ({'eos_ids': ()}, {'eos_ids': (60_000,)}, {'pad_id': 60_000}):
    config = dataclasses.replace(gpt2, **{'eos_ids': ()} | ids)
    assert config.fill_id == 0


def test_configs_are_frozen_and_hashable():
  config = gj.preset('gemma-2-2b')
  with pytest.raises(dataclasses.FrozenInstanceError):
    config.num_layers = 2
  same = dataclasses.replace(config)
  assert len({config, same, gj.preset('gemma-2-9b')}) == 2
