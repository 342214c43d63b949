"""A tiny model with SAEs, two latents of which tell entities apart.

Entities are known where what the model has at `resid_post` of layer 3 lies on
one side of a plane; KNOWN and UNKNOWN are the latents that read this.
"""

import functools

import numpy as np

from experiments.activations import gather, join, make_rows, stream_scores
from experiments.entities import Entity, activation_prompt
from experiments.latents import (
  SPLITS,
  Groups,
  LabelledEntities,
  LatentId,
  SplitData,
  name_tokens,
)
from sae import JumpReLUSAE, Origin, Weights
from tests.experiments import worlds
from tests.gemma_jax.text import tiny_tokenizer

TYPES = ('player', 'city')
KNOWN, UNKNOWN = LatentId('resid_post', 3, 5), LatentId('resid_post', 3, 9)
D, F = 40, 90  # F is no multiple of 8
SIZES = {'train': 70, 'validation': 24, 'test': 60}


@functools.cache
def model():
  return worlds.model()


def tokenizer():
  return tiny_tokenizer.ours()


@functools.cache
def _split_rows():
  """Split -> (types, names, prompts, rows)."""
  rng = np.random.default_rng(0)
  found = {}
  for split, size in SIZES.items():
    type_of = np.arange(size) % 2
    names = [
      ' '.join(rng.choice(worlds.WORDS, 3)) + f' {split} {i}'
      for i in range(size)
    ]
    prompts = [
      activation_prompt(Entity(name, TYPES[e], {}))
      for name, e in zip(names, type_of, strict=True)
    ]
    found[split] = type_of, names, prompts, make_rows(tokenizer(), prompts)
  return found


@functools.cache
def _plane():
  """A direction [D] and where along it the middle of train lies."""
  x = gather(model(), 'resid_post', [3], _split_rows()['train'][3])[0]
  direction = np.random.default_rng(1).standard_normal(D).astype('f4')
  return direction, float(np.median(x @ direction))


@functools.cache
def data() -> dict[str, SplitData]:
  direction, middle = _plane()
  found = {}
  for split, (type_of, names, prompts, rows) in _split_rows().items():
    x = gather(model(), 'resid_post', [3], rows)[0]
    found[split] = SplitData(
      entities=LabelledEntities(
        types=TYPES,
        names=tuple(names),
        type_of=type_of,
        known=x @ direction > middle,
      ),
      rows=rows,
      name_tokens=name_tokens(tokenizer(), prompts),
    )
  return found


@functools.cache
def saes() -> tuple[JumpReLUSAE, ...]:
  direction, middle = _plane()
  made = []
  for layer in (1, 3):
    rng = np.random.default_rng(layer)
    W_enc = rng.standard_normal((D, F)).astype('f4')
    b_enc = np.zeros(F, 'f4')
    if layer == 3:
      for id, sign in ((KNOWN, 1), (UNKNOWN, -1)):
        W_enc[:, id.latent] = sign * direction
        b_enc[id.latent] = -sign * middle
    W_dec = W_enc.T / np.linalg.norm(W_enc, axis=0)[:, None]
    made.append(
      JumpReLUSAE(
        Weights(
          W_enc=W_enc,
          W_dec=np.ascontiguousarray(W_dec),
          b_enc=b_enc,
          b_dec=np.zeros(D, 'f4'),
          threshold=np.zeros(F, 'f4'),
        ),
        Origin(site='resid_post', layer=layer),
      )
    )
  return tuple(made)


@functools.cache
def sums():
  """GroupSums of all splits and of plain text, and their Groups."""
  groups = Groups(types=TYPES)
  numbers = [
    groups.number(TYPES[e], 'known' if known else 'unknown', split)
    for split in SPLITS
    for e, known in zip(
      data()[split].entities.type_of, data()[split].entities.known, strict=True
    )
  ]
  text = make_rows(
    tokenizer(), worlds.texts(20), tokens='random', window=16, seed=1
  )
  rows = join(*(data()[split].rows for split in SPLITS), text)
  numbers += [groups.text] * len(text)
  return stream_scores(model(), saes(), rows, numbers, groups.count), groups
