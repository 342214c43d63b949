"""What SAEs' latents do at many tokens, from one pass of the model.

Per group of rows and per latent: how often it is active, its sum and its sum of
squares; per group, moments of what the SAEs read. That is all that separation
scores, Welch's t and differences of means are made of. Activations and latents
never leave the device; logits and layers after the last SAE's are not computed.

Letters: B rows, G groups, D width of a site, F latents.

Sums are kept on the device. Within a batch, of at most some hundred rows, they
are float32 sums at full precision (not TF32, which also would move latents
across their threshold); from batch to batch they are added in pairs of float32
(`sae/metrics/compensated.py`), which loses nothing however many batches there
are, and become float64 when they are fetched, once, at the end. Fetching every
batch would move G x F numbers per SAE as often as it runs the model. Counts are
integers and exact."""

from collections.abc import Sequence
import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.activations.harvest_rows import HarvestRows
from experiments.activations.reading import (
  check_saes,
  check_tokens,
  on_mesh,
  read_sites,
)
from experiments.activations.row_batches import (
  BATCH_SIZE,
  BUCKETS,
  count_tokens,
  make_batches,
  progress,
)
import gemma_jax as gj
from sae.jumprelu import JumpReLUSAE, Weights, encode
from sae.metrics.compensated import Pair, add, pair, value

# A latent above this is active (arXiv 2411.14257).
ACTIVE = 1e-6


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class GroupSums:
  """Sums over the rows of each group, for one SAE.

  Attributes:
    site: What the SAE reads.
    layer: Layer of the site.
    n: int64 [G], rows.
    active: int64 [G, F], rows on which a latent is above ACTIVE.
    total: float64 [G, F], sum of the latent.
    squares: float64 [G, F], sum of its square.
    stream_total: float64 [G, D], sum of what the SAE reads.
    norm_total: float64 [G], sum of its norm.
  """

  site: str
  layer: int
  n: np.ndarray
  active: np.ndarray
  total: np.ndarray
  squares: np.ndarray
  stream_total: np.ndarray
  norm_total: np.ndarray


class _Latents(NamedTuple):
  """Holds sums of one SAE, on the device; [G, F] each."""

  active: jax.Array
  total: Pair
  squares: Pair


class _Stream(NamedTuple):
  """Holds sums of one site and layer: [G, D], [G]."""

  total: Pair
  norm: Pair


def stream_scores(
  model: gj.Decoder,
  saes: Sequence[JumpReLUSAE],
  rows: HarvestRows,
  groups: Sequence[int],
  num_groups: int,
  *,
  batch_size: int = BATCH_SIZE,
  side: str = 'right',
  buckets: Sequence[int] = BUCKETS,
  description: str = 'Harvesting',
) -> list[GroupSums]:
  """Sums over groups of rows, for every SAE, from one pass of the model.

  Args:
    model: Whole, or truncated after the last layer that an SAE reads.
    saes: With the site and layer they read in `origin`; any sites, layers and
      widths together.
    rows: n of them.
    groups: int [n], from 0; rows of group -1 are not run.
    num_groups: G.
    batch_size: B, rows per run. Like `side` and `buckets`, it changes results
      by rounding only.
    side: Side of the padding.
    buckets: Lengths to which rows are padded; each is compiled once.
    description: Begins the progress bar.

  Raises:
    ValueError: there are no SAEs; an SAE does not fit the model; groups or
      tokens are out of range; or what a site gave is not finite.
  """
  groups = np.asarray(groups, np.int32)
  if groups.shape != (len(rows),):
    raise ValueError(
      f'Got groups of shape {groups.shape}, expected one for each of '
      f'{len(rows)} rows.'
    )
  if groups.min(initial=0) < -1 or groups.max(initial=-1) >= num_groups:
    raise ValueError(
      f'Groups must be from -1 to {num_groups - 1}, got '
      f'{groups.min()} to {groups.max()}.'
    )
  if not saes:
    raise ValueError('There are no SAEs to stream.')
  reads = check_saes(model.config, saes)
  check_tokens(model.config, rows)
  places = sorted(set(reads))
  layers = sorted({layer for _, layer in places})
  sums = _zeros(model.config, places, saes, num_groups)
  encoders = [_encoder(sae) for sae in saes]
  numbers = np.flatnonzero(groups >= 0)
  before = None
  with (
    progress(rows, numbers, description) as bar,
    on_mesh(model),
  ):
    for batch in make_batches(
      rows, numbers, batch_size, side=side, buckets=buckets
    ):
      group = np.full(batch_size, -1, np.int32)
      group[: len(batch.rows)] = groups[batch.rows]
      sums, done = _add_batch(
        sums,
        model,
        encoders,
        batch.tokens,
        batch.positions,
        batch.at,
        group,
        np.asarray(layers, np.int32),
        places=tuple((site, layers.index(layer)) for site, layer in places),
        reads=tuple(places.index(read) for read in reads),
      )
      # Two batches are under way at most, so that the bar tells the truth.
      jax.block_until_ready(before)
      before = done
      bar.update(count_tokens(batch))
    jax.block_until_ready(sums)
  n = np.bincount(groups[numbers], minlength=num_groups).astype(np.int64)
  streams = {
    place: _fetch_stream(place, stream, model.dtype)
    for place, stream in zip(places, sums[1], strict=True)
  }
  return [
    GroupSums(
      site=read[0],
      layer=read[1],
      n=n,
      active=np.asarray(one.active, np.int64),
      total=value(one.total),
      squares=value(one.squares),
      **streams[read],
    )
    for read, one in zip(reads, sums[0], strict=True)
  ]


def _encoder(sae: JumpReLUSAE) -> Weights:
  """Returns the arrays that encoding needs, and no others."""
  return sae.weights()._replace(W_dec=None, b_dec=None)


def _zeros(config, places, saes, G: int):
  """Sums over nothing: (_Latents of each SAE, _Stream of each place)."""

  def zeros(*shape):
    return pair(jnp.zeros(shape, jnp.float32))

  latents = [
    _Latents(
      active=jnp.zeros((G, sae.width), jnp.int32),
      total=zeros(G, sae.width),
      squares=zeros(G, sae.width),
    )
    for sae in saes
  ]
  streams = [
    _Stream(total=zeros(G, gj.site_width(config, site)), norm=zeros(G))
    for site, _ in places
  ]
  return latents, streams


@functools.partial(
  jax.jit,
  static_argnames=('places', 'reads'),
  donate_argnames=('sums',),
)
def _add_batch(
  sums,
  model,
  encoders,
  tokens,
  positions,
  at,
  group,
  layers,
  *,
  places,
  reads,
):
  """Sums with one more batch, and something to wait for.

  Args:
    sums: As `_zeros` makes them.
    model: The model.
    encoders: Weights of each SAE.
    tokens, positions, at: See `Batch`.
    group: int32 [B], -1 in empty rows.
    layers: int32 [k], those that are captured.
    places: (site, index into `layers`) that are read.
    reads: Which place each SAE reads.
  """
  sites = {site for site, _ in places}
  seen = read_sites(model, tokens, positions, at, layers, sites)
  xs = [seen[site][slot, :, 0].astype(jnp.float32) for site, slot in places]
  latents, streams = sums
  # Empty rows are in no group.
  member = jax.nn.one_hot(group, streams[0].norm.high.shape[0])  # [B, G]
  with jax.default_matmul_precision('highest'):

    def of_groups(y):
      """Sums [G, ...] of y [B, ...]."""
      return jnp.einsum('BG,B...->G...', member, y)

    streams = [
      _add_stream(stream, x, of_groups)
      for stream, x in zip(streams, xs, strict=True)
    ]
    latents = [
      _add_latents(one, encode(weights, xs[read]), of_groups)
      for one, weights, read in zip(latents, encoders, reads, strict=True)
    ]
  return (latents, streams), streams[0].norm.high.sum()


def _add_stream(stream: _Stream, x, of_groups) -> _Stream:
  return _Stream(
    total=add(stream.total, pair(of_groups(x))),
    norm=add(stream.norm, pair(of_groups(jnp.linalg.norm(x, axis=-1)))),
  )


def _add_latents(one: _Latents, f, of_groups) -> _Latents:
  # Sums of a batch's zeros and ones are whole numbers in float32 too.
  active = of_groups((f > ACTIVE).astype(jnp.float32)).astype(jnp.int32)
  return _Latents(
    active=one.active + active,
    total=add(one.total, pair(of_groups(f))),
    squares=add(one.squares, pair(of_groups(f * f))),
  )


def _fetch_stream(place, stream: _Stream, dtype) -> dict[str, np.ndarray]:
  site, layer = place
  norm = value(stream.norm)
  gj.check_finite(norm, dtype, f'Norms ({site} of layer {layer}) in the group')
  return {'stream_total': value(stream.total), 'norm_total': norm}
