"""Looks at the metrics of a training run while it goes on.

Reading a number from a device waits for it. So a call's metrics are read once
the next call is under way, and before a checkpoint is written.
"""

import math
import pathlib

import jax
import numpy as np

from sae.logs import Log
from sae.update import State, StepMetrics

# A run whose FVU is so many times its first one, and above 1 (worse than a
# constant), has left any useful path.
_DIVERGED = 10.0


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

  def __init__(self, log: Log, names: list[list[str]], checkpoint=None):
    """Names are those of the runs, [S][R]."""
    self._log, self._names = log, names
    self._pending = None
    self._first_fvu = None
    self.last = None
    self.checkpoint = checkpoint

  def push(self, step: int, metrics: StepMetrics, state: State):
    """Takes metrics [n, S, R] of updates from `step` on; looks at those before.

    `state` is that after these updates.
    """
    pending = step, metrics, _thresholds(state.params.log_threshold)
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
    metrics = jax.tree.map(np.asarray, metrics)
    self._check(step, metrics)
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
    self._first_fvu = (
      metrics.fvu[0] if self._first_fvu is None else self._first_fvu
    )
    limit = np.maximum(_DIVERGED * self._first_fvu, 1)
    with np.errstate(invalid='ignore'):
      bad = ~np.isfinite(metrics.loss) | (metrics.fvu > limit)
    if not bad.any():
      return
    at, source, run = np.argwhere(bad)[0]
    loss, fvu = metrics.loss[at, source, run], metrics.fvu[at, source, run]
    cause = f'the loss of run {self._names[source][run]} is {loss:.3g}'
    if math.isfinite(loss):
      cause = (
        f'run {self._names[source][run]} diverged: FVU {fvu:.3g}, at first '
        f'{self._first_fvu[source, run]:.3g}'
      )
    cause += '. Lower learning_rate or threshold_learning_rate'
    raise TrainingDiverged(first + int(at), cause, self.checkpoint)


@jax.jit
def _thresholds(log_threshold):
  """Quantiles over latents, name -> [S, R], of activations at scale 1."""
  theta = jax.numpy.exp(log_threshold)
  quantiles = {'10': 0.1, '50': 0.5, '90': 0.9}
  return {
    f'threshold_{name}': jax.numpy.quantile(theta, q, axis=-1)
    for name, q in quantiles.items()
  }
