"""The same latents in other SAEs: retrained ones, other widths.

A latent of one SAE has a counterpart in another of the same site and layer if
there is one that points the same way, or fires on the same entities. Both are
looked for, among all latents of the other SAE; how well its own best latents do
is beside it.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from experiments.confounds.reselection import best_latents, separation_of
from experiments.latents import Firing, LabelledEntities, LatentId
from sae.jumprelu import JumpReLUSAE


def match_latent(
  id: LatentId,
  label: str,
  mine: tuple[JumpReLUSAE, Firing],
  other: tuple[JumpReLUSAE, Firing],
  entities: LabelledEntities,
  test: np.ndarray,
) -> dict:
  """Returns the counterparts of a latent in another SAE of the same place.

  Args:
    id: The latent.
    label: The latent's label.
    mine, other: SAEs, and where their latents fire on n entities.
    entities: These.
    test: bool [n], those whose separation is reported.

  Returns:
    'by_decoder' and 'by_firing': each 'latent', 'cosine' of the decoder rows,
    'firing' (correlation of where they fire) and 'separation'.

  Raises:
    ValueError: the SAEs read different places.
  """
  if mine[1].where != other[1].where:
    raise ValueError(
      f'{id} is compared with an SAE of {other[1].site} of layer '
      f'{other[1].layer}.'
    )
  row = _unit(np.asarray(mine[0].W_dec[...], np.float64)[id.latent])
  cosine = _unit(np.asarray(other[0].W_dec[...], np.float64)) @ row
  firing = firing_correlation(mine[1], id.latent, other[1])

  def described(latent):
    found = LatentId(id.site, id.layer, int(latent))
    return {
      'latent': str(found),
      'cosine': float(cosine[latent]),
      'firing': float(firing[latent]),
      'separation': separation_of(
        found, label, [other[1]], entities, entities.known, test
      ).to_dict(),
    }

  return {
    'width': len(cosine),
    'by_decoder': described(cosine.argmax()),
    'by_firing': described(firing.argmax()),
  }


def firing_correlation(mine: Firing, latent: int, other: Firing) -> np.ndarray:
  """Returns float64 [F], phi of one latent's firing with that of each other.

  It is 0 where either never varies.
  """
  n = mine.matrix.shape[0]
  x = np.asarray(mine.fires[:, [latent]].todense(), np.float64).reshape(-1)
  together = other.fires.T @ x
  theirs = np.asarray(other.fires.sum(axis=0), np.float64).reshape(-1)
  spread = np.sqrt(x.sum() * (n - x.sum()) * theirs * (n - theirs))
  return np.divide(
    n * together - x.sum() * theirs,
    spread,
    out=np.zeros_like(spread),
    where=spread > 0,
  )


def compare_saes(
  chosen: Mapping[str, LatentId],
  mine: Mapping[tuple[str, int], tuple[JumpReLUSAE, Firing]],
  others: Sequence[tuple[JumpReLUSAE, Firing]],
  entities: LabelledEntities,
  train: np.ndarray,
  test: np.ndarray,
  *,
  k: int = 10,
) -> dict:
  """Compares other SAEs with those that latents were chosen from.

  Args:
    chosen: Label -> latent.
    mine: Place -> SAE and firing, at least where latents were chosen.
    others: The other SAEs with theirs; those of other places count in the
      search for their best latents alone.
    entities: n of them.
    train, test: bool [n].
    k: How many of the best are looked through for the counterpart.

  Returns:
    Label -> 'counterparts' as `match_latent`, or None without an SAE there;
    'best': the other SAEs' own best latent, and 'best_separation' of it on
    test; 'rank', from 1, of the counterpart by decoder among their k best;
    'text_filter': False, since of these latents it is not known how often they
    fire on plain text: all are candidates, also such as fire everywhere.
  """
  firings = [firing for _, firing in others]
  keep = [np.ones(sae.width, bool) for sae, _ in others]
  best = best_latents(firings, entities, entities.known, train, keep, k)
  found = {}
  for label, id in chosen.items():
    there = [one for one in others if one[1].where == id[:2]]
    pair = None
    if there:
      pair = match_latent(id, label, mine[id[:2]], there[0], entities, test)
    ids = list(map(str, best[label]))
    counterpart = pair and pair['by_decoder']['latent']
    found[label] = {
      'latent': str(id),
      'counterparts': pair,
      'best': ids[0],
      'best_separation': separation_of(
        best[label][0], label, firings, entities, entities.known, test
      ).to_dict(),
      'k': k,
      'text_filter': False,
      'rank': ids.index(counterpart) + 1 if counterpart in ids else None,
    }
  return found


def _unit(x: np.ndarray) -> np.ndarray:
  norm = np.linalg.norm(x, axis=-1, keepdims=True)
  return np.divide(x, norm, out=np.zeros_like(x), where=norm > 0)
