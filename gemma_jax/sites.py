"""Names of the places where activations are read and changed.

A *site* is a tensor that every layer computes once; together with a 0-based
layer it names one activation. The seven canonical sites, in the order of
computation, with the tensor of HF transformers that equals each:

  resid_pre    D    the stream entering the block     hidden_states[l]
  z            N*H  heads' outputs, before W_O        input of self_attn.o_proj
  attn_out     D    what attention adds to the stream output of
                    (after the post-norm)             post_attention_layernorm
  resid_mid    D    the stream between the sublayers  input of
                                                      pre_feedforward_layernorm
  mlp_act      F    gelu(gate) * up, before W_down    input of mlp.down_proj
  mlp_out      D    what the MLP adds to the stream   output of
                    (after the post-norm)             post_feedforward_layernorm
  resid_post   D    the stream leaving the block      hidden_states[l + 1], but
                                                      the last of those is after
                                                      the final norm

`attn_out_raw` and `mlp_out_raw` [D] are the sublayers' outputs before their
post-norm. Attention itself has `attn_logits` [N, P, S], the scores after soft
cap and mask, and `pattern` [N, P, S], the probabilities.

Gemma Scope's residual SAE of layer l reads resid_post[l] = resid_pre[l + 1];
the layer l of arXiv 2411.14257 is resid_pre[l]. Always name site and layer.
"""

import re

from gemma_jax.config import ModelConfig

# Edited and captured, in the order a block computes them.
VECTOR_SITES = (
  'resid_pre',
  'z',
  'attn_out_raw',
  'attn_out',
  'resid_mid',
  'mlp_act',
  'mlp_out_raw',
  'mlp_out',
  'resid_post',
)
# [N, P, S] per row: scores can be cut and captured, the pattern captured.
ATTENTION_SITES = ('attn_logits', 'pattern')
SITES = VECTOR_SITES + ATTENTION_SITES


def site_width(config: ModelConfig, site: str) -> int:
  """W, the number of features at a vector site: D, N * H or F."""
  if site not in VECTOR_SITES:
    raise KeyError(f'{site!r} is not one of the vector sites {VECTOR_SITES}.')
  wide = {'z': config.num_heads * config.head_dim, 'mlp_act': config.d_ff}
  return wide.get(site, config.d_model)


# Other tools' spellings. `{}` is the layer.
_ALIASES = {
  # TransformerLens, legacy names and those of version 3.
  'blocks.{}.hook_resid_pre': 'resid_pre',
  'blocks.{}.hook_in': 'resid_pre',
  'blocks.{}.attn.hook_z': 'z',
  'blocks.{}.hook_attn_out': 'attn_out',
  'blocks.{}.ln1_post.hook_out': 'attn_out',
  'blocks.{}.hook_resid_mid': 'resid_mid',
  'blocks.{}.ln2.hook_in': 'resid_mid',
  'blocks.{}.mlp.hook_post': 'mlp_act',
  'blocks.{}.mlp.hook_out': 'mlp_out_raw',
  'blocks.{}.hook_mlp_out': 'mlp_out',
  'blocks.{}.ln2_post.hook_out': 'mlp_out',
  'blocks.{}.hook_resid_post': 'resid_post',
  'blocks.{}.hook_out': 'resid_post',
  'blocks.{}.attn.hook_attn_scores': 'attn_logits',
  'blocks.{}.attn.hook_pattern': 'pattern',
  # HF transformers modules.
  'model.layers.{}.self_attn.o_proj.input': 'z',
  'model.layers.{}.self_attn.output': 'attn_out_raw',
  'model.layers.{}.post_attention_layernorm.output': 'attn_out',
  'model.layers.{}.pre_feedforward_layernorm.input': 'resid_mid',
  'model.layers.{}.mlp.down_proj.input': 'mlp_act',
  'model.layers.{}.mlp.output': 'mlp_out_raw',
  'model.layers.{}.post_feedforward_layernorm.output': 'mlp_out',
  'model.layers.{}.input': 'resid_pre',
  # Right for every layer: the entry that HF normalises has index L.
  'hidden_states[{}]': 'resid_pre',
  'model.layers.{}.output': 'resid_post',
  # interp-engine and nnterp.
  'resid_pre.{}': 'resid_pre',
  'z.{}': 'z',
  'attn_out_post.{}': 'attn_out',
  'resid_mid.{}': 'resid_mid',
  'mlp_act.{}': 'mlp_act',
  'mlp_out_post.{}': 'mlp_out',
  'resid_post.{}': 'resid_post',
  'attn_scores.{}': 'attn_logits',
  'attn_probs.{}': 'pattern',
  'model.layers_input[{}]': 'resid_pre',
  'model.layers_output[{}]': 'resid_post',
}
# Spellings that denote different tensors in different tools.
_AMBIGUOUS = {
  'attn_out.{}': ('attn_out', 'attn_out_raw'),
  'mlp_out.{}': ('mlp_out', 'mlp_out_raw'),
  'blocks.{}.attn.hook_out': ('resid_mid', 'attn_out_raw'),
}


def parse_site(name: str) -> tuple[str, int | None]:
  """Reads any known spelling of a site.

  Args:
    name: A canonical name ('resid_post'), or a name with a layer as
      TransformerLens ('blocks.5.hook_resid_post'; 'hook_resid_post' alone
      too), HF ('model.layers.5.mlp.output'), interp-engine ('resid_post.5') or
      nnterp ('model.layers_output[5]') write it.

  Returns:
    The canonical site, and the layer, or None where the name carries none.

  Raises:
    KeyError: the name is unknown, or denotes different tensors in different
      tools; the error lists the candidates.
  """
  if name in SITES:
    return name, None
  number = re.search(r'\d+', name)
  layer = int(number.group()) if number else None
  pattern = re.sub(r'\d+', '{}', name, count=1)
  if pattern in _AMBIGUOUS:
    raise KeyError(
      f'{name!r} names different tensors in different tools. Say which: '
      f'{" or ".join(_AMBIGUOUS[pattern])}.'
    )
  if layer is None:
    # A hook's name without its layer; z and pattern are inside attention.
    inside = 'attn.' if name in ('hook_z', 'hook_pattern') else ''
    if name.startswith(('hook_', 'attn.', 'mlp.')):
      pattern = f'blocks.{{}}.{inside}{name}'
  if pattern not in _ALIASES:
    raise KeyError(
      f'Unknown site {name!r}. Sites are {", ".join(SITES)}; also accepted: '
      'the names of TransformerLens (blocks.5.hook_resid_post), HF '
      '(model.layers.5.mlp.output), interp-engine (resid_post.5) and nnterp '
      '(model.layers_output[5]).'
    )
  return _ALIASES[pattern], layer
