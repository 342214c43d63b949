r"""Times training and encoding of JumpReLU SAEs against other trainers.

In one run and on one machine, the candidates taking turns:

  update   one update of the weights: ours, sae-lens's trainer, and the recipe
           of dictionary_learning in PyTorch
  encode   latents of a batch: ours and sae-lens
  sweep    8 coefficients trained at once, against 8 runs one after another:
           updates alone, and whole runs on activations from the middle of a
           small random Gemma 2, which the sweep runs once
  sparse   whether gradients from the active latents alone would win

Every figure is a median over --repeats. A speed is a ratio of the peer's time
to ours (over 1: we are faster), and a share of the best rate at which this
machine multiplies matrices, counted at the dense floor of 10 B D F operations
per update. PyTorch and sae-lens are timed if they are installed
(`pip install -e '.[peers]'`); what is left out is said.

  python -m tools.benchmark_sae
  python -m tools.benchmark_sae --sizes=2304x16384x4096 --peers=false \
    --compute_dtype=bfloat16 --peak_tflops=989
"""

import dataclasses
import functools
import importlib.util
import json
import os
import platform
import re
import time
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from experiments.runs import (
  Count,
  Few,
  KeepFlags,
  Positive,
  check_numbers,
  start,
)
import gemma_jax as gj
from sae.jumprelu import Weights, encode
from sae.training import update as up
from sae.training.recipe import TrainConfig
from sae.training.train import train
from tools.sparse_gradients import dense_gradients, sparse_gradients
from tools.timing import CompileLog, alternate, matmul_rate

PARTS = ('update', 'encode', 'sweep', 'sparse')
# What makes the activations of whole sweeps, but for D.
GEMMA = dict(
  num_layers=8,
  num_heads=4,
  num_kv_heads=2,
  head_dim=64,
  vocab_size=2048,
  query_pre_attn_scalar=64,
  local_layers=(True, False) * 4,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
  """Holds what is timed.

  Attributes:
    sizes: D x F x B of each case, the width of activations, the number of
      latents and the batch size.
    parts: Parts to run.
    repeats: Number of timed runs of each candidate.
    steps: Number of updates per timed run, in one call of the program.
    sweep: Number of coefficients of the sweep.
    compute_dtype: Data type of the factors of our matrix products.
    peers: Time the other trainers too.
    peak_tflops: The chip's published dense rate in TFLOP/s, for MFU.
    json: File to write every figure to.
  """

  sizes: tuple[str, ...] = ('256x4096x4096', '2304x16384x1024')
  parts: tuple[Literal[*PARTS], ...] = PARTS
  repeats: Few = 5
  steps: Count = 12
  sweep: Few = 8
  compute_dtype: Literal['float32', 'bfloat16'] = 'float32'
  peers: bool = True
  peak_tflops: Positive | None = None
  json: str | None = None

  def __post_init__(self):
    check_numbers(self)
    for text in self.sizes:
      if not re.fullmatch(r'\d{1,7}x\d{1,7}x\d{1,7}', text):
        raise ValueError(f'--sizes has {text!r}; expected DxFxB.')


def activations(D: int, n: int) -> np.ndarray:
  """Returns float32 [n, D], of mean squared norm 1 and falling spectrum."""
  rng = np.random.default_rng(0)
  x = rng.standard_normal((n, D), np.float32) * np.linspace(1, 3, D)
  return (x / np.sqrt((x**2).sum(1).mean())).astype(np.float32)


def _peer(package: str, settings: Settings) -> bool:
  """Returns True if another trainer is to be timed."""
  if not settings.peers:
    return False
  found = importlib.util.find_spec(package) is not None
  if not found:
    print(f'{package} is not installed, and not timed.')
  return found


class Updates:
  """Our updates, as a call that makes `steps` of them."""

  def __init__(self, D, F, B, x, runs: int, settings: Settings):
    self.config = TrainConfig(
      width=F,
      num_steps=10**6,
      sparsity=tuple(np.geomspace(1e-4, 1e-2, runs)),
      batch_size=B,
      bucket_size=len(x) // B * B,
      compute_dtype=settings.compute_dtype,
    )
    self._x, self._steps = jnp.asarray(x)[None], settings.steps
    self._order = jnp.arange(len(x), dtype=jnp.int32)
    self.state = up.init_state(self.config, np.ones(1, np.float32), D)

  def __call__(self):
    self.state, metrics = up.run_updates(
      self.state,
      self._x,
      self._order,
      0,
      config=self.config,
      num_steps=self._steps,
    )
    jax.block_until_ready(metrics)


def time_updates(size, record, settings):
  """Times an update of each trainer."""
  D, F, B = size
  steps = settings.steps
  x = activations(D, B * steps)
  candidates = {'ours': Updates(D, F, B, x, 1, settings)}
  batches = [x[i * B : (i + 1) * B] for i in range(steps)]
  peers = {}
  if _peer('torch', settings):
    from tools import sae_peers

    peers['dictionary_learning'] = sae_peers.DictionaryLearning(D, F)
  if _peer('sae_lens', settings):
    peers['sae-lens'] = sae_peers.SAELens(D, F, B)
    peers['sae-lens'].set_scale(x)
  for name, peer in peers.items():
    candidates[name] = functools.partial(
      lambda peer: [peer.step(batch) for batch in batches], peer
    )
  times = _timed(candidates, f'update {size}', settings)
  record(
    'update', size, {k: t / steps for k, t in times.items()}, 10 * D * F * B
  )


def time_encode(size, record, settings):
  """Times encoding a batch."""
  D, F, B = size
  x = activations(D, B)
  rng = np.random.default_rng(1)
  W_enc = rng.standard_normal((D, F), np.float32) * D**-0.5
  weights = Weights(
    jnp.asarray(W_enc),
    jnp.asarray(W_enc.T),
    jnp.zeros(F),
    jnp.zeros(D),
    jnp.full(F, 0.05),
  )
  ours = jax.jit(encode)
  on_device = jnp.asarray(x)
  candidates = {'ours': lambda: jax.block_until_ready(ours(weights, on_device))}
  if _peer('sae_lens', settings):
    from tools import sae_peers

    peer = sae_peers.SAELens(D, F, B)
    candidates['sae-lens'] = lambda: peer.encode(x)
  record(
    'encode',
    size,
    _timed(candidates, f'encode {size}', settings),
    2 * D * F * B,
  )


def time_sweep(size, record, settings):
  """Times an update of a sweep, against as many single runs."""
  D, F, B = size
  steps, runs = settings.steps, settings.sweep
  x = activations(D, B * steps)
  single = Updates(D, F, B, x, 1, settings)
  candidates = {
    f'{runs} runs': lambda: [single() for _ in range(runs)],
    'sweep': Updates(D, F, B, x, runs, settings),
  }
  times = _timed(candidates, f'sweep {size}', settings)
  per_update = {k: t / steps for k, t in times.items()}
  record('sweep, updates', size, per_update, 10 * D * F * B * runs)

  model_config = gj.FAMILIES['gemma2'].config(**GEMMA, d_model=D, d_ff=4 * D)
  model = gj.init_model(model_config, jax.random.key(0))
  layer = model_config.num_layers // 2
  look = gj.capture('resid_post', layers=layer)
  tokens = np.random.default_rng(0).integers(3, 2000, (steps, B // 64, 64))

  def stream():
    for rows in tokens:
      out = gj.run(model, rows, capture=look)
      yield out['resid_post'][0].reshape(-1, D)

  config = functools.partial(
    TrainConfig, width=F, num_steps=steps, batch_size=B, bucket_size=steps * B
  )
  values = tuple(np.geomspace(1e-4, 1e-2, runs))
  run = functools.partial(train, log_every=steps, progress=False)
  candidates = {
    f'{runs} runs': lambda: [run(config(sparsity=v), stream()) for v in values],
    'sweep': lambda: run(config(sparsity=values), stream()),
  }
  record(
    'sweep, whole', size, _timed(candidates, f'train {size}', settings), None
  )


def time_sparse(size, record, settings):
  """Times gradients of an update that read active latents alone.

  `dense` multiplies whole matrices, by `sae.update`. The others encode
  densely, choose at most `capacity` active latents per token by `top_k`, and
  decode, backpropagate and add up weight gradients for these alone: with room
  for the most that any token of this batch has, the least that loses nothing,
  and with room for four times the mean, which leaves room for other batches.
  """
  D, F, B = size
  x = jnp.asarray(activations(D, B))
  rng = np.random.default_rng(2)
  W = rng.standard_normal((F, D), np.float32)
  W /= np.linalg.norm(W, axis=1, keepdims=True)
  W_enc, W_dec = jnp.asarray(W.T), jnp.asarray(W)
  z = x @ W_enc
  for l0 in (16, 64):
    threshold = jnp.sort(z, axis=1)[:, -l0].mean()
    most = int((z > threshold).sum(1).max())
    ways = {'dense': dense_gradients}
    for capacity in (most, min(4 * l0, F)):
      ways[f'room for {capacity}'] = functools.partial(
        sparse_gradients, capacity=capacity
      )
    calls = {
      name: functools.partial(jax.jit(way), x, W_enc, W_dec, threshold)
      for name, way in ways.items()
    }
    first, *others = [call() for call in calls.values()]
    for gradients in others:
      for got, want in zip(gradients, first, strict=True):
        np.testing.assert_allclose(got, want, atol=1e-5 * jnp.abs(want).max())
    del first, others, gradients, got, want
    candidates = {
      name: functools.partial(lambda call: jax.block_until_ready(call()), call)
      for name, call in calls.items()
    }
    times = _timed(candidates, f'sparse {size} L0 {l0}', settings)
    record(f'gradients at L0 {l0}', size, times, 10 * D * F * B)


def _timed(candidates, what, settings):
  total = len(candidates) * settings.repeats
  with tqdm(desc=what, total=total, leave=False) as bar:
    return alternate(candidates, settings.repeats, bar)


def work(settings: Settings, keep_flags: KeepFlags) -> int:
  """Times and prints every part; returns the exit code."""
  del keep_flags
  sizes = [tuple(map(int, text.split('x'))) for text in settings.sizes]
  compiled = CompileLog()
  rate = matmul_rate(jnp.dtype(settings.compute_dtype))
  about = {
    'date': time.strftime('%Y-%m-%d'),
    'device': jax.devices()[0].device_kind,
    'cpu': platform.processor() or platform.machine(),
    'threads': os.cpu_count(),
    'jax': jax.__version__,
    'compute_dtype': settings.compute_dtype,
    'matmul_tflops': rate / 1e12,
    'repeats': settings.repeats,
  }
  print('\n'.join(f'{name}: {value}' for name, value in about.items()))
  records = []

  def record(part, size, times, operations):
    records.append({'part': part, 'size': size, 'seconds': times})
    print(f'{part}, D={size[0]} F={size[1]} B={size[2]}')
    reference = 'sweep' if 'sweep' in times else 'ours'
    reference = reference if reference in times else 'dense'
    for name, seconds in times.items():
      line = f'  {name:20} {seconds * 1e3:9.1f} ms'
      if operations:
        achieved = operations / seconds
        line += f'  {achieved / rate:6.1%} of matmul'
        if settings.peak_tflops:
          line += f'  {achieved / (settings.peak_tflops * 1e12):6.1%} MFU'
      if part in ('update', 'encode'):
        line += f'  {size[2] / seconds:12,.0f} tokens/s'
      if name != reference:
        line += f'  {seconds / times[reference]:.2f}x the time of {reference}'
      print(line, flush=True)

  functions = (time_updates, time_encode, time_sweep, time_sparse)
  for size in sizes:
    for part, function in zip(PARTS, functions, strict=True):
      if part in settings.parts:
        function(size, record, settings)
  print(f'{compiled.programs} programs compiled in {compiled.seconds:.0f} s')
  if settings.json:
    with open(settings.json, 'w', encoding='utf-8') as file:
      json.dump({'about': about, 'records': records}, file, indent=2)
  return 0


if __name__ == '__main__':
  start(Settings, work)
