"""A tiny model and prompts of different lengths, for tests of attention."""

import functools

import jax.numpy as jnp
import numpy as np

from experiments.attention.cases import Case
import gemma_jax as gj
from sae.jumprelu import Latents
from tests import tiny

# Length, entity's span, relation's span.
SHAPES = (
  (9, (3, 5), (5, 9)),
  (7, (3, 4), (4, 7)),
  (10, (2, 6), (6, 10)),
  (8, (3, 6), (6, 8)),
)


@functools.cache
def model() -> gj.Decoder:
  """5 layers, 4 heads of 2 key/value heads; windows of 5 every other layer."""
  return tiny.ours()


def cases(seed: int = 0) -> list[Case]:
  """Random tokens; names and classes alternate."""
  rng = np.random.default_rng(seed)
  return [
    Case(
      entity=f'name {i}',
      type='city',
      entity_class='known' if i % 2 else 'unknown',
      prompt_type='city_country',
      answer='x',
      text=f'prompt {i}',
      ids=(2, *map(int, rng.integers(3, 97, length - 1))),
      span=span,
      relation=relation,
      answer_tokens=(int(rng.integers(3, 97)), int(rng.integers(3, 97))),
    )
    for i, (length, span, relation) in enumerate(SHAPES)
  ]


def watched() -> tuple[Latents, ...]:
  """A latent of layer 1 and one of layer 3, active on about half of tokens."""
  rng = np.random.default_rng(1)
  D = model().config.d_model
  return tuple(
    Latents(
      encoder=jnp.asarray(rng.standard_normal((1, D)), jnp.float32),
      decoder=jnp.asarray(rng.standard_normal((1, D)), jnp.float32),
      bias=jnp.zeros(1),
      threshold=jnp.full(1, 0.1),
      site='resid_post',
      layer=layer,
    )
    for layer in (1, 3)
  )
