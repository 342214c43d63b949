"""GPT-2: learned positions, LayerNorm, fused and transposed projections."""

from gemma_jax.families.family import Family, split_heads, stored


def _sizes(ours, hf):
  """Heads of d_model / num_heads; F is 4 D unless n_inner says otherwise."""
  split_heads(ours, 'n_embd', 'n_head')
  ours['num_kv_heads'] = ours['num_heads']
  ours['position_rows'] = ours['max_positions']
  if ours['d_ff'] is None:
    ours['d_ff'] = 4 * ours['d_model']
  if hf.get('n_ctx', ours['max_positions']) != ours['max_positions']:
    raise ValueError(
      f'n_ctx={hf["n_ctx"]} is not supported; expected the value of '
      f'n_positions, {ours["max_positions"]}.'
    )


GPT2 = Family(
  model_type='gpt2',
  architecture='GPT2LMHeadModel',
  title='GPT-2',
  defaults={
    'norm': 'layer',
    'norm_eps': 1e-5,
    'qkv_bias': True,
    'out_bias': True,
    'mlp_bias': True,
    'gated': False,
    'activation': 'gelu_tanh',
    'tied': True,
    'd_ff': None,  # derived
    'max_positions': 1024,
    'vocab_size': 50_257,
    'pad_id': None,
    'bos_id': 50_256,
    'eos_ids': (50_256,),
  },
  fields={
    'n_layer': 'num_layers',
    'n_embd': 'd_model',
    'n_inner': 'd_ff',
    'n_head': 'num_heads',
    'vocab_size': 'vocab_size',
    'layer_norm_epsilon': 'norm_eps',
    'n_positions': 'max_positions',
    'tie_word_embeddings': 'tied',
    'pad_token_id': 'pad_id',
    'bos_token_id': 'bos_id',
  },
  # Both names mean the tanh form.
  allowed={
    'activation_function': ('gelu_new', 'gelu_pytorch_tanh'),
    'scale_attn_weights': (True,),
    'scale_attn_by_inverse_layer_idx': (False,),
    'reorder_and_upcast_attn': (False,),
    'add_cross_attention': (False,),
  },
  inert=frozenset(
    (
      'resid_pdrop embd_pdrop attn_pdrop summary_type summary_use_proj '
      'summary_activation summary_proj_to_labels summary_first_dropout n_ctx '
      'gradient_checkpointing'
    ).split()
  ),
  derive=_sizes,
  rotary=False,
  prefixes=('transformer.', ''),
  tensors={
    'wte.weight': stored('embed'),
    'wpe.weight': stored('positions'),
    'ln_f.weight': stored('final_norm'),
    'ln_f.bias': stored('final_norm_b'),
    'h.{}.ln_1.weight': stored('pre_attn_norm'),
    'h.{}.ln_1.bias': stored('pre_attn_norm_b'),
    'h.{}.attn.c_attn.weight': stored('wq wk wv', transposed=True),
    'h.{}.attn.c_attn.bias': stored('bq bk bv'),
    'h.{}.attn.c_proj.weight': stored('wo', transposed=True),
    'h.{}.attn.c_proj.bias': stored('bo'),
    'h.{}.ln_2.weight': stored('pre_mlp_norm'),
    'h.{}.ln_2.bias': stored('pre_mlp_norm_b'),
    'h.{}.mlp.c_fc.weight': stored('up', transposed=True),
    'h.{}.mlp.c_fc.bias': stored('up_b'),
    'h.{}.mlp.c_proj.weight': stored('down', transposed=True),
    'h.{}.mlp.c_proj.bias': stored('down_b'),
  },
  # The causal mask, which old checkpoints store.
  buffers=r'.*\.attn\.(masked_)?bias',
  modules={
    'resid_pre': 'input',
    'z': 'attn.c_proj.input',
    'attn_out_raw': 'attn.output',
    'attn_out': 'attn.output',
    'resid_mid': 'ln_2.input',
    'mlp_act': 'mlp.c_proj.input',
    'mlp_out_raw': 'mlp.output',
    'mlp_out': 'mlp.output',
    'resid_post': 'output',
  },
  layers='transformer.h',
)
