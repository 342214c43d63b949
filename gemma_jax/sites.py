"""Names of the places where activations are read and changed.

A *site* is a tensor that every layer computes once; together with a 0-based
layer it names one activation. The sites, in the order of computation:

  resid_pre     D    the stream entering the block
  z             N*H  heads' outputs side by side, before W_O
  attn_out_raw  D    what W_O makes of them
  attn_out      D    what attention adds to the stream: after the post-norm
                     where there is one, else attn_out_raw
  resid_mid     D    the stream between the sublayers
  mlp_act       F    the MLP's hidden layer, before W_down
  mlp_out_raw   D    what W_down makes of it
  mlp_out       D    what the MLP adds to the stream, as for attn_out
  resid_post    D    the stream leaving the block

Attention itself has `attn_logits` [N, P, S], the scores after soft cap and
mask, and `pattern` [N, P, S], the probabilities. Which modules of HF
transformers hold these tensors is in the tables of `families`.

Gemma Scope's residual SAE of layer l reads resid_post[l] = resid_pre[l + 1];
the layer l of arXiv 2411.14257 is resid_pre[l]. Always name site and layer.
"""

import re

from gemma_jax.config import ModelConfig
from gemma_jax.families import FAMILIES, family_of

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


class UnknownSite(KeyError, ValueError):
  """A name that no site has, or several.

  It is a ValueError too, so that a program can tell it from its own faults.
  """

  def __str__(self) -> str:
    return self.args[0]  # which a KeyError puts in quotes


def site_width(config: ModelConfig, site: str) -> int:
  """W, the number of features at a vector site: D, N * H or F."""
  if site not in VECTOR_SITES:
    raise UnknownSite(
      f'{site!r} is not one of the vector sites {VECTOR_SITES}.'
    )
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
  # Right for every layer: the entry that HF normalises has index L.
  'hidden_states[{}]': 'resid_pre',
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


def _hf_names(family: str) -> dict[str, str]:
  """HF's module of a layer, with .input or .output -> site, in one family."""
  tables = FAMILIES[family]
  names: dict[str, str] = {}
  for site in VECTOR_SITES:
    # Without a post-norm the raw tensor is the added one: the latter is meant.
    names[f'{tables.layers}.{{}}.{tables.modules[site]}'] = site
  return names


def parse_site(
  name: str, config: ModelConfig | None = None
) -> tuple[str, int | None]:
  """Reads any known spelling of a site.

  Args:
    name: A canonical name ('resid_post'), or a name with a layer as
      TransformerLens ('blocks.5.hook_resid_post'; 'hook_resid_post' alone
      too), HF ('model.layers.5.mlp.output'), interp-engine ('resid_post.5') or
      nnterp ('model.layers_output[5]') write it.
    config: The model that is meant. Some modules of HF are another site in
      another family: model.layers.5.post_attention_layernorm is after
      attention in Gemma 2, and before the MLP in Llama. Without a config such
      a name is returned as it is, with `{}` for its layer, for `resolve`.

  Returns:
    The canonical site, and the layer, or None where the name carries none.

  Raises:
    UnknownSite: the name is unknown, or denotes different tensors in different
      tools; the error lists the candidates.
  """
  if name in SITES:
    return name, None
  number = re.search(r'\d+', name)
  layer = int(number.group()) if number else None
  pattern = re.sub(r'\d+', '{}', name, count=1)
  if pattern in _AMBIGUOUS:
    raise UnknownSite(
      f'{name!r} names different tensors in different tools. Say which: '
      f'{" or ".join(_AMBIGUOUS[pattern])}.'
    )
  if layer is None and name.startswith(('hook_', 'attn.', 'mlp.')):
    # A hook's name without its layer; z and pattern are inside attention.
    inside = 'attn.' if name in ('hook_z', 'hook_pattern') else ''
    pattern = f'blocks.{{}}.{inside}{name}'
  if pattern in _ALIASES:
    return _ALIASES[pattern], layer
  families = [config.family] if config is not None else list(FAMILIES)
  meanings = {_hf_names(each).get(pattern) for each in families} - {None}
  if len(meanings) == 1 and (config is not None or not _elsewhere(pattern)):
    return meanings.pop(), layer
  if meanings and config is None:
    return pattern, layer
  if config is not None and (what := _elsewhere(pattern, config.family)):
    raise UnknownSite(
      f'{name!r} is, in a {family_of(config).title} model, {what}. Sites are '
      f'{", ".join(SITES)}.'
    )
  raise UnknownSite(
    f'Unknown site {name!r}. Sites are {", ".join(SITES)}; also accepted: the '
    'names of TransformerLens (blocks.5.hook_resid_post), HF '
    '(model.layers.5.mlp.output), interp-engine (resid_post.5) and nnterp '
    '(model.layers_output[5]).'
  )


def resolve(site: str, config: ModelConfig) -> str:
  """Returns the canonical name of a site as `parse_site` returned it, for a
  model.

  Raises:
    UnknownSite: this model has no such site.
  """
  if site in SITES:
    return site
  return parse_site(site, config)[0]


def _elsewhere(pattern: str, family: str | None = None) -> str | None:
  """Returns what a module is in a family where it is no site."""
  for each in FAMILIES.values() if family is None else [FAMILIES[family]]:
    for module, what in each.ambiguous.items():
      if pattern == f'{each.layers}.{{}}.{module}':
        return what
  return None
