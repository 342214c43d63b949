"""What is checked: latents, and the difference of means, on one footing.

A reader makes one number of a vector of the model, higher for its label. It
fires where the number is above 0. Letters: R readers, n rows, L layers, B T
batch and tokens, D width.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from experiments.activations import ACTIVE, HarvestRows, gather
from experiments.activations.gathering import run_batches
from experiments.activations.reading import check_tokens, on_mesh
from experiments.activations.row_batches import (
  BATCH_SIZE,
  count_tokens,
  make_batches,
  progress,
)
from experiments.latents import LabelledEntities, LatentId
import gemma_jax as gj
from sae.jumprelu import JumpReLUSAE

NORM_SITE = 'resid_post'


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class LinearReadout:
  """Reads a latent or a direction off a vector of the model.

  Attributes:
    name: Name in tables.
    label: 'known' or 'unknown', the class it is high on.
    site, layer: What it reads.
    id: The latent; None for a direction.
    weight: float32 [D].
    bias: What is added to the product.
    threshold: A latent's; products up to it are 0. None for a direction.
  """

  name: str
  label: str
  site: str
  layer: int
  id: LatentId | None
  weight: np.ndarray
  bias: float
  threshold: float | None

  def values(self, x):
    """Returns numbers [...] of vectors [..., D]; arrays of numpy or of jax."""
    z = x @ self.weight + np.float32(self.bias)
    if self.threshold is None:
      return z
    return z * (z > max(self.threshold, 0.0))

  def fires(self, values: np.ndarray) -> np.ndarray:
    """Returns bool, shaped as the values."""
    return np.asarray(values) > (0.0 if self.threshold is None else ACTIVE)

  def about(self) -> dict:
    """Returns what it is, for JSON."""
    return {
      'name': self.name,
      'label': self.label,
      'site': self.site,
      'layer': self.layer,
      'latent': None if self.id is None else str(self.id),
    }


def latent_reader(label: str, id: LatentId, sae: JumpReLUSAE) -> LinearReadout:
  """Returns the reader of a latent of an SAE."""
  one = sae.select([id.latent])
  return LinearReadout(
    name=f'{label} latent {id}',
    label=label,
    site=id.site,
    layer=id.layer,
    id=id,
    weight=np.asarray(one.encoder, np.float32)[0],
    bias=float(one.bias[0]),
    threshold=float(one.threshold[0]),
  )


def mean_difference_reader(
  label: str,
  where: tuple[str, int],
  train: LabelledEntities,
  x: np.ndarray,
) -> LinearReadout:
  """Returns the difference of class means, as a detector.

  Every type counts the same. It fires beyond the middle between the means.

  Args:
    label: The class that it points to.
    where: Site and layer.
    train: n entities.
    x: float32 [n, D], what the model has there.
  """
  x = np.asarray(x, np.float64)
  means = [
    np.mean(
      [
        x[(train.type_of == e) & (train.known == known)].mean(axis=0)
        for e in range(len(train.types))
      ],
      axis=0,
    )
    for known in (True, False)
  ]
  towards = (means[0] - means[1]) * (1 if label == 'known' else -1)
  towards /= np.linalg.norm(towards)
  site, layer = where
  return LinearReadout(
    name=f'difference of means to {label} at {site}.{layer}',
    label=label,
    site=site,
    layer=layer,
    id=None,
    weight=towards.astype(np.float32),
    bias=-float(towards @ (means[0] + means[1]) / 2),
    threshold=None,
  )


def mean_readers(
  model: gj.Decoder,
  latents: Mapping[str, LatentId],
  train: LabelledEntities,
  rows: HarvestRows,
) -> list[LinearReadout]:
  """Returns for each latent the difference of means where it reads.

  Args:
    model: The base model.
    latents: Label -> latent.
    train: n entities.
    rows: Their n prompts.
  """
  readers = []
  for label, id in latents.items():
    (x,) = gather(model, id.site, [id.layer], rows, description='Means')
    readers.append(mean_difference_reader(label, id[:2], train, x))
  return readers


def read_rows(
  model: gj.Decoder,
  readers: Sequence[LinearReadout],
  rows: HarvestRows,
  description: str = 'Reading prompts',
) -> tuple[np.ndarray, np.ndarray]:
  """Reads what readers say at the rows' positions, and the stream's norms.

  Returns:
    float32 [R, n]; float32 [L, n], L2 norms of resid_post in every layer.
  """
  config = model.config
  layers = list(range(config.num_layers))
  values = np.zeros((len(readers), len(rows)), np.float32)
  norms = np.zeros((len(layers), len(rows)), np.float32)
  sites = sorted({NORM_SITE, *(reader.site for reader in readers)})
  numbers = np.arange(len(rows))
  check_tokens(config, rows)
  with progress(rows, numbers, description) as bar:
    for batch, seen in run_batches(model, sites, layers, rows, numbers):
      seen = {site: np.asarray(x, np.float32) for site, x in seen.items()}
      norms[:, batch.rows] = np.linalg.norm(seen[NORM_SITE], axis=-1)
      for r, reader in enumerate(readers):
        values[r, batch.rows] = reader.values(seen[reader.site][reader.layer])
      bar.update(count_tokens(batch))
  return values, norms


def read_tokens(
  model: gj.Decoder,
  readers: Sequence[LinearReadout],
  rows: HarvestRows,
  *,
  batch_size: int = BATCH_SIZE,
  description: str = 'Reading text',
) -> tuple[list[np.ndarray], list[np.ndarray]]:
  """Reads how likely each token is, and what readers say of it.

  BOS is left out: nothing predicts it.

  Args:
    model: The base model.
    readers: R of them; none leaves only the likelihood.
    rows: n rows of T tokens each, BOS included.
    batch_size: Rows per run.
    description: Begins the progress bar.

  Returns:
    n of float32 [T - 1], natural logarithms of p(token | tokens before); n of
    float32 [R, T - 1].
  """
  check_tokens(model.config, rows)
  last = model.config.num_layers - 1  # gives the likelihood
  layers = sorted({last, *(reader.layer for reader in readers)})
  sites = tuple(sorted({reader.site for reader in readers}))
  scores, values = [[None] * len(rows) for _ in range(2)]
  numbers = np.arange(len(rows))
  with progress(rows, numbers, description, whole=True) as bar:
    for batch in make_batches(rows, numbers, batch_size, whole=True):
      with on_mesh(model):
        logp, seen = _everywhere(
          model,
          batch.tokens,
          batch.positions,
          np.asarray(layers, np.int32),
          sites=sites,
        )
        read = [
          np.asarray(
            reader.values(seen[reader.site][layers.index(reader.layer)])
          )
          for reader in readers
        ]
      logp = np.asarray(logp)
      gj.check_finite(logp, model.dtype, 'Log-probabilities')
      for slot, row in enumerate(batch.rows):
        T = len(rows.tokens[row])  # padding is on the right
        scores[row] = logp[slot, : T - 1]
        values[row] = np.array([x[slot, 1:T] for x in read], np.float32)
      bar.update(count_tokens(batch))
  return scores, values


@functools.partial(jax.jit, static_argnames=('sites',))
def _everywhere(model, tokens, positions, layers, *, sites):
  """Returns log p of tokens 1 to T [B, T - 1]; site -> float32 [L, B, T, D].

  The last of the layers is the model's.
  """
  look = gj.Capture(
    sites=tuple(dict.fromkeys((*sites, 'resid_post'))), layers=layers
  )
  seen = gj.forward(model, tokens, positions, capture=look).activations
  losses = gj.token_losses(model, seen['resid_post'][-1], tokens)
  return -losses[:, :-1], {
    site: seen[site].astype(jnp.float32) for site in sites
  }
