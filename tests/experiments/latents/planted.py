"""Latents whose behaviour is known, and their sums counted in loops.

Each split has its own entities. Most latents are noise; these are not:

  KNOWN, UNKNOWN   fire on 9 of 10 of their class and 1 of 10 of the other
  GENERAL          better than KNOWN, but fires on half of plain text
  LEAK             useless on train, perfect on test: what selection on all
                   entities would take
  OVERFIT          second to KNOWN on train, useless on test
"""

import dataclasses

import numpy as np

from experiments.activations import GroupSums
from experiments.latents import SPLITS, Groups, LabelledEntities, LatentId

KNOWN = LatentId('resid_post', 4, 7)
UNKNOWN = LatentId('resid_post', 2, 3)
GENERAL = LatentId('resid_post', 3, 5)
LEAK = LatentId('resid_post', 3, 11)
OVERFIT = LatentId('resid_post', 2, 13)
LAYERS = (2, 3, 4)
F, D = 40, 6
TEXT_N = 400
SIZES = {'train': 60, 'validation': 12, 'test': 50}

# Chances to fire on known and on unknown entities, on train and else.
_RATES = {
  KNOWN: ((0.9, 0.1), (0.9, 0.1)),
  UNKNOWN: ((0.1, 0.9), (0.1, 0.9)),
  GENERAL: ((1.0, 0.0), (1.0, 0.0)),
  LEAK: ((0.5, 0.5), (1.0, 0.0)),
  OVERFIT: ((0.8, 0.15), (0.4, 0.4)),
}


@dataclasses.dataclass(frozen=True)
class World:
  """Entities of each split, and latents [n, F] and vectors [n, D] at them."""

  groups: Groups
  entities: dict[str, LabelledEntities]
  latents: dict[str, dict[int, np.ndarray]]
  vectors: dict[str, dict[int, np.ndarray]]
  text: dict[int, np.ndarray]

  def sums(self, with_text: bool = True) -> list[GroupSums]:
    """Of each layer, counted entity by entity."""
    return [self._sums(layer, with_text) for layer in LAYERS]

  def _sums(self, layer, with_text):
    G = self.groups.count
    counted = {
      'n': np.zeros(G, np.int64),
      'active': np.zeros((G, F), np.int64),
      'total': np.zeros((G, F)),
      'squares': np.zeros((G, F)),
      'stream_total': np.zeros((G, D)),
      'norm_total': np.zeros(G),
    }

    def count(g, latents, vector):
      counted['n'][g] += 1
      counted['active'][g] += latents > 1e-6
      counted['total'][g] += latents
      counted['squares'][g] += latents**2
      counted['stream_total'][g] += vector
      counted['norm_total'][g] += np.linalg.norm(vector)

    for split, entities in self.entities.items():
      for i in range(len(entities)):
        g = self.groups.number(
          entities.types[entities.type_of[i]],
          'known' if entities.known[i] else 'unknown',
          split,
        )
        count(g, self.latents[split][layer][i], self.vectors[split][layer][i])
    if with_text:
      for latents in self.text[layer]:
        count(self.groups.text, latents, np.zeros(D))
    return GroupSums(site='resid_post', layer=layer, **counted)


def world(types=('player', 'city'), seed=0, noise_only=False) -> World:
  rng = np.random.default_rng(seed)
  noise = {layer: rng.uniform(0, 0.6, F) for layer in LAYERS}
  noise[2][30] = 0.0  # never fires
  found = World(Groups(types=types), {}, {}, {}, {})
  for split in SPLITS:
    entities = make_entities(types, SIZES[split], rng)
    known = entities.known
    found.entities[split] = entities
    found.latents[split], found.vectors[split] = {}, {}
    for layer in LAYERS:
      chances = np.tile(noise[layer], (len(known), 1))
      if not noise_only:
        for id, rates in _RATES.items():
          if id.layer == layer:
            of_known, of_unknown = rates[split != 'train']
            chances[:, id.latent] = np.where(known, of_known, of_unknown)
      fires = rng.random(chances.shape) < chances
      latents = np.where(fires, rng.gamma(2.0, 1.0, chances.shape), 0.0)
      found.latents[split][layer] = latents
      vectors = rng.standard_normal((len(known), D)) + 3
      if not noise_only:
        vectors[:, 1] += 2.0 * known * (layer - 1)
      found.vectors[split][layer] = vectors
  for layer in LAYERS:
    chances = np.full(F, 0.01)
    if layer == GENERAL.layer:
      chances[GENERAL.latent] = 0.5
    found.text[layer] = (rng.random((TEXT_N, F)) < chances) * 1.0
  # At least one latent lies on the limit of 2 %: it is out.
  found.text[4][:, 20] = np.arange(TEXT_N) < 8
  return found


def make_entities(types, per_class, rng) -> LabelledEntities:
  """Of each class of each type so many, known ones a few more; shuffled."""
  cells = [
    (e, known)
    for e in range(len(types))
    for known in (True, False)
    for _ in range(per_class + 5 * e + 3 * known)
  ]
  order = rng.permutation(len(cells))
  return LabelledEntities(
    types=tuple(types),
    names=tuple(f'entity {i}' for i in range(len(cells))),
    type_of=np.array([cells[i][0] for i in order]),
    known=np.array([cells[i][1] for i in order]),
  )
