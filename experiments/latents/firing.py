"""Which latents fire on which entities, and how strongly: sparse matrices.

Sums over groups cannot be permuted or ranked; these can. A latent fires on some
tenths of a percent of entities, so the matrices of 26 SAEs of 16,384 latents on
20,000 entities take some hundred megabytes.
"""

from collections.abc import Sequence
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from scipy import sparse

from experiments.activations.harvest_rows import HarvestRows
from experiments.activations.reading import (
  check_saes,
  check_tokens,
  on_mesh,
  read_sites,
)
from experiments.activations.row_batches import (
  BATCH_SIZE,
  count_tokens,
  make_batches,
  progress,
)
from experiments.activations.streaming import ACTIVE
import gemma_jax as gj
from gemma_jax.finite import bad_row, check_row
from sae.jumprelu import JumpReLUSAE, encode


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Firing:
  """Says where one SAE's latents fire.

  Attributes:
    site, layer: What the SAE reads.
    matrix: Sparse [n, F], rows are entities: float32, the activations of what
      fires; or bool, where only that is known.
  """

  site: str
  layer: int
  matrix: sparse.csr_array

  @property
  def fires(self) -> sparse.csr_array:
    """Returns where latents fire, sparse bool [n, F]."""
    return self.matrix if self.matrix.dtype == bool else self.matrix > 0

  @property
  def where(self) -> tuple[str, int]:
    """Site and layer."""
    return self.site, self.layer


def stream_firing(
  model: gj.Decoder,
  saes: Sequence[JumpReLUSAE],
  rows: HarvestRows,
  *,
  batch_size: int = BATCH_SIZE,
  description: str = 'Reading which latents fire',
) -> list[Firing]:
  """Returns how strongly latents fire at the rows' positions, from one pass of
  the model.

  Args:
    model: Whole, or truncated after the last layer that an SAE reads.
    saes: With the site and layer they read in `origin`.
    rows: n of them; rows of the matrices are in their order.
    batch_size: Rows per run of the model.
    description: Begins the progress bar.

  Raises:
    ValueError: there are no SAEs, one does not fit the model, or latents are
      not finite.
  """
  if not saes:
    raise ValueError('There are no SAEs to read.')
  reads = check_saes(model.config, saes)
  check_tokens(model.config, rows)
  layers = sorted({layer for _, layer in reads})
  encoders = [sae.weights()._replace(W_dec=None, b_dec=None) for sae in saes]
  numbers = np.arange(len(rows))
  places = [[] for _ in saes]  # (row, latent, value) of what fires, by batch

  def fetch(batch, found, bad):
    check_row(int(bad), model.dtype, 'Latents')
    for place, latents, sae in zip(places, found, saes, strict=True):
      latents = np.asarray(latents)[: len(batch.rows)].reshape(-1)
      flat = np.flatnonzero(latents)
      row, latent = np.divmod(flat, sae.width)
      place.append((batch.rows[row], latent, latents[flat]))
    bar.update(count_tokens(batch))

  before = None
  with progress(rows, numbers, description) as bar, on_mesh(model):
    for batch in make_batches(rows, numbers, batch_size):
      now = (
        batch,
        *_firing(
          model,
          encoders,
          batch.tokens,
          batch.positions,
          batch.at,
          np.asarray(layers, np.int32),
          reads=tuple((site, layers.index(layer)) for site, layer in reads),
        ),
      )
      # The next batch is under way while this one is unpacked.
      if before is not None:
        fetch(*before)
      before = now
    if before is not None:
      fetch(*before)
  return [
    Firing(
      site=site, layer=layer, matrix=_matrix(place, (len(rows), sae.width))
    )
    for (site, layer), place, sae in zip(reads, places, saes, strict=True)
  ]


@functools.partial(jax.jit, static_argnames=('reads',))
def _firing(
  model, encoders, tokens, positions, at, layers, *, reads
) -> tuple[list[jax.Array], jax.Array]:
  """float32 [B, F] of each SAE, 0 where nothing fires; and `bad_row`."""
  sites = {site for site, _ in reads}
  seen = read_sites(model, tokens, positions, at, layers, sites)
  with jax.default_matmul_precision('highest'):
    latents = [
      encode(weights, seen[site][slot, :, 0].astype(jnp.float32))
      for weights, (site, slot) in zip(encoders, reads, strict=True)
    ]
  bad = jnp.stack([bad_row(f) for f in latents]).max()
  return [jnp.where(f > ACTIVE, f, 0) for f in latents], bad


def _matrix(places, shape) -> sparse.csr_array:
  row, latent, value = (
    np.concatenate(part) for part in zip(*places, strict=True)
  )
  where = row.astype(np.int32), latent.astype(np.int32)
  return sparse.coo_array((value, where), shape=shape).tocsr()
