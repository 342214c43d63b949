"""Measures SAEs of one site on a language model's activations.

Every measure makes one pass over the text in which all SAEs share the model's
clean run; fidelity then costs one run per SAE, and two per layer for the
ablations.
"""

from collections.abc import Sequence
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from experiments.inputs.token_rows import Rows
from experiments.sae_training.splicing import (
  Splicer,
  losses_that_count,
  own_gradients,
)
from experiments.sae_training.token_activations import num_batches, read_batch
import gemma_jax as gj
from sae.jumprelu import JumpReLUSAE, decode, encode
from sae.metrics.evaluation import Metrics, summarise
from sae.metrics.fidelity import (
  Ablate,
  Fidelity,
  RatioEstimate,
  Reconstruct,
  compare_losses,
  ratio_estimate,
  sequence_losses,
)
from sae.metrics.metric_sums import add_batch, init_sums
from sae.metrics.uniformity import Uniformity, mean_uniformity

# SAEs of one site: one list per layer.
SAEs = Sequence[Sequence[JumpReLUSAE]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvaluationText:
  """Holds the text that SAEs are measured on.

  Attributes:
    rows: Rows of tokens, read from the first on.
    num_tokens: Number of kept tokens to read; a few more, as rows are whole, or
      all if there are fewer.
    batch_size: Rows per run of the model.
  """

  rows: Rows
  num_tokens: int
  batch_size: int = 16

  def batches(self, description: str):
    """Yields batches, with a progress bar."""
    count, stop = num_batches(self.rows, self.num_tokens, self.batch_size)
    for number in tqdm.tqdm(
      range(count), desc=description, unit=' batches', dynamic_ncols=True
    ):
      yield read_batch(self.rows, number, self.batch_size, stop)


def check_losses(rows: Rows, num_tokens: int):
  """Raises ValueError unless some loss counts in the text to be measured on."""
  count, stop = num_batches(rows, num_tokens, 64)
  if not any(
    losses_that_count(read_batch(rows, number, 64, stop)).any()
    for number in range(count)
  ):
    raise ValueError(
      f'No two kept tokens stand side by side in the {stop:,} rows to measure '
      'on, so no loss can be compared. Raise --context, or give longer '
      'documents (--pack puts several into a row).'
    )


def _check_reads(site: str, layers: Sequence[int], saes: SAEs):
  for layer, row in zip(layers, saes, strict=True):
    for sae in row:
      sae.check_reads(site, layer)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spliced:
  """Holds what `measure_splicing` finds of one SAE.

  Attributes:
    fidelity: What the model loses with the reconstruction in place.
    fvu: The FVU once more, with its interval.
    l0: The L0 once more, with its interval.
  """

  fidelity: Fidelity
  fvu: RatioEstimate
  l0: RatioEstimate


def measure_metrics(
  model: gj.Decoder,
  site: str,
  layers: Sequence[int],
  saes: SAEs,
  text: EvaluationText,
) -> list[list[Metrics]]:
  """Measures SAEs [S][R] at S layers; the model may be truncated.

  Raises:
    ValueError: an SAE reads elsewhere; or see `sae.metrics.evaluate`.
  """
  _check_reads(site, layers, saes)
  capture = gj.capture(site, layers=list(layers))
  sums = [[init_sums(sae.width, sae.d_in) for sae in row] for row in saes]
  weights = [[sae.weights() for sae in row] for row in saes]
  for batch in text.batches('Measuring reconstruction'):
    x = gj.run(model, *batch[:2], capture=capture)[site]
    keep = jnp.asarray(batch.keep)
    for s, row in enumerate(sums):
      for r, sofar in enumerate(row):
        row[r] = _add_batch(sofar, weights[s][r], x[s], keep)
    # One batch at a time on the device.
    jax.block_until_ready(sums)
  return [[summarise(one) for one in row] for row in sums]


_add_batch = jax.jit(add_batch, donate_argnums=0)


def measure_splicing(
  model: gj.Decoder,
  site: str,
  layers: Sequence[int],
  saes: SAEs,
  means: Sequence[np.ndarray],
  text: EvaluationText,
) -> list[list[Spliced]]:
  """Measures fidelity of SAEs [S][R], and intervals of FVU and L0.

  Args:
    model: A whole model.
    site: Site of width W.
    layers: S layers of the site.
    saes: SAEs at those layers.
    means: float [W] for each layer, for mean ablation; FVU is about it.
    text: What to read.

  Raises:
    ValueError: an SAE reads elsewhere, or the model is truncated.
  """
  _check_reads(site, layers, saes)
  splicer = Splicer(model, site, layers)
  means = [jnp.asarray(mean, jnp.float32) for mean in means]
  # What replaces x, at which layer.
  replacements = {'clean': (layers[0], None)}
  for s, layer in enumerate(layers):
    zero = Ablate(jnp.zeros_like(means[s]))
    replacements[f'{s}/zero'] = layer, zero
    replacements[f'{s}/mean'] = layer, Ablate(means[s])
    for r, sae in enumerate(saes[s]):
      replacements[f'{s}/{r}'] = layer, Reconstruct(sae.weights())
  sums = []

  def batches():
    for batch in text.batches('Measuring the loss'):
      x, keep = splicer.clean(batch)[0], jnp.asarray(batch.keep)
      here = {
        (s, r): _row_sums(sae.weights(), x[s], keep, means[s])
        for s, row in enumerate(saes)
        for r, sae in enumerate(row)
      }
      sums.append(jax.device_get(here))
      yield batch

  def run(batch, at):
    return splicer.losses(batch, *at), losses_that_count(batch)

  tokens, losses = sequence_losses(run, batches(), replacements)

  def spliced(s, r):
    fidelity = compare_losses(
      tokens,
      {
        'clean': losses['clean'],
        'spliced': losses[f'{s}/{r}'],
        'zero': losses[f'{s}/zero'],
        'mean': losses[f'{s}/mean'],
      },
    )
    error, scatter, active, kept = np.concatenate(
      [part[s, r] for part in sums], axis=1
    ).astype(np.float64)
    some = kept > 0
    return Spliced(
      fidelity=fidelity,
      fvu=ratio_estimate(error[some], scatter[some]),
      l0=ratio_estimate(active[some], kept[some]),
    )

  return [
    [spliced(s, r) for r in range(len(row))] for s, row in enumerate(saes)
  ]


@jax.jit
def _row_sums(weights, x, keep, mean):
  """Sums over each row.

  Returns:
    float32 [4, B]: squared error, squared distance from the mean, active
    latents, tokens.
  """
  x = jnp.where(keep[..., None], x, 0).astype(jnp.float32)
  f = encode(weights, x)
  error = ((x - decode(weights, f)) ** 2).sum(-1)
  per_token = (error, ((x - mean) ** 2).sum(-1), (f > 0).sum(-1), keep)
  return jnp.stack([jnp.where(keep, y, 0).sum(-1) for y in per_token])


def measure_uniformity(
  model: gj.Decoder,
  site: str,
  layers: Sequence[int],
  saes: SAEs,
  text: EvaluationText,
  *,
  num_tokens: int,
  seed: int = 0,
) -> list[list[Uniformity]]:
  """Measures uniformity of SAEs [S][R] on one random token of each row.

  A gradient is wanted of each token's own prediction alone, and every token
  also acts on the predictions after it: one token per row and pass.

  Args:
    model: A whole model.
    site: Site of width W.
    layers: S layers of the site.
    saes: SAEs at those layers.
    text: What to read.
    num_tokens: Rows to read; fewer where text ends, or a row has no two kept
      tokens side by side.
    seed: Random seed of the choice of tokens.

  Raises:
    ValueError: an SAE reads elsewhere.
  """
  _check_reads(site, layers, saes)
  parts, number = [], 0
  count, stop = num_batches(text.rows, text.num_tokens, text.batch_size)
  stop = min(stop, num_tokens)
  for number in tqdm.tqdm(
    range(min(count, -(-stop // text.batch_size))),
    desc='Measuring uniformity',
    unit=' batches',
    dynamic_ncols=True,
  ):
    batch = read_batch(text.rows, number, text.batch_size, stop)
    counts = losses_that_count(batch)
    rng = np.random.default_rng([seed, number])
    # The largest of random numbers is at a random place.
    column = np.where(counts, rng.random(counts.shape), -1).argmax(axis=1)
    at = np.where(counts.any(axis=1), column, -1)
    x, gradient = own_gradients(model, site, layers, batch, at)
    parts.append(jax.device_get((x, gradient)) + (counts.any(axis=1),))
  return [
    [
      mean_uniformity(sae, [(x[s], gradient[s], m) for x, gradient, m in parts])
      for sae in row
    ]
    for s, row in enumerate(saes)
  ]
