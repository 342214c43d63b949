"""ModelConfig: published sizes, and reading and writing of config.json."""

import dataclasses
import json
import math

import jax
import numpy as np
import pytest
import transformers

from gemma_jax.config import GLOBAL_WINDOW, ModelConfig
from gemma_jax.weights import init_model

PRESETS = {
  '2b': ModelConfig.gemma2_2b(),
  '9b': ModelConfig.gemma2_9b(),
  '27b': ModelConfig.gemma2_27b(),
}
# What google/gemma-2-2b was published with.
PUBLISHED_2B = {
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
}
ODD = ModelConfig(
  num_layers=3,
  d_model=72,
  d_ff=96,
  num_heads=4,
  num_kv_heads=2,
  head_dim=16,
  vocab_size=128,
  query_pre_attn_scalar=24.0,
  window=5,
  local_layers=(False, True, True),
  attn_softcap=None,
  final_softcap=7,
  rope_theta=50_000,
  rms_norm_eps=1e-5,
  max_positions=99,
  pad_id=3,
  bos_id=4,
  eos_ids=(1, 107),
)


@pytest.mark.parametrize(
  'size, count',
  [('2b', 2_614_341_888), ('9b', 9_241_705_984), ('27b', 27_227_128_320)],
)
def test_presets_have_the_published_number_of_parameters(size, count):
  shapes = jax.eval_shape(
    lambda key: init_model(PRESETS[size], key), jax.random.key(0)
  )
  assert sum(math.prod(a.shape) for a in jax.tree.leaves(shapes)) == count


def test_even_layers_are_local():
  windows = PRESETS['2b'].windows
  assert windows.dtype == np.int32
  assert windows[:4].tolist() == [4096, GLOBAL_WINDOW, 4096, GLOBAL_WINDOW]
  assert ODD.windows.tolist() == [GLOBAL_WINDOW, 5, 5]


def test_published_config_is_read():
  assert ModelConfig.from_hf(PUBLISHED_2B) == PRESETS['2b']


def test_the_rotary_base_is_found_where_either_version_writes_it():
  new = {k: v for k, v in PUBLISHED_2B.items() if k != 'rope_theta'}
  assert ModelConfig.from_hf(new).rope_theta == 10_000
  new['rope_parameters'] = {'rope_type': 'default', 'rope_theta': 5e5}
  assert ModelConfig.from_hf(new).rope_theta == 5e5


@pytest.mark.parametrize('config', [*PRESETS.values(), ODD])
def test_hf_transformers_reads_what_we_write(config, tmp_path):
  (tmp_path / 'config.json').write_text(json.dumps(config.to_hf()))
  hf = transformers.AutoConfig.from_pretrained(tmp_path)

  assert isinstance(hf, transformers.Gemma2Config)
  assert hf.num_hidden_layers == config.num_layers
  assert hf.hidden_size == config.d_model
  assert hf.intermediate_size == config.d_ff
  assert hf.num_attention_heads == config.num_heads
  assert hf.num_key_value_heads == config.num_kv_heads
  assert hf.head_dim == config.head_dim
  assert hf.vocab_size == config.vocab_size
  assert hf.query_pre_attn_scalar == config.query_pre_attn_scalar
  assert hf.sliding_window == config.window
  local = [kind == 'sliding_attention' for kind in hf.layer_types]
  assert tuple(local) == config.local_layers
  assert hf.attn_logit_softcapping == config.attn_softcap
  assert hf.final_logit_softcapping == config.final_softcap
  assert hf.rope_parameters['rope_theta'] == config.rope_theta
  assert hf.rope_parameters['rope_type'] == 'default'
  assert hf.rms_norm_eps == config.rms_norm_eps
  assert hf.max_position_embeddings == config.max_positions
  eos = hf.eos_token_id
  assert (tuple(eos) if isinstance(eos, list) else (eos,)) == config.eos_ids
  assert (hf.pad_token_id, hf.bos_token_id) == (config.pad_id, config.bos_id)

  hf.save_pretrained(tmp_path / 'again')
  assert ModelConfig.from_hf(tmp_path / 'again') == config


def test_from_hf_takes_a_folder_a_file_and_a_mapping(tmp_path):
  path = tmp_path / 'config.json'
  path.write_text(json.dumps(ODD.to_hf()))
  assert ModelConfig.from_hf(tmp_path) == ODD
  assert ModelConfig.from_hf(str(path)) == ODD
  assert ModelConfig.from_hf(ODD.to_hf()) == ODD


# field, value, what the message says besides the field
REFUSED = [
  ('model_type', 'llama', "'llama'.*Only Gemma 2"),
  ('model_type', 'gemma3_text', "'gemma3_text'.*Only Gemma 2"),
  ('model_type', 'gemma', "'gemma'.*Only Gemma 2"),
  ('hidden_activation', 'gelu', "'gelu'.*'gelu_pytorch_tanh'"),
  ('hidden_act', 'silu', "'silu'.*'gelu_pytorch_tanh'"),
  ('attention_bias', True, 'True.*False'),
  ('tie_word_embeddings', False, 'False.*True'),
  ('attention_dropout', 0.1, '0.1.*expected 0'),
  ('use_bidirectional_attention', True, 'True.*None or False'),
  ('rope_scaling', {'type': 'linear', 'factor': 2}, "'linear'.*None"),
  ('quantization_config', {'bits': 4}, "'bits': 4.*None"),
  ('pruned_heads', {'0': [1]}, r"'0': \[1\]"),
  ('rope_parameters', {'rope_type': 'yarn', 'factor': 4}, "'yarn'.*default"),
  ('rope_parameters', {'rope_theta': 7.0}, r'10000.*\[7.0, 10000.0\]'),
  ('rope_parameters', ['default'], r"\['default'\].*rope_type"),
  ('layer_types', ['full_attention'], '26 values'),
  ('layer_types', ['chunked_attention'] * 26, "'chunked_attention'"),
  ('layer_types', 'full_attention', "'full_attention'.*26 values"),
  ('sliding_window_size', 512, '512.*sliding_window'),
  ('sliding_window', None, 'None.*an integer'),
  ('num_hidden_layers', '26', "'26'.*an integer"),
  ('num_hidden_layers', 26.0, '26.0.*an integer'),
  ('hidden_size', True, 'True.*an integer'),
  ('query_pre_attn_scalar', '256', "'256'.*a number"),
  ('eos_token_id', [1, 'stop'], "'stop'.*integer"),
  ('attn_logit_softcapping', 0.0, '0.0'),
  ('final_logit_softcapping', -30.0, '-30.0'),
  ('num_hidden_layers', 0, '0'),
  ('num_key_value_heads', 3, '8.*3'),
  ('head_dim', 255, '255'),
  ('qk_norm', True, 'unknown field qk_norm=True'),
  ('mlp_multiplier', 2, 'unknown field mlp_multiplier=2'),
]


@pytest.mark.parametrize('field, value, message', REFUSED)
def test_a_config_that_we_do_not_honour_is_refused(
  field, value, message, tmp_path
):
  path = tmp_path / 'config.json'
  path.write_text(json.dumps(PUBLISHED_2B | {field: value}))
  with pytest.raises(ValueError, match=f'(?s){message}') as error:
    ModelConfig.from_hf(path)
  assert str(path) in str(error.value)
  ours = {'num_hidden_layers': 'num_layers', 'num_key_value_heads': 'num_kv'}
  ours |= {'attn_logit_softcapping': 'attn_softcap'}
  ours |= {'final_logit_softcapping': 'final_softcap'}
  ours |= {'rope_parameters': 'rope'}
  said = str(error.value)
  assert field in said or ours[field] in said


@pytest.mark.parametrize('kind', ['LlamaConfig', 'Gemma3TextConfig'])
def test_configs_of_other_models_are_refused_by_name(kind, tmp_path):
  other = getattr(transformers, kind)()
  other.save_pretrained(tmp_path)
  with pytest.raises(ValueError, match=f'{other.model_type!r}.*Gemma 2'):
    ModelConfig.from_hf(tmp_path)


@pytest.mark.parametrize(
  'field', ['hidden_size', 'head_dim', 'query_pre_attn_scalar', 'vocab_size']
)
def test_a_missing_size_is_named(field):
  hf = {k: v for k, v in PUBLISHED_2B.items() if k != field}
  with pytest.raises(ValueError, match=f'lacks {field}'):
    ModelConfig.from_hf(hf)


def test_a_file_that_is_no_config_is_refused(tmp_path):
  with pytest.raises(FileNotFoundError, match='config.json does not exist'):
    ModelConfig.from_hf(tmp_path)
  path = tmp_path / 'config.json'
  for content, message in (
    (b'{"model_type": ', 'not valid JSON'),
    (b'\xff\xfe', 'not valid JSON'),
    (b'[1, 2]', 'JSON object'),
  ):
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
      ModelConfig.from_hf(tmp_path)
    assert str(path) in str(error.value)


def test_truncated():
  assert ODD.truncated(3) == ODD
  assert ODD.truncated(2).local_layers == (False, True)
  assert ODD.truncated(2).num_layers == 2
  for n in (0, 4, -1):
    with pytest.raises(ValueError, match=f'num_layers={n}.*3'):
      ODD.truncated(n)


def test_configs_are_frozen_and_hashable():
  with pytest.raises(dataclasses.FrozenInstanceError):
    ODD.num_layers = 2
  assert len({ODD, dataclasses.replace(ODD), PRESETS['2b']}) == 2
