"""Timings that can be compared: taking turns, medians, a rate to beat."""

from collections.abc import Callable
import time

import jax
import numpy as np

# Seconds that compiling takes at most, on two cores.
_LONG = 60


class CompileLog:
  """Counts programs that XLA compiles, and the seconds it takes."""

  def __init__(self):
    self.programs, self.seconds = 0, 0.0
    jax.monitoring.register_event_duration_secs_listener(self._listen)

  def _listen(self, event: str, seconds: float, **kwargs):
    if event.endswith('backend_compile_duration'):
      self.programs += 1
      self.seconds += seconds


def matmul_rate(dtype) -> float:
  """Operations per second of a large matrix product: the best of several."""
  n = 2048 if jax.default_backend() == 'cpu' else 8192
  a = jax.random.normal(jax.random.key(0), (n, n), dtype)
  product = jax.jit(lambda a: a @ a.T)
  jax.block_until_ready(product(a))
  times = []
  for _ in range(20):
    start = time.perf_counter()
    jax.block_until_ready(product(a))
    times.append(time.perf_counter() - start)
  return 2 * n**3 / min(times)


def alternate(candidates: dict[str, Callable], repeats: int, bar) -> dict:
  """Median seconds of each candidate; they take turns, after warm-ups.

  Each is run twice before, or once if that took longer than a compilation.
  """
  for function in candidates.values():
    start = time.perf_counter()
    function()
    if time.perf_counter() - start < _LONG:
      function()
  times = {name: [] for name in candidates}
  for _ in range(repeats):
    for name, function in candidates.items():
      start = time.perf_counter()
      function()
      times[name].append(time.perf_counter() - start)
      bar.update()
  return {name: float(np.median(t)) for name, t in times.items()}
