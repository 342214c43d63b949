"""What other tools call the tensors that an SAE can read.

Sites are those of `gemma_jax.SITES`, and so are the names understood here;
this package stands on its own, so it has the part that SAE files use.
"""

import re

# Tensors with a vector per token.
SITES = (
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
# TransformerLens' names, which SAELens' configurations carry; `{}` is the
# layer. These are also what is written.
_HOOKS = {
  'resid_pre': 'blocks.{}.hook_resid_pre',
  'z': 'blocks.{}.attn.hook_z',
  'attn_out': 'blocks.{}.hook_attn_out',
  'resid_mid': 'blocks.{}.hook_resid_mid',
  'mlp_act': 'blocks.{}.mlp.hook_post',
  'mlp_out_raw': 'blocks.{}.mlp.hook_out',
  'mlp_out': 'blocks.{}.hook_mlp_out',
  'resid_post': 'blocks.{}.hook_resid_post',
}
# Version 3 of TransformerLens, and modules of HF transformers, of which SAELens
# hooks the output. The module post_attention_layernorm is not here: in Gemma 2
# it follows attention, in Llama it precedes the MLP.
_ALIASES = {
  'blocks.{}.hook_in': 'resid_pre',
  'blocks.{}.hook_out': 'resid_post',
  'blocks.{}.ln1_post.hook_out': 'attn_out',
  'blocks.{}.ln2.hook_in': 'resid_mid',
  'blocks.{}.ln2_post.hook_out': 'mlp_out',
  'model.layers.{}': 'resid_post',
  'model.layers.{}.output': 'resid_post',
  'model.layers.{}.input': 'resid_pre',
  'model.layers.{}.self_attn.o_proj.input': 'z',
  'model.layers.{}.mlp': 'mlp_out_raw',
  'model.layers.{}.mlp.output': 'mlp_out_raw',
  'model.layers.{}.mlp.down_proj.input': 'mlp_act',
  'model.layers.{}.post_feedforward_layernorm': 'mlp_out',
  'model.layers.{}.post_feedforward_layernorm.output': 'mlp_out',
}
_KNOWN = {hook: site for site, hook in _HOOKS.items()} | _ALIASES


def parse_hook(name: str | None) -> tuple[str, int] | None:
  """Site and layer that a hook's name denotes; None if it names no one tensor.

  'blocks.12.hook_resid_post' is ('resid_post', 12).
  """
  layer = re.search(r'\.(\d+)(?=\.|$)', name or '')
  if layer is None:
    return None
  pattern = name[: layer.start(1)] + '{}' + name[layer.end(1) :]
  return (_KNOWN[pattern], int(layer[1])) if pattern in _KNOWN else None


def read_site(site: str, layer: int | None = None) -> tuple[str, int | None]:
  """Site and layer, whichever of the names above a user took for the site.

  'hook_resid_post' is ('resid_post', None), as in TransformerLens.

  Raises:
    ValueError: the name is unknown, or holds another layer than `layer`.
  """
  named = parse_hook(site)
  if named is None:
    inside = 'attn.' if site == 'hook_z' else ''
    short = parse_hook(f'blocks.0.{inside}{site}')
    if short is not None:
      return short[0], layer
    check_site(site)
    return site, layer
  if layer not in (None, named[1]):
    raise ValueError(f'{site} is of layer {named[1]}, but layer={layer}.')
  return named


def hook_name(site: str, layer: int) -> str:
  """Returns what TransformerLens and SAELens call a site of a layer.

  Raises:
    ValueError: they have no name for it that is one tensor.
  """
  if site not in _HOOKS:
    raise ValueError(
      f'TransformerLens has no hook that is {site} and nothing else; expected '
      f'one of {", ".join(_HOOKS)}.'
    )
  return _HOOKS[site].format(layer)


def check_site(site: str):
  """Raises ValueError unless it is the name of a site."""
  if site not in SITES:
    raise ValueError(
      f'{site!r} is not a site; expected one of {", ".join(SITES)}.'
    )
