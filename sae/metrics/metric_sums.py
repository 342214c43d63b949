"""What the metrics of an SAE are computed from, summed over batches.

Letters: B sequences, T tokens of one, n tokens in all, D width of the site, F
latents. Sums take the memory of a few arrays [F], however many batches go in.
They are pytrees of arrays: `add_batch` runs under `jax.jit`, `lax.scan` and
`jax.vmap` (several SAEs on one x), and is compiled once for all SAEs of a
shape. `evaluation.py` turns them into numbers to report.

Everything is computed in float32, at the matmul precision that JAX is set to,
whatever the dtype of x and of the weights: what is measured is the SAE, not
the rounding of the model around it. Sums are pairs (`compensated.py`), so that
adding up loses nothing.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from sae.jumprelu import Weights, decode, encode
from sae.metrics.compensated import Pair, add, pair, scale, total

# What is summed over tokens x, with reconstruction y.
PER_TOKEN = (
  'tokens',  # 1
  'error',  # ||x - y||^2
  'output',  # ||y||^2
  'product',  # x . y
  'cosine',  # cos(x, y), where neither is 0
  'cosine_tokens',  # 1 there
  'ratio',  # ||y|| / ||x||, where x is not 0
  'ratio_tokens',  # 1 there
  'sequence_tokens',  # 1 for tokens that come in sequences, as x [B, T, D]
)
# What is summed for each latent.
PER_LATENT = (
  'fired',  # Tokens that it is active on
  'activation',  # f
  'sequences',  # Sequences in which it is active
)


class Sums(NamedTuple):
  """Sums over unmasked tokens.

  Attributes:
    totals: [9], in the order of `PER_TOKEN`.
    mean: [D], of x.
    scatter: [], sum of ||x - mean||^2.
    l0: [F + 1], how many tokens have 0, 1, ..., F active latents.
    latents: [3, F], in the order of `PER_LATENT`.
    top: float32 [F], the largest activation of each latent.
    batches: int32 [], how many were added.
    not_finite: int32 [], the first of them, from 0, whose numbers are not all
      finite; -1 for none.
  """

  totals: Pair
  mean: Pair
  scatter: Pair
  l0: Pair
  latents: Pair
  top: jax.Array
  batches: jax.Array
  not_finite: jax.Array


def init_sums(width: int, d_in: int) -> Sums:
  """Sums over nothing, for an SAE of `width` latents that reads [..., d_in]."""

  def zeros(*shape):
    return pair(jnp.zeros(shape, jnp.float32))

  return Sums(
    totals=zeros(len(PER_TOKEN)),
    mean=zeros(d_in),
    scatter=zeros(),
    l0=zeros(width + 1),
    latents=zeros(len(PER_LATENT), width),
    top=jnp.zeros(width, jnp.float32),
    batches=jnp.int32(0),
    not_finite=jnp.int32(-1),
  )


def add_batch(
  sums: Sums, weights: Weights, x: jax.Array, mask: jax.Array | None = None
) -> Sums:
  """Sums with one more batch.

  Args:
    sums: So far.
    weights: Weights of the SAE.
    x: Raw activations, [B, T, D], or [n, D] where tokens of one sequence are
      not kept together. A row of [B, T, D] is one sequence, and whole: what is
      counted per sequence does not reach across batches.
    mask: bool [B, T] or [n], False for BOS, padding and all else that does not
      count; whatever x holds there, NaN included. None counts every token.

  Raises:
    ValueError: shapes or dtypes do not fit.
  """
  return merge_sums(sums, batch_sums(weights, x, mask))


def batch_sums(
  weights: Weights, x: jax.Array, mask: jax.Array | None = None
) -> Sums:
  """Sums over one batch alone; see `add_batch`."""
  mask = _check(weights, x, mask)
  x = jnp.where(mask[..., None], x, 0).astype(jnp.float32)
  f = encode(weights, x)
  f = jnp.where(mask[..., None], f, 0)
  y = jnp.where(mask[..., None], decode(weights, f), 0)
  active = f > 0  # [..., F]
  in_sequences = x.ndim == 3
  sequences = active.any(axis=1).sum(axis=0) if in_sequences else 0
  x, y, f = (array.reshape(-1, array.shape[-1]) for array in (x, y, f))
  active, mask = active.reshape(f.shape), mask.reshape(-1)

  mean, centred, missed = _moments(x, mask)
  xx, yy, xy, error, scatter = total(
    jnp.stack([x * x, y * y, x * y, (x - y) ** 2, centred]), axis=-1
  ).high  # [n] each
  some_x, some_y = xx > 0, yy > 0
  x_norm = jnp.sqrt(jnp.where(some_x, xx, 1))
  y_norm = jnp.sqrt(jnp.where(some_y, yy, 1))
  both = some_x & some_y
  per_token = {
    'tokens': mask,
    'error': error,
    'output': yy,
    'product': xy,
    'cosine': jnp.where(both, xy / x_norm / y_norm, 0),
    'cosine_tokens': both,
    'ratio': jnp.where(both, y_norm / x_norm, 0),
    'ratio_tokens': some_x,
    'sequence_tokens': mask & in_sequences,
  }
  per_latent = {
    'fired': pair(active.sum(axis=0)),
    'activation': total(f, axis=0),
    'sequences': pair(jnp.broadcast_to(sequences, f.shape[1:])),
  }
  finite = jnp.isfinite(x).all() & jnp.isfinite(xx + yy + error).all()
  return Sums(
    totals=total(
      jnp.stack([per_token[name].astype(jnp.float32) for name in PER_TOKEN]),
      axis=-1,
    ),
    mean=mean,
    scatter=add(total(scatter, axis=0), missed),
    l0=pair(jnp.zeros(f.shape[1] + 1).at[active.sum(axis=1)].add(mask)),
    latents=Pair(
      *map(
        jnp.stack, zip(*(per_latent[name] for name in PER_LATENT), strict=True)
      )
    ),
    top=f.max(axis=0),
    batches=jnp.int32(1),
    not_finite=jnp.where(finite, -1, 0).astype(jnp.int32),
  )


def merge_sums(a: Sums, b: Sums) -> Sums:
  """Sums over what went into a, and then b: of other batches, or of a host.

  Means and scatters merge as in Chan, Golub and LeVeque (1983), eq. 2.1, so
  that an offset of x, however large, cancels before anything is squared.

  Raises:
    ValueError: they are of SAEs of different shapes.
  """
  F, D = a.top.shape[-1], a.mean.high.shape[-1]
  if (F, D) != (b.top.shape[-1], b.mean.high.shape[-1]):
    raise ValueError(
      f'Sums for an SAE with F={F}, D={D} cannot take in sums of one with '
      f'F={b.top.shape[-1]}, D={b.mean.high.shape[-1]}; start from '
      'init_sums(sae.width, sae.d_in).'
    )
  totals = add(a.totals, b.totals)
  # b's share of the tokens: exactly 1 where a is empty, 0 where b is.
  at = PER_TOKEN.index('tokens')
  share = b.totals.high[at] / jnp.maximum(totals.high[at], 1)
  apart = add(b.mean, Pair(-a.mean.high, -a.mean.low))
  between = scale(total(apart.high**2, axis=0), a.totals.high[at] * share)
  later = jnp.where(b.not_finite >= 0, a.batches + b.not_finite, -1)
  return Sums(
    totals=totals,
    mean=add(a.mean, scale(apart, share)),
    scatter=add(add(a.scatter, b.scatter), between),
    l0=add(a.l0, b.l0),
    latents=add(a.latents, b.latents),
    top=jnp.maximum(a.top, b.top),
    batches=a.batches + b.batches,
    not_finite=jnp.where(a.not_finite >= 0, a.not_finite, later),
  )


def _moments(x: jax.Array, mask: jax.Array):
  """Returns the mean of x [n, D], and two parts of its scatter.

  Squares are taken of x less a point close to the mean, [n, D]; what the point
  misses by is put right by the last result, a pair []. The point is found from
  the first token on: data that do not vary have a scatter of exactly 0.
  """
  n = jnp.maximum(mask.sum(), 1).astype(jnp.float32)
  first = x[mask.argmax()]
  near = first + jnp.where(mask[:, None], x - first, 0).sum(axis=0) / n
  rest = jnp.where(mask[:, None], x - near, 0)
  missed = total(rest, axis=0)
  mean = add(pair(near), scale(missed, 1 / n))
  return mean, rest * rest, scale(total(missed.high**2, axis=0), -1 / n)


def _check(weights: Weights, x, mask) -> jax.Array:
  """Returns the mask, once it and x are found to fit."""
  D = weights.W_enc.shape[0]
  if x.ndim not in (2, 3) or x.shape[-1] != D or not x.size:
    raise ValueError(
      f'Activations have shape {x.shape}, expected [B, T, {D}] (rows are '
      f'sequences) or [n, {D}], with at least one token.'
    )
  if not jnp.issubdtype(x.dtype, jnp.floating):
    raise ValueError(f'Activations must be floating point, got {x.dtype}.')
  if mask is None:
    return jnp.ones(x.shape[:-1], bool)
  if mask.shape != x.shape[:-1] or mask.dtype != bool:
    raise ValueError(
      f'The mask is {mask.dtype} {mask.shape}, expected bool {x.shape[:-1]}: '
      'True for each token that counts.'
    )
  return mask
