"""What a language model loses when an SAE's reconstruction takes the place of
what it reads.

This package knows no model; the caller brings one as a function,

  @jax.jit
  def losses(model, tokens, positions, replace):
    ...                                 # up to the site: x [B, T, D]
    if replace is not None:
      x = jnp.where(spliced[..., None], replace(x), x)
    ...                                 # and on, to the losses [B, T]

  def run(batch, replace):
    return losses(model, *batch, replace), batch.counts

  result = measure_fidelity(run, batches, sae, mean=metrics.mean)

`replace` is called on activations and is a pytree, so that it goes through
`jax.jit` like any other argument: one program for no replacement, one for
reconstructions by SAEs of a shape, one for ablations. `spliced`, bool [B, T],
is the caller's and leaves BOS and padding as they are: SAEs are not trained on
them, and a BOS put in place by a reconstruction spoils every later token. Nor
should losses there count.
"""

from collections.abc import Callable, Iterable, Mapping
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from sae.jumprelu import JumpReLUSAE, Weights, decode, encode

CONFIDENCE = 0.95


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Reconstruct:
  """Puts reconstructions in place: x [..., D] to [..., D], x.dtype.

  Attributes:
    weights: Weights of the SAE.
  """

  weights: Weights

  def __call__(self, x: jax.Array) -> jax.Array:
    return decode(self.weights, encode(self.weights, x))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Ablate:
  """Puts one vector in place everywhere: x [..., D] to [..., D], x.dtype.

  Attributes:
    value: [D]; zeros for zero ablation, a mean for mean ablation.
  """

  value: jax.Array

  def __call__(self, x: jax.Array) -> jax.Array:
    return jnp.broadcast_to(self.value.astype(x.dtype), x.shape)


Replacement = Callable[[jax.Array], jax.Array] | None
# Batch and replacement to losses [B, T], in nats, and which count, bool [B, T].
Run = Callable[[Any, Replacement], tuple[jax.Array, jax.Array]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RatioEstimate:
  """A number with its uncertainty over sequences.

  Attributes:
    value: The estimate; NaN where its denominator is 0.
    standard_error: Sequences are the independent units, however long; NaN with
      fewer than two of them.
    low, high: Bounds of the 95 % interval, by Student's t.
  """

  value: float
  standard_error: float
  low: float
  high: float

  def to_dict(self) -> dict[str, float | None]:
    """Returns a dict for JSON: what is not finite is None."""
    return {
      name: number if np.isfinite(number) else None
      for name, number in dataclasses.asdict(self).items()
    }


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Fidelity:
  """Next-token losses in nats, clean and with the site replaced.

  Losses are means over all tokens that count, so that long sequences weigh
  more. How much is "recovered" depends above all on the ablation, which the
  name states; where ablation costs little, the share says little.

  Attributes:
    num_tokens: How many losses count.
    num_sequences: In how many rows.
    clean_loss: H, nothing replaced.
    spliced_loss: H*, x replaced by its reconstruction.
    zero_ablation_loss: H0, x replaced by 0.
    mean_ablation_loss: The same with the mean; None if none was given.
    delta_loss: H* - H, by pairs of losses; how much worse, in nats.
    loss_recovered_zero: (H0 - H*) / (H0 - H): 1 if nothing is lost, 0 if as
      much as by the ablation.
    loss_recovered_mean: The same with mean ablation; None if none was given.
    tokens: int64 [R], how many losses count in each row of the batches.
    losses: Name -> float64 [R], sums of losses per row: 'clean', 'spliced',
      'zero' and 'mean', for paired comparisons of SAEs.
  """

  num_tokens: int
  num_sequences: int
  clean_loss: RatioEstimate
  spliced_loss: RatioEstimate
  zero_ablation_loss: RatioEstimate
  mean_ablation_loss: RatioEstimate | None
  delta_loss: RatioEstimate
  loss_recovered_zero: RatioEstimate
  loss_recovered_mean: RatioEstimate | None
  tokens: np.ndarray
  losses: dict[str, np.ndarray]

  def to_dict(self) -> dict:
    """Returns a dict for JSON without arrays: what is not finite is None."""
    fields = {
      field.name: getattr(self, field.name)
      for field in dataclasses.fields(self)
      if field.name not in ('tokens', 'losses')
    }
    return {
      name: field.to_dict() if isinstance(field, RatioEstimate) else field
      for name, field in fields.items()
    } | {'confidence': CONFIDENCE, 'clusters': 'sequences'}


def measure_fidelity(
  run: Run,
  batches: Iterable,
  sae: JumpReLUSAE,
  *,
  mean: jax.Array | np.ndarray | None = None,
) -> Fidelity:
  """Runs a model clean, with the SAE's reconstruction, and ablated.

  Args:
    run: The model; see the top of this file. Given a batch and what replaces
      x, None for nothing, it returns losses [B, T] and a mask, bool [B, T], of
      those that count: not where the target is padding, nor whatever the
      caller leaves out. One row is one sequence. The mask must not depend on
      the replacement.
    batches: Anything that `run` takes; read once, run three or four times.
    sae: Reads the site that `run` replaces.
    mean: [D], for mean ablation, such as `Metrics.mean`. None leaves it out.

  Raises:
    ValueError: there is no batch or no loss that counts, a loss that counts is
      not finite, or shapes do not fit. Batches are numbered from 0.
  """
  replacements = {
    'clean': None,
    'spliced': Reconstruct(sae.weights()),
    'zero': Ablate(jnp.zeros(sae.d_in, jnp.float32)),
  }
  if mean is not None:
    if mean.shape != (sae.d_in,):
      raise ValueError(
        f'The mean has shape {mean.shape}, expected ({sae.d_in},), the width '
        f'that {sae.origin} reads.'
      )
    replacements['mean'] = Ablate(jnp.asarray(mean, jnp.float32))
  return compare_losses(*sequence_losses(run, batches, replacements))


def compare_losses(
  tokens: np.ndarray, losses: Mapping[str, np.ndarray]
) -> Fidelity:
  """Fidelity from sums of losses per sequence, as `sequence_losses` gives them.

  Args:
    tokens: int [R], how many losses count in each row.
    losses: Name -> float64 [R]: 'clean', 'spliced', 'zero' and, or not, 'mean'.
  """
  counts = tokens > 0
  used = {name: sums[counts] for name, sums in losses.items()}

  def loss(name):
    return ratio_estimate(used[name], tokens[counts])

  def recovered(name):
    return ratio_estimate(
      used[name] - used['spliced'], used[name] - used['clean']
    )

  has_mean = 'mean' in losses
  return Fidelity(
    num_tokens=int(tokens.sum()),
    num_sequences=int(counts.sum()),
    clean_loss=loss('clean'),
    spliced_loss=loss('spliced'),
    zero_ablation_loss=loss('zero'),
    mean_ablation_loss=loss('mean') if has_mean else None,
    delta_loss=ratio_estimate(used['spliced'] - used['clean'], tokens[counts]),
    loss_recovered_zero=recovered('zero'),
    loss_recovered_mean=recovered('mean') if has_mean else None,
    tokens=tokens,
    losses=dict(losses),
  )


def sequence_losses(
  run: Run, batches: Iterable, replacements: Mapping[str, Replacement]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
  """Sums of losses per sequence, for any set of replacements.

  Several SAEs of one site are compared best in one call, which runs the model
  clean and ablated once for all of them.

  Args:
    run, batches: As `measure_fidelity` takes them.
    replacements: Name -> what replaces x; None for nothing.

  Returns:
    How many losses count, int64 [R], and name -> their sums, float64 [R]; R
    rows of all batches in order, those without a loss that counts included.

  Raises:
    ValueError: see `measure_fidelity`.
  """
  if not replacements:
    raise ValueError('There is no replacement; name at least one.')
  tokens, sums = [], {name: [] for name in replacements}
  for number, batch in enumerate(batches):
    # All are dispatched before the first is waited for.
    outputs = {
      name: run(batch, replace) for name, replace in replacements.items()
    }
    mask = None
    for name, output in jax.device_get(outputs).items():
      where = f"batch {number} (from 0), replacement '{name}'"
      mask, row_sums = _sum_rows(*output, mask, where)
      sums[name].append(row_sums)
    tokens.append(mask.sum(axis=1, dtype=np.int64))
  if not tokens:
    raise ValueError(
      'There is nothing to measure: no batch was given. An iterator that has '
      'been used up gives none; pass a fresh one.'
    )
  if not any(counts.any() for counts in tokens):
    raise ValueError(
      f'There is nothing to measure: no loss counts in {len(tokens)} batches.'
    )
  return np.concatenate(tokens), {
    name: np.concatenate(parts) for name, parts in sums.items()
  }


def ratio_estimate(
  numerator: np.ndarray, denominator: np.ndarray
) -> RatioEstimate:
  """Sum over sum, with sequences as the independent units.

  The standard error is that of a ratio of sums over clusters, by linearisation
  (Cochran, Sampling Techniques, 3rd ed., chapter 6; of a large population).
  For a mean over tokens it is the cluster-robust one, with factor C / (C - 1).

  Args:
    numerator: float64 [C], sums per sequence.
    denominator: [C], such as numbers of tokens.
  """
  C = len(numerator)
  below = float(np.sum(denominator, dtype=np.float64))
  if not below:
    return RatioEstimate(**dict.fromkeys(_ESTIMATE, float('nan')))
  ratio = float(np.sum(numerator, dtype=np.float64)) / below
  if C < 2:
    return RatioEstimate(
      **dict.fromkeys(_ESTIMATE, float('nan')) | {'value': ratio}
    )
  residuals = numerator - ratio * denominator
  error = float(np.sqrt(C / (C - 1) * (residuals @ residuals))) / abs(below)
  margin = error * float(special.stdtrit(C - 1, (1 + CONFIDENCE) / 2))
  return RatioEstimate(
    value=ratio,
    standard_error=error,
    low=ratio - margin,
    high=ratio + margin,
  )


_ESTIMATE = tuple(field.name for field in dataclasses.fields(RatioEstimate))


def _sum_rows(losses, mask, expected, where):
  """Returns the mask, and sums float64 [B] of losses [B, T] in it."""
  losses, mask = np.asarray(losses), np.asarray(mask)
  if losses.ndim != 2 or mask.shape != losses.shape or mask.dtype != bool:
    raise ValueError(
      f'{where}: `run` returned losses {losses.shape} and a mask {mask.dtype} '
      f'{mask.shape}; expected losses [B, T] and a bool mask [B, T].'
    )
  if expected is not None and not np.array_equal(mask, expected):
    raise ValueError(
      f'{where}: `run` counts other losses than with the first replacement. '
      'The mask must come from the batch alone.'
    )
  losses = np.where(mask, losses.astype(np.float64), 0)
  if not np.isfinite(losses).all():
    row, column = np.argwhere(~np.isfinite(losses))[0]
    raise ValueError(
      f'{where}: the loss at row {row}, token {column} is '
      f'{losses[row, column]}. Mask it out, or look for where it arises.'
    )
  return mask, losses.sum(axis=1)
