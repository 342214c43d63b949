"""How well an SAE reconstructs, how sparsely, and which latents it uses.

  metrics = evaluate(sae, batches)          # x or (x, mask), any number
  json.dump(metrics.to_dict(), file)

Peers' numbers of the same name are not always the same quantity, explained
variance least of all; `METRIC_VERSION` goes into every result and names the
definitions of this file.
"""

from collections.abc import Iterable
import dataclasses

import jax
import numpy as np

from sae.jumprelu import JumpReLUSAE
from sae.metrics.compensated import value
from sae.metrics.metric_sums import (
  PER_LATENT,
  PER_TOKEN,
  Sums,
  add_batch,
  init_sums,
)

METRIC_VERSION = 'global-mean-fvu-1'
L0_QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
# log10 of frequencies; below the first edge counts in the first bin.
FREQUENCY_EDGES = np.linspace(-8, 0, 33)
_ARRAYS = (
  'frequency',
  'mean_activation',
  'max_activation',
  'activations_per_sequence',
)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Metrics:
  """Over n unmasked tokens x, reconstructions y and latents f.

  Not defined is NaN: ratios whose denominator is 0.

  Attributes:
    num_tokens: n.
    num_latents: F.
    l0: Mean number of active latents, f > 0, per token.
    l0_std: Standard deviation of that number over tokens (divided by n).
    l0_quantiles: L0 quantiles of that number at `L0_QUANTILES`: the least that
      at least this share of tokens stays within.
    mse: Mean over tokens of ||x - y||^2, summed over D, in squared units of x:
      not comparable between sites or models.
    variance: Mean over tokens of ||x - mean||^2, mean over all n tokens.
    fvu: Fraction of variance unexplained, mse / variance: one ratio of sums
      over all tokens and dimensions.
    explained_variance: 1 - fvu.
    cosine: Mean of cos(x, y), where neither is 0.
    cosine_skipped: Number of tokens where one is.
    l2_ratio: Mean of ||y|| / ||x||, where x is not 0.
    l2_ratio_skipped: Number of tokens where it is.
    relative_reconstruction_bias: gamma = E||y||^2 / E[x . y], 1 when unbiased,
      below 1 for shrinkage (Gated SAEs, arXiv 2404.16014, eq. 10).
    num_dead: Latents that are active on none of the n tokens.
    dead_share: num_dead / F.
    num_above_1_percent: Latents active on more than 1 % of tokens.
    num_above_10_percent: Latents active on more than 10 % of tokens.
    frequency_histogram: int [32], latents by log10 of frequency between
      `FREQUENCY_EDGES`, dead ones left out.
    mean_activations_per_sequence: Mean of `activations_per_sequence` over
      latents that are not dead.
    frequency: float64 [F], share of tokens that each latent is active on.
    mean_activation: float64 [F], mean of f over those tokens; NaN if dead.
    max_activation: float64 [F]; 0 if dead.
    activations_per_sequence: float64 [F], on how many tokens a latent is
      active per sequence in which it is at all, SAEBench's 'consistent
      activation heuristic'; NaN if dead, and NaN for all unless every batch
      came as [B, T, D].
    mean: float64 [D], of x: the mean for mean ablation.
  """

  num_tokens: int
  num_latents: int
  l0: float
  l0_std: float
  l0_quantiles: tuple[int, ...]
  mse: float
  variance: float
  fvu: float
  explained_variance: float
  cosine: float
  cosine_skipped: int
  l2_ratio: float
  l2_ratio_skipped: int
  relative_reconstruction_bias: float
  num_dead: int
  dead_share: float
  num_above_1_percent: int
  num_above_10_percent: int
  frequency_histogram: np.ndarray
  mean_activations_per_sequence: float
  frequency: np.ndarray
  mean_activation: np.ndarray
  max_activation: np.ndarray
  activations_per_sequence: np.ndarray
  mean: np.ndarray

  def to_dict(self, *, per_latent: bool = False) -> dict:
    """Returns a dict for JSON: what is not finite is None.

    Args:
      per_latent: True if lists of F numbers are in it. `mean` never is.
    """
    fields = {
      field.name: getattr(self, field.name)
      for field in dataclasses.fields(self)
      if field.name != 'mean' and (per_latent or field.name not in _ARRAYS)
    }
    fields['l0_quantiles'] = {
      str(share): count
      for share, count in zip(L0_QUANTILES, self.l0_quantiles, strict=True)
    }
    fields['frequency_histogram'] = {
      'log10_edges': FREQUENCY_EDGES.tolist(),
      'counts': self.frequency_histogram.tolist(),
    }
    for name, field in fields.items():
      if isinstance(field, np.ndarray):
        fields[name] = [_or_none(number) for number in field.tolist()]
      elif isinstance(field, float):
        fields[name] = _or_none(field)
    return {'metric_version': METRIC_VERSION} | fields


def evaluate(sae: JumpReLUSAE, batches: Iterable) -> Metrics:
  """Metrics of an SAE over batches of what it reads.

  Compiled once per shape of a batch; a smaller last batch is one more.

  Args:
    sae: Whose weights are measured.
    batches: Batches of x, or of tuples (x, mask); raw activations [B, T, D] or
      [n, D] and bool [B, T] or [n], as `add_batch` takes them.

  Raises:
    ValueError: there is no batch or no unmasked token, shapes do not fit, or
      an activation that counts, or its reconstruction, is not finite or too
      large to be squared in float32. Batches are numbered from 0.
  """
  weights = sae.weights()
  sums = init_sums(sae.width, sae.d_in)
  for number, batch in enumerate(batches):
    x, mask = batch if isinstance(batch, tuple) else (batch, None)
    mask = np.ones(x.shape[:-1], bool) if mask is None else mask
    try:
      more = _add_batch(sums, weights, x, mask)
    except ValueError as error:
      raise ValueError(f'Batch {number}: {error}') from error
    # The batches before are checked while the device is busy with this one.
    _check_finite(sums)
    sums = more
  return summarise(sums)


def summarise(sums: Sums) -> Metrics:
  """Returns the metrics that sums stand for; every division is made in float64.

  Raises:
    ValueError: nothing was summed, or something not finite; see `evaluate`.
  """
  _check_finite(sums)
  totals = dict(zip(PER_TOKEN, value(sums.totals), strict=True))
  totals |= dict(zip(PER_LATENT, value(sums.latents), strict=True))
  n = float(totals['tokens'])
  if not n:
    raise ValueError(
      'There is nothing to measure: the masks leave no token of '
      f'{int(sums.batches)} batches.'
      if int(sums.batches)
      else 'There is nothing to measure: no batch was given. An iterator that '
      'has been used up gives none; pass a fresh one.'
    )
  F = len(totals['fired'])
  histogram = value(sums.l0)
  counts, share = np.arange(F + 1), histogram / n
  l0 = float(counts @ share)
  mse, variance = float(totals['error']) / n, float(value(sums.scatter)) / n
  fvu = _ratio(mse, variance)
  fired = totals['fired']
  frequency = fired / n
  alive = fired > 0
  logs = np.log10(frequency[alive]).clip(FREQUENCY_EDGES[0])
  in_sequences = totals['sequence_tokens'] == n
  per_sequence = _ratio(fired, totals['sequences'] * in_sequences)
  return Metrics(
    num_tokens=int(n),
    num_latents=F,
    l0=l0,
    l0_std=float(np.sqrt((counts - l0) ** 2 @ share)),
    l0_quantiles=_quantiles(histogram),
    mse=mse,
    variance=variance,
    fvu=fvu,
    explained_variance=1 - fvu,
    cosine=_ratio(totals['cosine'], totals['cosine_tokens']),
    cosine_skipped=int(n - totals['cosine_tokens']),
    l2_ratio=_ratio(totals['ratio'], totals['ratio_tokens']),
    l2_ratio_skipped=int(n - totals['ratio_tokens']),
    relative_reconstruction_bias=_ratio(totals['output'], totals['product']),
    num_dead=int((~alive).sum()),
    dead_share=float((~alive).mean()),
    num_above_1_percent=int((frequency > 0.01).sum()),
    num_above_10_percent=int((frequency > 0.1).sum()),
    frequency_histogram=np.histogram(logs, FREQUENCY_EDGES)[0],
    mean_activations_per_sequence=(
      float(per_sequence[alive].mean()) if alive.any() else float('nan')
    ),
    frequency=frequency,
    mean_activation=_ratio(totals['activation'], fired),
    max_activation=np.asarray(sums.top, np.float64),
    activations_per_sequence=per_sequence,
    mean=value(sums.mean),
  )


_add_batch = jax.jit(add_batch)


def _check_finite(sums: Sums):
  bad = int(sums.not_finite)
  if bad >= 0:
    raise ValueError(
      f'Batch {bad} (from 0) holds a number that is not finite where the mask '
      'is True: NaN or infinity in x or its reconstruction, or a square beyond '
      'float32. Mask it out, or look for where it arises.'
    )


def _ratio(numerator, denominator):
  """numerator / denominator, NaN where the denominator is 0."""
  numerator, denominator = np.broadcast_arrays(numerator, denominator)
  ratio = np.full(denominator.shape, np.nan)
  np.divide(numerator, denominator, out=ratio, where=denominator != 0)
  return ratio if ratio.ndim else float(ratio)


def _quantiles(histogram: np.ndarray) -> tuple[int, ...]:
  reached = histogram.cumsum()
  # Whole counts: a share that falls on one exactly must not be missed by the
  # rounding of share * n.
  wanted = np.ceil(np.array(L0_QUANTILES) * reached[-1] - 1e-6)
  return tuple(int(at) for at in np.searchsorted(reached, wanted))


def _or_none(number):
  return number if np.isfinite(number) else None
