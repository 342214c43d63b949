"""Looks at the metrics of a training run while it goes on.

Reading a number from a device waits for it. So a call's metrics are read once
the next call is under way, and before a checkpoint is written.
"""

import math
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from sae.training.logs import Log
from sae.training.recipe import TrainConfig
from sae.training.update import Params, State, StepMetrics

# A run whose squared error is so many times the mean squared norm of the
# activations has left any useful path: a reconstruction of 0 has 1. (The
# variance, which FVU divides by, may be any small part of that norm.)
_DIVERGED = 10.0
# Updates after the warm-up of the learning rate until that holds. Before, half
# of the latents are active, and reconstructions are F / 2D times too large.
_SETTLED = 100


class TrainingDiverged(RuntimeError):
  """Training was stopped because its numbers are of no use.

  Attributes:
    step: The first update that was wrong, from 0.
    cause: What was wrong.
    checkpoint: The folder of the last good checkpoint, or None.
  """

  def __init__(self, step: int, cause: str, checkpoint: pathlib.Path | None):
    self.step, self.cause, self.checkpoint = step, cause, checkpoint
    where = f'the last good checkpoint is {checkpoint}'
    if checkpoint is None:
      where = 'there is no checkpoint'
    super().__init__(f'Training stopped at update {step}: {cause}; {where}.')


class Monitor:
  """Logs metrics and stops a run that has gone wrong.

  Attributes:
    last: Metrics of the newest interval looked at, [S][R] of name -> value.
    checkpoint: The folder of the last good checkpoint, or None.
  """

  def __init__(
    self,
    config: TrainConfig,
    log: Log,
    names: list[list[str]],
    d_in: int,
    checkpoint: pathlib.Path | None = None,
  ):
    """Names are those of the runs, [S][R]; d_in is D."""
    self._config, self._log, self._names = config, log, names
    self._dense_error = max(1, (config.width / (2 * d_in)) ** 2)
    self._pending = None
    self.last = None
    self.checkpoint = checkpoint

  def push(self, step: int, metrics: StepMetrics, state: State):
    """Takes metrics [n, S, R] of updates from `step` on; looks at those before.

    `state` is that after these updates.
    """
    pending = step, metrics, _look_at(state.params)
    self.flush()
    self._pending = pending

  def flush(self):
    """Looks at what it has been given.

    Raises:
      TrainingDiverged: a run has gone wrong.
    """
    if self._pending is None:
      return
    (step, metrics, thresholds), self._pending = self._pending, None
    metrics, thresholds = jax.device_get((metrics, thresholds))
    finite = thresholds.pop('finite')
    self._check(step, metrics)
    if not finite.all():  # what the last update made, seen by no metric yet
      s, r = np.argwhere(~finite)[0]
      raise TrainingDiverged(
        step + len(metrics.loss) - 1,
        f'weights of run {self._names[s][r]} hold NaN or infinity',
        self.checkpoint,
      )
    self.last = [
      [
        {
          name: float(values[:, source, run].mean())
          for name, values in metrics._asdict().items()
        }
        | {
          name: float(values[source, run])
          for name, values in thresholds.items()
        }
        for run in range(len(names))
      ]
      for source, names in enumerate(self._names)
    ]
    self._log.write(
      step + len(metrics.loss),
      {
        name: values
        for names, row in zip(self._names, self.last, strict=True)
        for name, values in zip(names, row, strict=True)
      },
    )

  def _check(self, first: int, metrics: StepMetrics):
    bad = ~np.isfinite(metrics.norm)
    if bad.any():
      at, source, _ = np.argwhere(bad)[0]
      raise TrainingDiverged(
        first + int(at),
        f'activations of source {source} hold NaN or infinity',
        self.checkpoint,
      )
    steps = first + np.arange(len(metrics.loss))[:, None, None]
    settled = steps >= self._config.warmup_steps + _SETTLED
    limit = _DIVERGED * np.where(settled, 1, self._dense_error)
    # In scaled units, where the norm is 1 in the mean over all batches.
    error = metrics.mse / np.maximum(metrics.norm, 1)
    with np.errstate(invalid='ignore'):
      bad = ~np.isfinite(metrics.loss) | (error > limit)
    if not bad.any():
      return
    at, source, run = np.argwhere(bad)[0]
    loss = metrics.loss[at, source, run]
    cause = f'the loss of run {self._names[source][run]} is {loss:.3g}'
    if math.isfinite(loss):
      cause = (
        f'run {self._names[source][run]} diverged: its squared error is '
        f'{error[at, source, run]:.3g} times the mean squared norm of the '
        'activations'
      )
    cause += '. Lower learning_rate or threshold_learning_rate'
    raise TrainingDiverged(first + int(at), cause, self.checkpoint)


@jax.jit
def _look_at(params: Params):
  """Quantiles of thresholds, and whether all weights are finite, [S, R]."""
  theta = jnp.exp(params.log_threshold)
  seen = {
    f'threshold_{percent}': jnp.quantile(theta, percent / 100, axis=-1)
    for percent in (10, 50, 90)
  }
  finite = [jnp.isfinite(x).all(axis=tuple(range(2, x.ndim))) for x in params]
  return seen | {'finite': jnp.stack(finite).all(0)}
