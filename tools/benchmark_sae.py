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

import functools
import importlib.util
import json
import os
import platform
import re
import time

from absl import app, flags
import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from experiments.runs import FEW, POSITIVE, define_number, whole
import gemma_jax as gj
from sae.jumprelu import Weights, encode
from sae.training import update as up
from sae.training.recipe import TrainConfig
from sae.training.train import train
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

_SIZES = flags.DEFINE_list(
  'sizes', ['256x4096x4096', '2304x16384x1024'], 'D x F x B of each case.'
)
_PARTS = flags.DEFINE_list('parts', list(PARTS), f'Which of {PARTS}.')
_REPEATS = define_number('repeats', 5, 'Timed runs of each candidate.', FEW)
_STEPS = define_number(
  'steps', 12, 'Updates per timed run, in one program call.', whole()
)
_SWEEP = define_number('sweep', 8, 'Coefficients of the sweep.', FEW)
_COMPUTE = flags.DEFINE_enum(
  'compute_dtype',
  'float32',
  ['float32', 'bfloat16'],
  'Factors of our products.',
)
_PEERS = flags.DEFINE_boolean('peers', True, 'Time the other trainers too.')
_PEAK = define_number(
  'peak_tflops', None, "The chip's published dense rate, for MFU.", POSITIVE
)
_JSON = flags.DEFINE_string('json', None, 'Where to write every figure.')


def parse_size(text: str) -> tuple[int, int, int]:
  """(D, F, B) of '256x4096x4096'."""
  if not re.fullmatch(r'\d{1,7}x\d{1,7}x\d{1,7}', text):
    raise app.UsageError(f'--sizes has {text!r}; expected DxFxB.')
  return tuple(map(int, text.split('x')))


def activations(D: int, n: int) -> np.ndarray:
  """float32 [n, D] with mean squared norm 1, and a spectrum that falls."""
  rng = np.random.default_rng(0)
  x = rng.standard_normal((n, D), np.float32) * np.linspace(1, 3, D)
  return (x / np.sqrt((x**2).sum(1).mean())).astype(np.float32)


def _peer(package: str) -> bool:
  """Whether to time it."""
  if not _PEERS.value:
    return False
  found = importlib.util.find_spec(package) is not None
  if not found:
    print(f'{package} is not installed, and not timed.')
  return found


class Updates:
  """Our updates, as a call that makes `steps` of them."""

  def __init__(self, D, F, B, x, steps, runs: int):
    self.config = TrainConfig(
      width=F,
      num_steps=10**6,
      sparsity=tuple(np.geomspace(1e-4, 1e-2, runs)),
      batch_size=B,
      bucket_size=len(x) // B * B,
      compute_dtype=_COMPUTE.value,
    )
    self._x, self._steps = jnp.asarray(x)[None], steps
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


def time_updates(size, record):
  """Seconds per update of each trainer."""
  D, F, B = size
  steps = _STEPS.value
  x = activations(D, B * steps)
  candidates = {'ours': Updates(D, F, B, x, steps, 1)}
  batches = [x[i * B : (i + 1) * B] for i in range(steps)]
  peers = {}
  if _peer('torch'):
    from tools import sae_peers

    peers['dictionary_learning'] = sae_peers.DictionaryLearning(D, F)
  if _peer('sae_lens'):
    peers['sae-lens'] = sae_peers.SAELens(D, F, B)
    peers['sae-lens'].set_scale(x)
  for name, peer in peers.items():
    candidates[name] = functools.partial(
      lambda peer: [peer.step(batch) for batch in batches], peer
    )
  times = _timed(candidates, f'update {size}')
  record(
    'update', size, {k: t / steps for k, t in times.items()}, 10 * D * F * B
  )


def time_encode(size, record):
  """Seconds to encode a batch."""
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
  if _peer('sae_lens'):
    from tools import sae_peers

    peer = sae_peers.SAELens(D, F, B)
    candidates['sae-lens'] = lambda: peer.encode(x)
  record('encode', size, _timed(candidates, f'encode {size}'), 2 * D * F * B)


def time_sweep(size, record):
  """Seconds per update of a sweep, against as many single runs."""
  D, F, B = size
  steps, runs = _STEPS.value, _SWEEP.value
  x = activations(D, B * steps)
  single = Updates(D, F, B, x, steps, 1)
  candidates = {
    f'{runs} runs': lambda: [single() for _ in range(runs)],
    'sweep': Updates(D, F, B, x, steps, runs),
  }
  times = _timed(candidates, f'sweep {size}')
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
  record('sweep, whole', size, _timed(candidates, f'train {size}'), None)


def time_sparse(size, record):
  """Could reading only active latents win? The gradients of an update.

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
    ways = {'dense': _dense_gradients}
    for capacity in (most, min(4 * l0, F)):
      ways[f'room for {capacity}'] = functools.partial(
        _sparse_gradients, capacity=capacity
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
    times = _timed(candidates, f'sparse {size} L0 {l0}')
    record(f'gradients at L0 {l0}', size, times, 10 * D * F * B)


def _dense_gradients(x, W_enc, W_dec, threshold):
  """Of the squared error: (of W_enc [D, F], of W_dec [F, D])."""
  (D, F), dtype = W_enc.shape, 'float32'

  def loss(W_enc, W_dec):
    z = up._encode(dtype, x, W_enc, jnp.zeros(F), jnp.zeros(D))
    f = jnp.where(z > threshold, z, 0)
    y = up._decode(dtype, f, W_dec, jnp.zeros(D))
    return ((y - x) ** 2).sum(-1).mean()

  return jax.grad(loss, argnums=(0, 1))(W_enc, W_dec)


def _sparse_gradients(x, W_enc, W_dec, threshold, *, capacity):
  """The same, if no token has more active latents than `capacity`."""
  z, ids = jax.lax.top_k(x @ W_enc, capacity)
  active = z > threshold
  f = jnp.where(active, z, 0)

  B, D = x.shape

  def token(given):
    x, f, ids = given
    rows = W_dec[ids]  # [capacity, D]
    error = (f @ rows - x) * (2 / B)
    return error, rows @ error

  error, df = jax.lax.map(token, (x, f, ids), batch_size=16)
  dz = jnp.where(active, df, 0)
  add_up = lambda values, vectors: (
    jnp.zeros_like(W_dec)
    .at[ids.reshape(-1)]
    .add((values[..., None] * vectors[:, None]).reshape(-1, D))
  )
  return add_up(dz, x).T, add_up(f, error)


def _timed(candidates, what):
  total = len(candidates) * _REPEATS.value
  with tqdm(desc=what, total=total, leave=False) as bar:
    return alternate(candidates, _REPEATS.value, bar)


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f'Unexpected arguments {argv[1:]}.')
  unknown = set(_PARTS.value) - set(PARTS)
  if unknown:
    raise app.UsageError(f'--parts has {sorted(unknown)}; known are {PARTS}.')
  sizes = [parse_size(text) for text in _SIZES.value]
  compiled = CompileLog()
  rate = matmul_rate(jnp.dtype(_COMPUTE.value))
  about = {
    'date': time.strftime('%Y-%m-%d'),
    'device': jax.devices()[0].device_kind,
    'cpu': platform.processor() or platform.machine(),
    'threads': os.cpu_count(),
    'jax': jax.__version__,
    'compute_dtype': _COMPUTE.value,
    'matmul_tflops': rate / 1e12,
    'repeats': _REPEATS.value,
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
        if _PEAK.value:
          line += f'  {achieved / (_PEAK.value * 1e12):6.1%} MFU'
      if part in ('update', 'encode'):
        line += f'  {size[2] / seconds:12,.0f} tokens/s'
      if name != reference:
        line += f'  {seconds / times[reference]:.2f}x the time of {reference}'
      print(line, flush=True)

  functions = (time_updates, time_encode, time_sweep, time_sparse)
  for size in sizes:
    for part, function in zip(PARTS, functions, strict=True):
      if part in _PARTS.value:
        function(size, record)
  print(f'{compiled.programs} programs compiled in {compiled.seconds:.0f} s')
  if _JSON.value:
    with open(_JSON.value, 'w', encoding='utf-8') as file:
      json.dump({'about': about, 'records': records}, file, indent=2)


if __name__ == '__main__':
  app.run(main)
