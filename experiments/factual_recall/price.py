"""What undoing the last layer's restraint costs on plain text.

If the last layer holds back for a reason, predictions of text get worse
without it, and wrong ones surer. The changes of `mitigation.py` are made at
every token: the last block is run on each token alone, the intercept is
subtracted at each; and so is, as a control, a random direction of its norm.

Letters: R rows of T tokens, m = R (T - 1) predictions.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from experiments.factual_recall.mitigation import (
  NONE,
  random_directions,
  run_alone,
)
from experiments.factual_recall.trace import by_logits, in_batches
from experiments.stats.detection import reliability
from experiments.stats.intervals import Estimate, cluster_bootstrap_ratio
from experiments.stats.resampling import bounds, draw
import gemma_jax as gj

ARMS = (NONE, 'mask', 'intercept', 'both', 'random')
# Bins of equally many predictions, for calibration.
BINS = 15
# Logits of so many bytes are held at a time, and up to twice as much beside.
_LOGITS_BYTES = 1 << 26


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class TextReads:
  """Plain text and what is said of it without an intercept, made once a model.

  Attributes:
    rows: int32 [R, T].
    streams: 'none' and 'mask' -> last streams, float32 [R, T, D].
    found: 'none' and 'mask' -> their `predictions`.
  """

  rows: np.ndarray
  streams: dict[str, np.ndarray]
  found: dict[str, tuple[np.ndarray, ...]]


def read_text(
  model: gj.Decoder, rows: np.ndarray, *, rows_per_batch: int = 8
) -> TextReads:
  """Runs plain text, and its last block on each token alone.

  Args:
    model: Stacked.
    rows: int32 [R, T], from `text_rows`.
    rows_per_batch: Rows run at once; bounds memory.

  Raises:
    ValueError: rows have fewer than two tokens.
  """
  rows = np.asarray(rows, np.int32)
  if rows.ndim != 2 or not len(rows) or rows.shape[1] < 2:
    raise ValueError(
      f'Rows have shape {rows.shape}, expected [R, T] with T of at least 2.'
    )
  plain, masked = in_batches(
    lambda some: _streams(model, rows[some]), len(rows), rows_per_batch
  )
  streams = {NONE: plain, 'mask': masked}
  return TextReads(
    rows=rows,
    streams=streams,
    found={arm: predictions(model, x, rows) for arm, x in streams.items()},
  )


def price(
  model: gj.Decoder,
  text: TextReads,
  intercept: np.ndarray | None,
  *,
  seed: int = 0,
) -> dict:
  """Measures perplexity and calibration of next tokens under each arm.

  Args:
    model: Unembeds.
    text: From `read_text`, R rows of T tokens.
    intercept: float [D], of the last MLP; None leaves 'intercept', 'both' and
      'random' out.
    seed: Random seed of the direction, and of the resamples of rows, which all
      arms share.

  Returns:
    'rows', 'context' and 'arms': for each of ARMS 'perplexity' and 'loss'
    (nats), with percentile intervals over rows; 'loss_change' and
    'perplexity_ratio', row by row against no change; 'top1', the share of
    predictions whose likeliest token comes; 'confidence', the mean probability
    of the likeliest token, over 'all', 'right' and 'wrong' predictions;
    'calibration', of being right, with 'ece', 'ece_calibrated', 'brier' and
    'bins' (see `stats.detection.Reliability`). Over wrong predictions alone the
    ECE is the mean confidence, which is why that is given.
  """
  rows, found = text.rows, dict(text.found)
  if intercept is not None:
    (random,) = random_directions(1, len(intercept), seed)
    for arm, of, vector in (
      ('intercept', NONE, intercept),
      ('both', 'mask', intercept),
      ('random', NONE, np.linalg.norm(intercept) * random),
    ):
      x = text.streams[of] - np.asarray(vector, np.float32)
      found[arm] = predictions(model, x, rows)
  units = np.repeat(np.arange(len(rows)), rows.shape[1] - 1)
  costs = _costs({arm: parts[0] for arm, parts in found.items()}, seed)
  return {
    'rows': len(rows),
    'context': rows.shape[1],
    'arms': {
      arm: costs[arm] | _calibration(confidence, right, units, seed)
      for arm, (_, confidence, right) in found.items()
    },
  }


def predictions(
  model: gj.Decoder, streams: np.ndarray, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Reads each token's prediction of the next one in its row, [R, T - 1] each.

  Args:
    model: Unembeds.
    streams: float32 [R, T, D], last streams.
    rows: int32 [R, T], the tokens.

  Returns:
    The loss, float32, in nats; the probability of the likeliest token, float32;
    whether that is the next one, bool.
  """
  R, T, D = streams.shape
  x = streams[:, :-1].reshape(-1, D)
  targets = rows[:, 1:].reshape(-1)
  joined = by_logits(_predict, model, x, targets, held=_LOGITS_BYTES)
  return tuple(part.reshape(R, T - 1) for part in joined)


def _streams(model, rows) -> tuple[np.ndarray, np.ndarray]:
  """Last streams, plain and masked, [R, T, D]."""
  L, (R, T) = model.config.num_layers, rows.shape
  out = gj.run(
    model,
    rows,
    capture=gj.capture('resid_pre', 'resid_post', layers=[L - 1]),
  )
  plain, entering = out['resid_post'][0], out['resid_pre'][0]
  at = np.tile(np.arange(T), R)
  masked = run_alone(model, entering.reshape(R * T, -1), at)
  return plain, masked.reshape(plain.shape)


@jax.jit
def _predict(model, streams, targets):
  logits = gj.unembed(model, streams.astype(model.dtype))
  total = jax.nn.logsumexp(logits, axis=1)
  take = functools.partial(jnp.take_along_axis, logits, axis=1)
  top = logits.argmax(1)
  return (
    total - take(targets[:, None])[:, 0],
    jnp.minimum(jnp.exp(logits.max(1) - total), 1.0),
    top == targets,
  )


def _costs(losses: dict[str, np.ndarray], seed: int) -> dict[str, dict]:
  """Arm -> means of its losses [R, T - 1] and of their changes."""
  R, n = len(losses[NONE]), losses[NONE].size
  by_row = {arm: x.mean(1, dtype=np.float64) for arm, x in losses.items()}
  counts = draw(R, np.random.default_rng(seed)) / R

  def both(values, through=lambda x: x):
    low = high = np.nan
    if R > 1:
      low, high = bounds(through(counts @ values))
    value = float(through(values.mean()))
    found = Estimate(value=value, low=float(low), high=float(high), n=n)
    return found.to_dict()

  return {
    arm: {
      'loss': both(values),
      'perplexity': both(values, np.exp),
      'loss_change': both(values - by_row[NONE]),
      'perplexity_ratio': both(values - by_row[NONE], np.exp),
    }
    for arm, values in by_row.items()
  }


def _calibration(confidence, right, units, seed) -> dict:
  """Returns how sure predictions [R, T - 1] are, and how often right."""
  confidence = confidence.reshape(-1).astype(np.float64)
  right = right.reshape(-1)

  def share(part, whole):
    return cluster_bootstrap_ratio(part, whole, units, seed).to_dict()

  def mean_over(chosen):
    # n counts predictions; rows without one have nothing to resample.
    mine = confidence[chosen], np.ones(int(chosen.sum()))
    return cluster_bootstrap_ratio(*mine, units[chosen], seed).to_dict()

  return {
    'top1': share(right, np.ones(len(right))),
    'confidence': {
      'all': mean_over(np.ones(len(right), bool)),
      'right': mean_over(right),
      'wrong': mean_over(~right),
    },
    'calibration': reliability(right, confidence, BINS).to_dict(),
  }
