r"""Shows that training finds what is there, and how it compares with sae-lens.

dictionary   Sparse combinations of 256 known directions in 64 dimensions, of
             Zipf-distributed frequencies: are the directions recovered, at
             the true L0? On several seeds, beside an untrained SAE.
frontier     L0 and FVU on held-out activations of sae-lens's JumpReLU trainer,
             of ours after as many updates on the same batches, and of ours
             after as many seconds (needs `pip install -e '.[peers]'`).

python -m tools.prove_sae_training --part=dictionary
python -m tools.prove_sae_training --part=frontier --json=out/frontier.json
"""

from collections.abc import Callable
import dataclasses
import importlib.util
import json
import time

from absl import app, flags
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from experiments.runs import (
  POSITIVE,
  SEED,
  define_number,
  define_numbers,
  whole,
)
from experiments.runs.outputs import write_text
from sae.metrics.evaluation import evaluate
from sae.training.monitor import TrainingDiverged
from sae.training.recipe import TrainConfig
from sae.training.train import train
from tools.synthetic_dictionary import SyntheticDictionary

_PART = flags.DEFINE_enum(
  'part', 'dictionary', ['dictionary', 'frontier'], 'What to show.'
)
_STEPS = define_number(
  'steps', None, 'Updates. Default: 3000, or 200.', whole()
)
_SEEDS = define_numbers('seeds', [0, 1, 2], 'Of the dictionaries.', SEED)
_SPARSITY = define_numbers(
  'sparsity',
  None,
  'Our coefficients. Default: 0.015, or six for the frontier.',
  POSITIVE,
)
_TIMED_SPARSITY = define_numbers(
  'timed_sparsity',
  [3e-4, 3e-3],
  "Those of our runs that go on for sae-lens's seconds.",
  POSITIVE,
)
_L0_COEFFICIENTS = define_numbers(
  'l0_coefficients', [0.1, 0.3, 1, 3, 10], "sae-lens's coefficients.", POSITIVE
)
_LEARNING_RATE = define_number(
  'learning_rate',
  0.02,
  "Ours, of the dictionary. It bears more than TrainConfig.short's, 0.005.",
  POSITIVE,
)
_PEER_RATE = define_number(
  'peer_learning_rate',
  1e-2,
  "sae-lens's, the best for it of 3e-4, 3e-3, 1e-2 and 2e-2. With its default, "
  '3e-4, thousands of latents are active after so few updates.',
  POSITIVE,
)
_PEERS_FROM = flags.DEFINE_string(
  'peers_from',
  None,
  "The --json of an earlier run on this machine: sae-lens's points, which take "
  'most of the time, are taken from there.',
)
_JSON = flags.DEFINE_string('json', None, 'Where to write every figure.')

# Latents rarer than this are not looked for.
_RARE = 1e-3


def recovery(seed: int, steps: int, sparsity: float) -> dict:
  """Trains on one dictionary and says what was found."""
  data = SyntheticDictionary(64, 256, seed=seed)
  config = TrainConfig.short(
    512,
    steps,
    batch_size=1024,
    learning_rate=_LEARNING_RATE.value,
    sparsity=sparsity,
    seed=seed,
  )
  trained = train(config, lambda first: data.batches(1024, first_row=first))
  held_out = data.batches(4096, first_row=4096 * 10**5)
  metrics = evaluate(
    trained.sae, (jnp.asarray(next(held_out)) for _ in range(16))
  )
  frequent = data.frequencies >= _RARE
  cosines = data.recovered(np.asarray(trained.sae.W_dec[...]))[frequent]
  untrained = np.random.default_rng([seed, 7]).standard_normal((512, 64))
  return {
    'seed': seed,
    'true_latents': int(frequent.sum()),
    'mean_max_cosine': float(cosines.mean()),
    'share_above_0.9': float((cosines > 0.9).mean()),
    'untrained': float(data.recovered(untrained)[frequent].mean()),
    'true_l0': float(data.frequencies.sum()),
    'l0': metrics.l0,
    'fvu': metrics.fvu,
  }


def show_recovery(steps: int, sparsity: list[float]):
  """One line per seed and coefficient."""
  records = []
  for seed in _SEEDS.value:
    for value in sparsity:
      r = recovery(seed, steps, value) | {'sparsity': value}
      records.append(r)
      print(
        f'seed {seed}, sparsity {value:g}: mean max cosine '
        f'{r["mean_max_cosine"]:.4f} over {r["true_latents"]} latents '
        f'({r["share_above_0.9"]:.1%} above 0.9; untrained '
        f'{r["untrained"]:.3f}), L0 {r["l0"]:.2f} (true {r["true_l0"]:.2f}), '
        f'FVU {r["fvu"]:.4f}',
        flush=True,
      )
      _save(records)


@dataclasses.dataclass(frozen=True)
class Point:
  """One SAE on held-out activations."""

  trainer: str
  coefficient: float
  steps: int
  l0: float
  fvu: float
  seconds: float

  def __str__(self):
    return (
      f'{self.trainer:9} {self.coefficient:7g}  {self.steps:5} updates  L0 '
      f'{self.l0:7.2f}  FVU {self.fvu:.4f}  {self.seconds:6.1f} s'
    )


class Race:
  """Trainers on one stream: D=256, F=4096, batches of 4096."""

  D, F, B = 256, 4096, 4096

  def __init__(self):
    # TrainConfig.fast and sae-lens's rate were chosen on seed 0.
    data = SyntheticDictionary(self.D, 1024, mean_l0=20.0, seed=1)
    stream = data.batches(self.B)
    # Drawing takes as long as an update; batches come round again instead.
    self._pool = [
      next(stream) for _ in tqdm(range(64), desc='Drawing activations')
    ]
    self._test = np.concatenate([next(stream) for _ in range(4)])
    self._variance = ((self._test - self._test.mean(0)) ** 2).sum()

  def batch(self, i: int) -> np.ndarray:
    """Batch number i [B, D]."""
    return self._pool[i % len(self._pool)]

  def ours(self, steps: int, sparsity: float) -> Point:
    """Trains by TrainConfig.fast."""
    config = TrainConfig.fast(
      d_in=self.D,
      width=self.F,
      num_steps=steps,
      sparsity=sparsity,
      batch_size=self.B,
      bucket_size=16 * self.B,
    )
    start = time.perf_counter()
    sae = train(config, (self.batch(i) for i in range(steps))).sae
    seconds = time.perf_counter() - start
    measured = self._measure(sae.encode, sae)
    return Point('ours', sparsity, steps, *measured, seconds)

  def sae_lens(self, steps: int, coefficient: float) -> Point:
    """Trains with its trainer, warm-up and decay in proportion to ours."""
    from tools import sae_peers

    peer = sae_peers.SAELens(
      self.D,
      self.F,
      self.B,
      num_steps=steps,
      l0_coefficient=coefficient,
      l0_warm_up_steps=steps // 5,
      lr=_PEER_RATE.value,
      lr_warm_up_steps=steps // 10,
      lr_decay_steps=steps // 5,
    )
    peer.set_scale(self.batch(0))
    start = time.perf_counter()
    for i in tqdm(range(steps), desc='sae-lens'):
      peer.step(self.batch(i))
    seconds = time.perf_counter() - start
    peer.finish()
    measured = self._measure(peer.encode, peer)
    return Point('sae-lens', coefficient, steps, *measured, seconds)

  def _measure(
    self, encode: Callable, reconstruct: Callable
  ) -> tuple[float, float]:
    """L0 and FVU, by numpy for either trainer."""
    l0, error = 0.0, 0.0
    for part in np.split(self._test, 8):
      l0 += float((np.asarray(encode(part)) > 0).sum())
      error += float(((np.asarray(reconstruct(part)) - part) ** 2).sum())
    return l0 / len(self._test), float(error / self._variance)


def show_frontier(steps: int, sparsity: list[float]):
  """Ours and sae-lens's, after equal updates and in equal time."""
  theirs = _read_peers(_PEERS_FROM.value, steps) if _PEERS_FROM.value else []
  everything = list(theirs)
  for point in theirs:
    print(point, flush=True)
  race = Race()

  def run(trainer, steps, values):
    points = []
    for value in values:
      try:
        points.append(trainer(steps, value))
      except TrainingDiverged as error:
        print(f'{value:g}: {error}', flush=True)
        continue
      print(points[-1], flush=True)
      everything.append(points[-1])
      _save(list(map(dataclasses.asdict, everything)))
    if not points:
      raise ValueError('Every run diverged; there is nothing to compare.')
    return points

  theirs = theirs or run(race.sae_lens, steps, _L0_COEFFICIENTS.value)
  ours = run(race.ours, steps, sparsity)
  mean = lambda points: sum(p.seconds for p in points) / len(points)
  more = int(steps * mean(theirs) / mean(ours))
  timed = run(race.ours, more, _TIMED_SPARSITY.value)
  for name, points in (
    (f'after {steps} updates', ours),
    (f"in sae-lens's time, {more} updates", timed),
  ):
    print(
      f'\nOurs {name}: {mean(points):.0f} s a run, sae-lens '
      f'{mean(theirs):.0f} s.'
    )
    _compare('ours', points, 'sae-lens', theirs)
    _compare('sae-lens', theirs, 'ours', points)


def _compare(name: str, points: list[Point], other: str, others: list[Point]):
  """Prints where one frontier stands beside another."""
  print(
    f'{name}: {_dominated(points, others)} of {len(points)} points dominated '
    f'by one of {other}'
  )
  for point in points:
    fvu = interpolated(others, point.l0)
    said = 'none at this L0' if fvu is None else f'{fvu:.4f} between points'
    print(
      f'  L0 {point.l0:7.2f}  FVU {point.fvu:.4f}  {other} {said}', flush=True
    )


def _read_peers(path: str, steps: int) -> list[Point]:
  with open(path, encoding='utf-8') as file:
    points = [Point(**record) for record in json.load(file)]
  points = [p for p in points if p.trainer == 'sae-lens' and p.steps == steps]
  if not points:
    raise ValueError(
      f'--peers_from={path} has no point of sae-lens after {steps} updates. '
      'Leave the flag out, and they are run.'
    )
  return points


def _dominated(points: list[Point], others: list[Point]) -> int:
  """How many points have no fewer active latents and no smaller error."""
  return sum(
    any(o.l0 <= p.l0 and o.fvu <= p.fvu for o in others) for p in points
  )


def interpolated(points: list[Point], l0: float) -> float | None:
  """FVU of a trainer at an L0: between its best points, both logarithmic."""
  best, lowest = [], np.inf
  for point in sorted(points, key=lambda p: (p.l0, p.fvu)):
    if point.fvu < lowest:
      best.append(point)
      lowest = point.fvu
  if not best or not best[0].l0 <= l0 <= best[-1].l0:
    return None
  x, y = np.log([[p.l0 for p in best], [p.fvu for p in best]])
  return float(np.exp(np.interp(np.log(l0), x, y)))


def _save(records: list[dict]):
  if _JSON.value:
    write_text(_JSON.value, json.dumps(records, indent=2))


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f'Unexpected arguments {argv[1:]}.')
  if _PART.value == 'dictionary':
    values = _SPARSITY.value or [0.015]
    show, steps = show_recovery, _STEPS.value or 3000
  else:
    if importlib.util.find_spec('sae_lens') is None:
      raise app.UsageError(
        "--part=frontier runs sae-lens too: pip install -e '.[peers]'."
      )
    values = _SPARSITY.value or [3e-4, 1e-3, 2e-3, 3e-3, 5e-3, 1e-2]
    show, steps = show_frontier, _STEPS.value or 200
  show(steps, values)


if __name__ == '__main__':
  app.run(main)
