"""Llama 2, 3 and 3.x, SmolLM2; and what is Llama but for a row: Mistral, Qwen.

A new family is a file like this one. What its layers compute is said by
`defaults`; the rest says how its checkpoints say it.
"""

from gemma_jax.config import COUNT, FLAG, check_field
from gemma_jax.families.family import MODULES, SIZES, TENSORS, Family, stored

_DEFAULTS = {
  'norm': 'rms',
  'norm_eps': 1e-6,
  'gated': True,
  'activation': 'silu',
  'head_dim': None,  # derived
  'tied': False,
  'pad_id': None,
  'bos_id': None,
  'eos_ids': (),
}
_ALLOWED = {'hidden_act': ('silu',), 'attention_dropout': (0, None)}
# Without post-norms, the second norm reads the stream between the sublayers.
_TENSORS = TENSORS | {
  'layers.{}.post_attention_layernorm.weight': stored('pre_mlp_norm')
}
_MODULES = MODULES | {
  'attn_out': 'self_attn.output',
  'resid_mid': 'post_attention_layernorm.input',
  'mlp_out': 'mlp.output',
}
_AMBIGUOUS = {
  'post_attention_layernorm.output': 'the normed input of the MLP, which is '
  'no site',
}


def _head_dim(ours, hf):
  """HF's rule where config.json has no head_dim, or null."""
  if ours['head_dim'] is None:
    if ours['d_model'] % ours['num_heads']:
      raise ValueError(
        f'head_dim is missing, and hidden_size={ours["d_model"]} is no '
        f'multiple of num_attention_heads={ours["num_heads"]}.'
      )
    ours['head_dim'] = ours['d_model'] // ours['num_heads']


LLAMA = Family(
  model_type='llama',
  architecture='LlamaForCausalLM',
  title='Llama',
  defaults=_DEFAULTS | {'max_positions': 2048, 'bos_id': 1, 'eos_ids': (2,)},
  fields=SIZES
  | {'attention_bias': 'qkv_bias out_bias', 'mlp_bias': 'mlp_bias'},
  allowed=_ALLOWED
  | {
    'pretraining_tp': (1,),
    'is_llama_config': (True,),  # SmolLM2's
    'rope_interleaved': (False,),
  },
  unwritten=frozenset(('is_llama_config', 'rope_interleaved')),
  derive=_head_dim,
  tensors=_TENSORS,
  buffers=r'.*rotary_emb\.inv_freq',
  modules=_MODULES,
  ambiguous=_AMBIGUOUS,
)


def _mistral_window(ours, hf):
  """Every layer is local, or none is."""
  _head_dim(ours, hf)
  local = ours['window'] is not None
  ours['local_layers'] = (local,) * ours['num_layers']


MISTRAL = Family(
  model_type='mistral',
  architecture='MistralForCausalLM',
  title='Mistral',
  defaults=_DEFAULTS
  | {'max_positions': 131_072, 'bos_id': 1, 'eos_ids': (2,), 'window': 4096},
  fields=SIZES | {'sliding_window': 'window'},
  allowed=_ALLOWED,
  derive=_mistral_window,
  tensors=_TENSORS,
  modules=_MODULES,
  ambiguous=_AMBIGUOUS,
)


def _qwen_window(ours, hf):
  """No layer is local unless use_sliding_window says so; then the last are."""
  _head_dim(ours, hf)
  L = ours['num_layers']
  slides = hf.get('use_sliding_window', False)
  first = hf.get('max_window_layers', 28)
  check_field(FLAG, slides, 'use_sliding_window')
  check_field(COUNT, first, 'max_window_layers')
  if not slides:
    ours['window'] = None
    if any(ours.pop('local_layers', ())):
      raise ValueError(
        'layer_types has sliding layers, but use_sliding_window is false.'
      )
  elif 'local_layers' not in ours and ours['window'] is not None:
    ours['local_layers'] = tuple(i >= first for i in range(L))


def _qwen_extra(config):
  return {'use_sliding_window': config.window is not None}


QWEN2 = Family(
  model_type='qwen2',
  architecture='Qwen2ForCausalLM',
  title='Qwen 2',
  defaults=_DEFAULTS
  | {'max_positions': 32_768, 'window': 4096, 'qkv_bias': True},
  fields=SIZES | {'sliding_window': 'window'},
  allowed=_ALLOWED | {'use_mrope': (False,)},
  inert=frozenset(('max_window_layers', 'use_sliding_window')),
  derive=_qwen_window,
  extra=_qwen_extra,
  layer_types=True,
  tensors=_TENSORS,
  modules=_MODULES,
  ambiguous=_AMBIGUOUS,
)
QWEN3 = Family(
  model_type='qwen3',
  architecture='Qwen3ForCausalLM',
  title='Qwen 3',
  defaults=_DEFAULTS
  | {'max_positions': 32_768, 'window': 4096, 'qk_norm': True}
  | {'head_dim': 128},
  fields=SIZES
  | {'sliding_window': 'window', 'attention_bias': 'qkv_bias out_bias'},
  allowed=_ALLOWED,
  inert=frozenset(('max_window_layers', 'use_sliding_window')),
  derive=_qwen_window,
  extra=_qwen_extra,
  layer_types=True,
  tensors=_TENSORS,
  modules=_MODULES,
  ambiguous=_AMBIGUOUS,
)
