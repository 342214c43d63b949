"""Reading a model's sites: what must fit together, and the run itself."""

from collections.abc import Iterable, Sequence

import jax

from experiments.activations.harvest_rows import HarvestRows
import gemma_jax as gj
from gemma_jax.sharding import mesh_of
from sae.jumprelu import JumpReLUSAE


def check_saes(
  config: gj.ModelConfig, saes: Sequence[JumpReLUSAE]
) -> list[tuple[str, int]]:
  """Returns the (site, layer) that each SAE reads, if the model has them.

  Raises:
    ValueError: it lacks one, or an SAE reads vectors of another width.
  """
  reads = []
  for sae in saes:
    site, layer = sae.origin.site, sae.origin.layer
    if site is None or layer is None:
      raise ValueError(
        f'It is not known what this SAE reads: {sae.origin}. Load it with '
        'site= and layer=.'
      )
    check_place(config, site, layer, f'{sae.origin}: ')
    width = gj.site_width(config, site)
    if sae.d_in != width:
      raise ValueError(
        f'{sae.origin} reads vectors of {sae.d_in}; {site} of this model has '
        f'{width}. It is an SAE of another model or site.'
      )
    reads.append((site, layer))
  return reads


def check_place(config: gj.ModelConfig, site: str, layer: int, who: str = ''):
  """Raises ValueError unless the model has a vector at a site and layer."""
  if site not in gj.VECTOR_SITES:
    raise ValueError(
      f'{who}{site} has no vector per token. Expected one of '
      f'{", ".join(gj.VECTOR_SITES)}.'
    )
  if not 0 <= layer < config.num_layers:
    raise ValueError(
      f'{who}there is no layer {layer}; the model has layers 0 to '
      f'{config.num_layers - 1}.'
    )


def check_tokens(config: gj.ModelConfig, rows: HarvestRows):
  """Raises ValueError if rows have tokens that the model lacks."""
  largest = max((int(row.max()) for row in rows.tokens), default=0)
  if largest >= config.vocab_size:
    raise ValueError(
      f'The tokenizer gave token {largest}; the model has {config.vocab_size} '
      'tokens. They do not belong together.'
    )


def on_mesh(model: gj.Decoder):
  """Returns a context in which the model's mesh, if it is on one, is set."""
  return mesh_of(model.embed[...])


def read_sites(
  model: gj.Decoder,
  tokens: jax.Array,
  positions: jax.Array,
  at: jax.Array | None,
  layers: jax.Array,
  sites: Iterable[str],
) -> dict[str, jax.Array]:
  """Site -> [L, B, P, W] at some layers and positions; to be compiled.

  Layers above the last of them are not run, and logits never are.

  Args:
    model: The model.
    tokens: int32 [B, T].
    positions: int32 [B, T], -1 at padding.
    at: int32 [B, P]; -1 gives 0. None is every place, P = T.
    layers: int32 [L], distinct.
    sites: Names.
  """
  return gj.forward(
    model,
    tokens,
    positions,
    capture=gj.Capture(
      sites=tuple(sorted(set(sites))), layers=layers, positions=at
    ),
    # As data: one program for all choices of layers.
    num_layers=layers.max() + 1 if model.is_stacked else None,
  ).activations
