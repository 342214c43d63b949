"""Entities with covariates whose effects are planted."""

import numpy as np

from experiments.confounds.covariates import Covariates
from experiments.latents import LabelledEntities

TYPES = ('player', 'city')


def entities(n: int, seed: int = 0) -> LabelledEntities:
  rng = np.random.default_rng(seed)
  known = rng.permutation(np.arange(n) % 2 == 0)
  return LabelledEntities(
    types=TYPES,
    names=tuple(f'name {i}' for i in range(n)),
    type_of=rng.integers(0, 2, n),
    known=known,
  )


def covariates(**columns) -> Covariates:
  return Covariates(
    names=tuple(name.replace('_', ' ') for name in columns),
    values=np.array(list(columns.values()), np.float64).T,
    sources={name.replace('_', ' '): 'planted' for name in columns},
  )


def column(found: Covariates, name: str) -> np.ndarray:
  return found.values[:, found.names.index(name)]


def confounded(n: int = 600, seed: int = 0):
  """Known names are shorter; a reader fires on short ones, known or not.

  Returns entities, covariates, and whether a reader of length and one of
  known-ness fire.
  """
  rng = np.random.default_rng(seed)
  people = entities(n, seed)
  tokens = rng.integers(1, 4, n) + (~people.known) * rng.integers(0, 2, n)
  surprisal = rng.normal(size=n)
  reads_length = rng.random(n) < np.select(
    [tokens <= 1, tokens <= 2], [0.9, 0.5], 0.1
  )
  reads_known = rng.random(n) < np.where(people.known, 0.7, 0.2)
  return (
    people,
    covariates(tokens=tokens, surprisal=surprisal),
    reads_length,
    reads_known,
  )
