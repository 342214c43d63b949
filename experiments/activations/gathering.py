"""Activations and chosen latents in memory, for small sets of rows."""

from collections.abc import Iterator, Sequence
import functools

import jax
import jax.numpy as jnp
import numpy as np

from experiments.activations.harvest_rows import HarvestRows
from experiments.activations.reading import (
  check_place,
  check_saes,
  check_tokens,
  on_mesh,
  read_sites,
)
from experiments.activations.row_batches import (
  BATCH_SIZE,
  BUCKETS,
  Batch,
  count_tokens,
  make_batches,
  progress,
)
import gemma_jax as gj
from sae.jumprelu import JumpReLUSAE, encode


def gather(
  model: gj.Decoder,
  site: str,
  layers: Sequence[int],
  rows: HarvestRows,
  *,
  batch_size: int = BATCH_SIZE,
  buckets: Sequence[int] = BUCKETS,
  description: str = 'Gathering',
) -> np.ndarray:
  """Returns what the model has at the rows' positions: float32 [L, n, W].

  Args:
    model: Whole, or truncated after the last of the layers.
    site: One of `gemma_jax.VECTOR_SITES`, of width W.
    layers: L distinct ones.
    rows: n of them.
    batch_size: Rows per run of the model.
    buckets: Lengths to which rows are padded; each is compiled once.
    description: Begins the progress bar.

  Raises:
    ValueError: the model lacks the site, a layer or a token, or what it gave is
      not finite.
  """
  check_tokens(model.config, rows)
  check_place(model.config, site, max(layers, default=0))
  W = gj.site_width(model.config, site)
  out = np.zeros((len(layers), len(rows), W), np.float32)
  numbers = np.arange(len(rows))
  with progress(rows, numbers, description) as bar:
    for batch, seen in run_batches(
      model,
      [site],
      layers,
      rows,
      numbers,
      batch_size=batch_size,
      buckets=buckets,
    ):
      out[:, batch.rows] = np.asarray(seen[site], np.float32)
      bar.update(count_tokens(batch))
  return out


def run_batches(
  model: gj.Decoder,
  sites: Sequence[str],
  layers: Sequence[int],
  rows: HarvestRows,
  numbers: np.ndarray,
  *,
  batch_size: int = BATCH_SIZE,
  buckets: Sequence[int] = BUCKETS,
) -> Iterator[tuple[Batch, dict[str, np.ndarray]]]:
  """Runs the model on some rows.

  Args:
    numbers: int, which rows.
    model, sites, layers, rows, batch_size, buckets: See `gather`.

  Yields:
    A batch, and what each site has at the positions of its b rows: [L, b, W],
    in the model's dtype. The next batch is under way by then.
  """
  layers = np.asarray(layers, np.int32)
  if not len(layers) or len(set(layers.tolist())) < len(layers):
    raise ValueError(f'Expected distinct layers, got {layers.tolist()}.')
  for site in sites:
    for layer in layers:
      check_place(model.config, site, int(layer))

  def start(batch):
    with on_mesh(model):
      return _at_positions(
        model,
        batch.tokens,
        batch.positions,
        batch.at,
        layers,
        sites=tuple(sites),
      )

  def fetch(batch, seen):
    found = {}
    for site, x in seen.items():
      found[site] = x = np.asarray(x)[:, : len(batch.rows)]
      gj.check_finite(x.swapaxes(0, 1), model.dtype, f'Activations ({site})')
    return batch, found

  before = None
  for batch in make_batches(rows, numbers, batch_size, buckets=buckets):
    now = batch, start(batch)
    if before is not None:
      yield fetch(*before)
    before = now
  if before is not None:
    yield fetch(*before)


@functools.partial(jax.jit, static_argnames=('sites',))
def _at_positions(
  model, tokens, positions, at, layers, *, sites
) -> dict[str, jax.Array]:
  """Site -> [L, B, W]."""
  seen = read_sites(model, tokens, positions, at, layers, sites)
  return {site: x[:, :, 0] for site, x in seen.items()}


def latents_at_positions(
  model: gj.Decoder,
  latents: Sequence[tuple[JumpReLUSAE, int]],
  rows: HarvestRows,
  *,
  batch_size: int = BATCH_SIZE,
  buckets: Sequence[int] = BUCKETS,
  description: str = 'Reading latents',
) -> np.ndarray:
  """Returns some latents at the rows' positions: float32 [k, n].

  Args:
    model: Whole, or truncated after the last layer that an SAE reads.
    latents: k pairs of an SAE and a number of a latent.
    rows: n of them.
    batch_size: Rows per run of the model.
    buckets: Lengths to which rows are padded; each is compiled once.
    description: Begins the progress bar.

  Raises:
    ValueError: an SAE does not fit the model, or has no such latent.
  """
  out = np.zeros((len(latents), len(rows)), np.float32)
  for batch, values in _run_latents(
    model, latents, rows, batch_size, buckets, description, whole=False
  ):
    out[:, batch.rows] = values[:, : len(batch.rows), 0]
  return out


def latent_activations(
  model: gj.Decoder,
  latents: Sequence[tuple[JumpReLUSAE, int]],
  rows: HarvestRows,
  *,
  batch_size: int = BATCH_SIZE,
  buckets: Sequence[int] = BUCKETS,
  description: str = 'Reading latents',
) -> list[np.ndarray]:
  """Returns some latents at every token: n of float32 [k, T], T being the
  row's.

  Arguments and errors are those of `latents_at_positions`. Whole rows are run,
  beyond their position too. BOS is a token like others here; what latents do
  there is the same in every text.
  """
  out = [np.empty(0)] * len(rows)
  for batch, values in _run_latents(
    model, latents, rows, batch_size, buckets, description, whole=True
  ):
    for slot, row in enumerate(batch.rows):
      # Padding is on the right.
      out[row] = values[:, slot, : len(rows.tokens[row])]
  return out


def _run_latents(
  model, latents, rows, batch_size, buckets, description, whole
) -> Iterator[tuple[Batch, np.ndarray]]:
  """Batches, with latents [k, B, 1 or T]."""
  if not latents:
    raise ValueError('There are no latents to read.')
  reads = check_saes(model.config, [sae for sae, _ in latents])
  check_tokens(model.config, rows)
  columns = [sae.select([number]) for sae, number in latents]
  layers = sorted({layer for _, layer in reads})
  numbers = np.arange(len(rows))
  with progress(rows, numbers, description, whole) as bar:
    for batch in make_batches(
      rows, numbers, batch_size, buckets=buckets, whole=whole
    ):
      with on_mesh(model):
        values = _encode_at(
          model,
          columns,
          batch.tokens,
          batch.positions,
          None if whole else batch.at,
          np.asarray(layers, np.int32),
          reads=tuple((site, layers.index(layer)) for site, layer in reads),
        )
      values = np.asarray(values)
      gj.check_finite(values.swapaxes(0, 1), model.dtype, 'Latents')
      yield batch, values
      bar.update(count_tokens(batch))


@functools.partial(jax.jit, static_argnames=('reads',))
def _encode_at(
  model, columns, tokens, positions, at, layers, *, reads
) -> jax.Array:
  """Latents float32 [k, B, P] at positions `at` [B, P], or at every place."""
  sites = {site for site, _ in reads}
  seen = read_sites(model, tokens, positions, at, layers, sites)
  with jax.default_matmul_precision('highest'):
    return jnp.stack(
      [
        encode(one, seen[site][slot].astype(jnp.float32))[..., 0]
        for one, (site, slot) in zip(columns, reads, strict=True)
      ]
    )
