"""OPT: learned positions from row 2 on, LayerNorm, ReLU. 350m is refused."""

from gemma_jax.families.family import Family, split_heads, stored


def _sizes(ours, hf):
  """Heads of d_model / num_heads; refuses OPT-350m."""
  if hf.get('do_layer_norm_before', True) is not True or (
    hf.get('word_embed_proj_dim', ours['d_model']) != ours['d_model']
  ):
    raise ValueError(
      f'do_layer_norm_before={hf.get("do_layer_norm_before")!r} and '
      f'word_embed_proj_dim={hf.get("word_embed_proj_dim")!r} are those of '
      'OPT-350m, which norms after the sublayers and projects its embedding. '
      'It has no residual stream as the other sizes have, and is not '
      'supported; take opt-125m or opt-1.3b.'
    )
  split_heads(ours, 'hidden_size', 'num_attention_heads')
  ours['num_kv_heads'] = ours['num_heads']
  # Rows 0 and 1 of the table are of no position.
  ours['position_offset'] = 2
  ours['position_rows'] = ours['max_positions'] + 2


OPT = Family(
  model_type='opt',
  architecture='OPTForCausalLM',
  title='OPT',
  defaults={
    'norm': 'layer',
    'norm_eps': 1e-5,  # torch's LayerNorm; config.json does not say
    'qkv_bias': True,
    'out_bias': True,
    'mlp_bias': True,
    'gated': False,
    'activation': 'relu',
    'tied': True,
    'max_positions': 2048,
    'pad_id': 1,
    'bos_id': 2,
    'eos_ids': (2,),
  },
  fields={
    'num_hidden_layers': 'num_layers',
    'hidden_size': 'd_model',
    'ffn_dim': 'd_ff',
    'num_attention_heads': 'num_heads',
    'vocab_size': 'vocab_size',
    'max_position_embeddings': 'max_positions',
    'tie_word_embeddings': 'tied',
    'pad_token_id': 'pad_id',
    'bos_token_id': 'bos_id',
  },
  allowed={
    'activation_function': ('relu',),
    'enable_bias': (True,),
    'layer_norm_elementwise_affine': (True,),
    '_remove_final_layer_norm': (False,),
  },
  inert=frozenset(
    (
      'dropout attention_dropout activation_dropout layerdrop init_std prefix '
      'do_layer_norm_before word_embed_proj_dim'
    ).split()
  ),
  derive=_sizes,
  extra=lambda config: {'word_embed_proj_dim': config.d_model},
  rotary=False,
  prefixes=('model.decoder.', 'decoder.'),
  tensors={
    'embed_tokens.weight': stored('embed'),
    'embed_positions.weight': stored('positions'),
    'final_layer_norm.weight': stored('final_norm'),
    'final_layer_norm.bias': stored('final_norm_b'),
    'layers.{}.self_attn_layer_norm.weight': stored('pre_attn_norm'),
    'layers.{}.self_attn_layer_norm.bias': stored('pre_attn_norm_b'),
    'layers.{}.self_attn.q_proj.weight': stored('wq'),
    'layers.{}.self_attn.q_proj.bias': stored('bq'),
    'layers.{}.self_attn.k_proj.weight': stored('wk'),
    'layers.{}.self_attn.k_proj.bias': stored('bk'),
    'layers.{}.self_attn.v_proj.weight': stored('wv'),
    'layers.{}.self_attn.v_proj.bias': stored('bv'),
    'layers.{}.self_attn.out_proj.weight': stored('wo'),
    'layers.{}.self_attn.out_proj.bias': stored('bo'),
    'layers.{}.final_layer_norm.weight': stored('pre_mlp_norm'),
    'layers.{}.final_layer_norm.bias': stored('pre_mlp_norm_b'),
    'layers.{}.fc1.weight': stored('up'),
    'layers.{}.fc1.bias': stored('up_b'),
    'layers.{}.fc2.weight': stored('down'),
    'layers.{}.fc2.bias': stored('down_b'),
  },
  modules={
    'resid_pre': 'input',
    'z': 'self_attn.out_proj.input',
    'attn_out_raw': 'self_attn.output',
    'attn_out': 'self_attn.output',
    'resid_mid': 'final_layer_norm.input',
    'mlp_act': 'fc2.input',
    'mlp_out_raw': 'fc2.output',
    'mlp_out': 'fc2.output',
    'resid_post': 'output',
  },
  layers='model.decoder.layers',
)
