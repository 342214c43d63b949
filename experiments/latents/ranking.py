"""Names of latents, and which come first."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class LatentId(NamedTuple):
  """A latent: of the SAE that reads a site of a layer.

  Attributes:
    site: Such as 'resid_post'.
    layer: Layer of the site, from 0.
    latent: Index of the latent in the SAE.
  """

  site: str
  layer: int
  latent: int

  def __str__(self):
    return f'{self.site}.{self.layer}/{self.latent}'

  @classmethod
  def parse(cls, text: str) -> 'LatentId':
    """Reads 'resid_post.12/7957'. Raises ValueError if it is not like that."""
    where, _, latent = text.rpartition('/')
    site, _, layer = where.rpartition('.')
    if not (site and layer.isdecimal() and latent.isdecimal()):
      raise ValueError(
        f'{text!r} does not name a latent; expected SITE.LAYER/LATENT, such as '
        "'resid_post.12/7957'."
      )
    return cls(site, int(layer), int(latent))


class Ranked(NamedTuple):
  """A latent and its place.

  Attributes:
    id: LatentId.
    score: What it was ranked by.
    tied: How many other candidates have the same score.
  """

  id: LatentId
  score: float
  tied: int


def rank(
  where: Sequence[tuple[str, int]],
  scores: Sequence[np.ndarray],
  k: int,
  keep: Sequence[np.ndarray] | None = None,
) -> list[Ranked]:
  """Returns the k best latents of several SAEs.

  Equal scores are in the order of layer, latent and site, so that the same
  numbers give the same latents.

  Args:
    where: Site and layer of each SAE, no two the same.
    scores: float [F] of each, higher is better.
    k: How many; fewer if there are fewer candidates.
    keep: bool [F] of each, which are candidates; None is all.

  Raises:
    ValueError: two SAEs read the same site and layer.
  """
  if len(set(where)) != len(where):
    raise ValueError(
      f'Two SAEs read the same site and layer, of {list(where)}; rank them one '
      'by one: a latent is named by site, layer and index.'
    )
  candidates, values = [], []
  for (site, layer), score, kept in zip(
    where, scores, keep or [np.ones(len(s), bool) for s in scores], strict=True
  ):
    latents = np.flatnonzero(kept)
    values.append(score[latents])
    # Beyond the k best of an SAE, none is among the k best of all.
    for latent in latents[_best(score[latents], k)]:
      candidates.append((-score[latent], layer, int(latent), site))
  values = np.concatenate(values)
  return [
    Ranked(
      id=LatentId(site, layer, latent),
      score=float(-negative),
      tied=int((values == -negative).sum()) - 1,
    )
    for negative, layer, latent, site in sorted(candidates)[:k]
  ]


def _best(scores: np.ndarray, k: int) -> np.ndarray:
  """Indices of the k highest, the first of equals."""
  return np.argsort(-scores, kind='stable')[:k]
