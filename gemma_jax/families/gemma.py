"""Gemma 1, 2 and 3, and the text tower of multimodal Gemma 3 checkpoints."""

from gemma_jax.config import SIZE, check_field
from gemma_jax.families.family import MODULES, SIZES, TENSORS, Family, stored

_DEFAULTS = {
  'norm': 'rms',
  'norm_offset': 1.0,
  'norm_eps': 1e-6,
  'gated': True,
  'activation': 'gelu_tanh',
  'scale_embedding': True,
  'tied': True,
  'max_positions': 8192,
  'pad_id': 0,
  'bos_id': 2,
  'eos_ids': (1,),
}
_ALLOWED = {
  'attention_dropout': (0, None),
  'use_bidirectional_attention': (None, False),
  'attention_bias': (False,),
}
_SANDWICH = TENSORS | {
  'layers.{}.post_attention_layernorm.weight': stored('post_attn_norm'),
  'layers.{}.pre_feedforward_layernorm.weight': stored('pre_mlp_norm'),
  'layers.{}.post_feedforward_layernorm.weight': stored('post_mlp_norm'),
}
_SANDWICH_MODULES = MODULES | {
  'attn_out': 'post_attention_layernorm.output',
  'resid_mid': 'pre_feedforward_layernorm.input',
  'mlp_out': 'post_feedforward_layernorm.output',
}

GEMMA = Family(
  model_type='gemma',
  architecture='GemmaForCausalLM',
  title='Gemma 1',
  defaults=_DEFAULTS,
  fields=SIZES,
  # Old configurations say "gelu" and mean the tanh form.
  allowed=_ALLOWED
  | {
    'hidden_act': ('gelu_pytorch_tanh', 'gelu'),
    'hidden_activation': ('gelu_pytorch_tanh', None),
  },
  tensors=TENSORS
  | {'layers.{}.post_attention_layernorm.weight': stored('pre_mlp_norm')},
  modules=MODULES
  | {
    'attn_out': 'self_attn.output',
    'resid_mid': 'post_attention_layernorm.input',
    'mlp_out': 'mlp.output',
  },
  ambiguous={
    'post_attention_layernorm.output': 'the normed input of the MLP, which is '
    'no site',
  },
)


def _alternating(ours, hf):
  """The even layers (0-based) are local, as in every public checkpoint."""
  if 'local_layers' not in ours:
    even = tuple(i % 2 == 0 for i in range(ours['num_layers']))
    ours['local_layers'] = even
  if hf.get('sliding_window_size', ours['window']) != ours['window']:
    raise ValueError(
      f'sliding_window_size={hf["sliding_window_size"]} is not supported; '
      f'expected the value of sliding_window, {ours["window"]}.'
    )


GEMMA2 = Family(
  model_type='gemma2',
  architecture='Gemma2ForCausalLM',
  title='Gemma 2',
  defaults=_DEFAULTS
  | {
    'post_norms': True,
    'window': 4096,
    'attn_softcap': 50.0,
    'final_softcap': 30.0,
  },
  fields=SIZES
  | {
    'query_pre_attn_scalar': 'query_pre_attn_scalar',
    'sliding_window': 'window',
    'attn_logit_softcapping': 'attn_softcap',
    'final_logit_softcapping': 'final_softcap',
  },
  allowed=_ALLOWED
  | {
    'hidden_activation': ('gelu_pytorch_tanh',),
    'hidden_act': ('gelu_pytorch_tanh',),
  },
  inert=frozenset(('sliding_window_size',)),
  derive=_alternating,
  layer_types=True,
  tensors=_SANDWICH,
  modules=_SANDWICH_MODULES,
)


def _five_of_six(ours, hf):
  """Returns layers' kinds without layer_types: every sixth is global."""
  pattern = hf.get('sliding_window_pattern', hf.get('_sliding_window_pattern'))
  pattern = 6 if pattern is None else pattern
  check_field(SIZE, pattern, 'sliding_window_pattern')
  if 'local_layers' not in ours:
    ours['local_layers'] = tuple(
      bool((i + 1) % pattern) for i in range(ours['num_layers'])
    )


GEMMA3 = Family(
  model_type='gemma3_text',
  architecture='Gemma3ForCausalLM',
  title='Gemma 3',
  defaults=_DEFAULTS
  | {
    'post_norms': True,
    'qk_norm': True,
    'window': 4096,
    'final_softcap': None,
    'rope_theta': 1_000_000.0,
    'rope_local_theta': 10_000.0,
    'max_positions': 131_072,
  },
  fields=SIZES
  | {
    'query_pre_attn_scalar': 'query_pre_attn_scalar',
    'sliding_window': 'window',
    'final_logit_softcapping': 'final_softcap',
  },
  allowed=_ALLOWED
  | {
    # HF has the field and does not cap.
    'attn_logit_softcapping': (None,),
    'hidden_activation': ('gelu_pytorch_tanh',),
    'hidden_act': ('gelu_pytorch_tanh',),
    'use_bidirectional_attention': (False, None),
  },
  inert=frozenset(('sliding_window_pattern', '_sliding_window_pattern')),
  derive=_five_of_six,
  layer_types=True,
  # The others are those of multimodal folders, new and old.
  prefixes=('model.', 'model.language_model.', 'language_model.model.'),
  tensors=_SANDWICH,
  other_towers=r'(model\.)?(vision_tower|multi_modal_projector)\..*',
  modules=_SANDWICH_MODULES,
)
# What HF takes where the text part of a multimodal config.json is silent
# (Gemma3TextConfig), as that of 4B is about everything but D, F and L.
GEMMA3_TEXT = {
  'vocab_size': 262_208,
  'hidden_size': 2304,
  'intermediate_size': 9216,
  'num_hidden_layers': 26,
  'num_attention_heads': 8,
  'num_key_value_heads': 4,
  'head_dim': 256,
  'query_pre_attn_scalar': 256,
}
