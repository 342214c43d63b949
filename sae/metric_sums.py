"""What the metrics of an SAE are computed from, summed over batches.

Letters: B sequences, T tokens of one, n tokens in all, D width of the site, F
latents. Sums take the memory of a few arrays [F], however many batches go in.
They are pytrees of arrays: `add_batch` runs under `jax.jit`, `lax.scan` and
`jax.vmap` (several SAEs on one x), and is compiled once for all SAEs of a
shape. `metrics.py` turns them into numbers to report.

Everything is computed in float32, at the matmul precision that JAX is set to,
whatever the dtype of x and of the weights: what is measured is the SAE, not
the rounding of the model around it. Sums are pairs (`compensated.py`), so that
adding up loses nothing.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from sae.compensated import Pair, add, pair, scale, total
from sae.jumprelu import Weights, decode, encode


class Sums(NamedTuple):
  """Sums over unmasked tokens x, with reconstruction y and latents f.

  Attributes:
    tokens: [], n.
    mean: [D], of x.
    scatter: [], of ||x - mean||^2.
    error: [], of ||x - y||^2.
    output: [], of ||y||^2.
    product: [], of x . y.
    cosine: [], of cos(x, y), where neither norm is 0.
    cosine_tokens: [], how many these are.
    ratio: [], of ||y|| / ||x||, where ||x|| is not 0.
    ratio_tokens: [], how many these are.
    l0: [F + 1], how many tokens have 0, 1, ..., F active latents.
    fired: [F], how many tokens each latent is active on.
    activation: [F], of f.
    top: float32 [F], the largest f.
    sequence_tokens: [], tokens that came in sequences, as x [B, T, D].
    sequences: [F], in how many sequences each latent is active.
    batches: int32 [], how many were added.
    not_finite: int32 [], the first of them, from 0, whose numbers are not all
      finite; -1 for none.
  """

  tokens: Pair
  mean: Pair
  scatter: Pair
  error: Pair
  output: Pair
  product: Pair
  cosine: Pair
  cosine_tokens: Pair
  ratio: Pair
  ratio_tokens: Pair
  l0: Pair
  fired: Pair
  activation: Pair
  top: jax.Array
  sequence_tokens: Pair
  sequences: Pair
  batches: jax.Array
  not_finite: jax.Array


def init_sums(width: int, d_in: int) -> Sums:
  """Sums over nothing, for an SAE of `width` latents that reads [..., d_in]."""
  shapes = {'mean': d_in, 'l0': width + 1}
  shapes |= dict.fromkeys(('fired', 'activation', 'sequences'), width)
  zeros = {
    name: pair(jnp.zeros(shapes.get(name, ()), jnp.float32))
    for name in Sums._fields
    if name not in ('top', 'batches', 'not_finite')
  }
  return Sums(
    **zeros,
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
    weights: Of the SAE.
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
  if x.ndim == 3:
    sequences = active.any(axis=1).sum(axis=0)
    sequence_tokens = mask.sum()
  else:
    sequences = jnp.zeros(f.shape[-1])
    sequence_tokens = jnp.zeros(())
  x, y, f = (array.reshape(-1, array.shape[-1]) for array in (x, y, f))
  active, mask = active.reshape(f.shape), mask.reshape(-1)

  tokens = mask.sum()
  mean, centred, scatter = _moments(x, mask, tokens)
  squares = total(
    jnp.stack([x * x, y * y, x * y, (x - y) ** 2, centred]), axis=-1
  )  # [5, n]
  xx, yy, xy = squares.high[:3]
  cosine_ok, ratio_ok = (xx > 0) & (yy > 0), xx > 0
  x_norm = jnp.sqrt(jnp.where(ratio_ok, xx, 1))
  y_norm = jnp.sqrt(jnp.where(yy > 0, yy, 1))
  cosine = jnp.where(cosine_ok, xy / x_norm / y_norm, 0)
  ratio = jnp.where(ratio_ok, jnp.sqrt(yy) / x_norm, 0)
  _, output, product, error, spread = _unstack(total(squares, axis=-1))
  cosine, ratio = _unstack(total(jnp.stack([cosine, ratio]), axis=-1))
  finite = jnp.isfinite(x).all() & jnp.isfinite(squares.high).all()
  return Sums(
    tokens=pair(tokens),
    mean=mean,
    scatter=add(spread, scatter),
    error=error,
    output=output,
    product=product,
    cosine=cosine,
    cosine_tokens=pair(cosine_ok.sum()),
    ratio=ratio,
    ratio_tokens=pair(ratio_ok.sum()),
    l0=pair(jnp.zeros(f.shape[1] + 1).at[active.sum(axis=1)].add(mask)),
    fired=pair(active.sum(axis=0)),
    activation=total(f, axis=0),
    top=f.max(axis=0),
    sequence_tokens=pair(sequence_tokens),
    sequences=pair(sequences),
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
  merged = {
    name: add(getattr(a, name), getattr(b, name))
    for name in Sums._fields
    if isinstance(getattr(a, name), Pair)
  }
  # b's share of the tokens: exactly 1 where a is empty, 0 where b is.
  share = b.tokens.high / jnp.maximum(merged['tokens'].high, 1)
  apart = add(b.mean, Pair(-a.mean.high, -a.mean.low))
  between = scale(total(apart.high**2, axis=0), a.tokens.high * share)
  merged['mean'] = add(a.mean, scale(apart, share))
  merged['scatter'] = add(merged['scatter'], between)
  later = jnp.where(b.not_finite >= 0, a.batches + b.not_finite, -1)
  return Sums(
    **merged,
    top=jnp.maximum(a.top, b.top),
    batches=a.batches + b.batches,
    not_finite=jnp.where(a.not_finite >= 0, a.not_finite, later),
  )


def _moments(x: jax.Array, mask: jax.Array, tokens: jax.Array):
  """The mean of x [n, D], and two parts of its scatter.

  Squares are taken of x less a point close to the mean, [n, D]; what the point
  misses by is put right by the last result, a pair []. The point is found from
  the first token on: data that do not vary have a scatter of exactly 0.
  """
  n = jnp.maximum(tokens, 1).astype(jnp.float32)
  first = x[mask.argmax()]
  near = first + jnp.where(mask[:, None], x - first, 0).sum(axis=0) / n
  rest = jnp.where(mask[:, None], x - near, 0)
  missed = total(rest, axis=0)
  mean = add(pair(near), scale(missed, 1 / n))
  return mean, rest * rest, scale(total(missed.high**2, axis=0), -1 / n)


def _unstack(pairs: Pair) -> list[Pair]:
  return [Pair(high, low) for high, low in zip(*pairs, strict=True)]


def _check(weights: Weights, x, mask) -> jax.Array:
  """The mask, once it and x are found to fit."""
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
