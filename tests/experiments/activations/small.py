"""Prompts, SAEs and what HF gives for them, one prompt at a time."""

import functools

import jax.numpy as jnp
import numpy as np
import torch

from experiments.activations import HarvestRows, join, make_rows
from experiments.entities import Entity, activation_prompt
from sae import JumpReLUSAE, Origin, Weights
from tests import tiny
from tests.experiments import worlds
from tests.gemma_jax import hf_hooks
from tests.gemma_jax.text import tiny_tokenizer

# Two read the same activations, widths differ, sites too.
READS = (
  ('resid_post', 3, 40),
  ('resid_post', 1, 24),
  ('mlp_out', 2, 24),
  ('resid_post', 3, 24),
  ('z', 0, 24),
)
WIDTHS = {'z': 64}


def rows() -> HarvestRows:
  """29 entities, one of them twice and one unread, and 12 documents."""
  tokenizer = tiny_tokenizer.ours()
  rng = np.random.default_rng(0)
  names = [
    ' '.join(rng.choice(worlds.WORDS, rng.integers(1, 9))) + f' {i}'
    for i in range(29)
  ]
  prompts = [activation_prompt(Entity(n, 'player', {})) for n in names]
  entities = make_rows(tokenizer, [*prompts, prompts[3], 'no entity'])
  texts = make_rows(
    tokenizer, worlds.texts(12), tokens='random', window=24, seed=1
  )
  return join(entities, texts)


def groups() -> list[int]:
  """Of the prompts of `rows`: three groups, and some in none."""
  of_entities = [(-1, 0, 1)[i % 3] for i in range(29)]
  return of_entities + [of_entities[3], 1] + [2] * 12


def saes() -> list[JumpReLUSAE]:
  found = []
  for number, (site, layer, width) in enumerate(READS):
    rng = np.random.default_rng(number)
    D = WIDTHS.get(site, 40)
    W_enc = rng.standard_normal((D, width)).astype('f4') / D**0.5
    found.append(
      JumpReLUSAE(
        Weights(
          W_enc=jnp.asarray(W_enc),
          W_dec=jnp.asarray(W_enc.T),
          b_enc=jnp.asarray(rng.standard_normal(width), 'f4'),
          b_dec=jnp.zeros(D, 'f4'),
          threshold=jnp.asarray(rng.uniform(0, 2, width), 'f4'),
        ),
        Origin(site=site, layer=layer),
      )
    )
  return found


@functools.cache
def hf_activations() -> dict[tuple[str, int], list[np.ndarray]]:
  """(Site, layer) -> [T, W] of each row, run alone, whole and unpadded."""
  hf, _ = tiny.pair(vocab_size=worlds.VOCABULARY)
  places = sorted({read[:2] for read in READS})
  seen = {place: [] for place in places}

  def remember(place):
    def change(x):
      seen[place].append(x[0].detach().numpy())
      return x

    return (*place, change)

  with hf_hooks.hooked(hf, map(remember, places)), torch.no_grad():
    for ids in rows().tokens:
      hf(torch.tensor(ids)[None].long())
  return seen


def latents(sae: JumpReLUSAE, x: np.ndarray, numbers=slice(None)) -> np.ndarray:
  """The formula of JumpReLU in float64, for some latents; no close calls."""
  w = sae.weights()
  z = x.astype('f8') @ np.asarray(w.W_enc, 'f8') + np.asarray(w.b_enc)
  z, threshold = z[..., numbers], np.asarray(w.threshold)[numbers]
  assert np.abs(z - threshold).min() > 1e-5
  return np.where(z > threshold, z, 0)
