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
from typing import Literal

import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from experiments.runs import (
  Count,
  KeepFlags,
  Positive,
  Seed,
  check_numbers,
  start,
)
from experiments.runs.outputs import write_text
from sae.metrics.evaluation import evaluate
from sae.training.monitor import TrainingDiverged
from sae.training.recipe import TrainConfig
from sae.training.train import train
from tools.synthetic_dictionary import SyntheticDictionary

# Latents rarer than this are not looked for.
_RARE = 1e-3
# Our sparsity coefficients on the frontier.
_FRONTIER = (3e-4, 1e-3, 2e-3, 3e-3, 5e-3, 1e-2)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
  """Holds what is shown.

  Attributes:
    part: What to show.
    steps: Number of updates. Default: 3000 for the dictionary, 200 for the
      frontier.
    seeds: Random seeds of the dictionaries.
    sparsity: Sparsity coefficients of ours. Default: 0.015, or six for the
      frontier.
    timed_sparsity: Sparsity coefficients of our runs that go on for sae-lens's
      seconds.
    l0_coefficients: Sparsity coefficients of sae-lens.
    learning_rate: Learning rate of ours on the dictionary. It bears more than
      the 0.005 of TrainConfig.short.
    peer_learning_rate: Learning rate of sae-lens, the best for it of 3e-4,
      3e-3, 1e-2 and 2e-2. With its default, 3e-4, thousands of latents are
      active after so few updates.
    peers_from: The --json of an earlier run on this machine, from which
      sae-lens's points, which take most of the time, are taken.
    json: File to write every figure to.
  """

  part: Literal['dictionary', 'frontier'] = 'dictionary'
  steps: Count | None = None
  seeds: tuple[Seed, ...] = (0, 1, 2)
  sparsity: tuple[Positive, ...] | None = None
  timed_sparsity: tuple[Positive, ...] = (3e-4, 3e-3)
  l0_coefficients: tuple[Positive, ...] = (0.1, 0.3, 1, 3, 10)
  learning_rate: Positive = 0.02
  peer_learning_rate: Positive = 1e-2
  peers_from: str | None = None
  json: str | None = None

  def __post_init__(self):
    check_numbers(self)
    for name in ('seeds', 'sparsity', 'timed_sparsity', 'l0_coefficients'):
      if getattr(self, name) == ():
        raise ValueError(f'--{name} is empty; give one number at least.')


def recovery(
  seed: int, steps: int, sparsity: float, learning_rate: float
) -> dict:
  """Trains on one dictionary; returns what was found."""
  data = SyntheticDictionary(64, 256, seed=seed)
  config = TrainConfig.short(
    512,
    steps,
    batch_size=1024,
    learning_rate=learning_rate,
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


def show_recovery(settings: Settings):
  """Prints one line per seed and coefficient."""
  records, steps = [], settings.steps or 3000
  for seed in settings.seeds:
    for value in settings.sparsity or (0.015,):
      r = recovery(seed, steps, value, settings.learning_rate)
      r['sparsity'] = value
      records.append(r)
      print(
        f'seed {seed}, sparsity {value:g}: mean max cosine '
        f'{r["mean_max_cosine"]:.4f} over {r["true_latents"]} latents '
        f'({r["share_above_0.9"]:.1%} above 0.9; untrained '
        f'{r["untrained"]:.3f}), L0 {r["l0"]:.2f} (true {r["true_l0"]:.2f}), '
        f'FVU {r["fvu"]:.4f}',
        flush=True,
      )
      _save(settings, records)


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

  def __init__(self, peer_learning_rate: float):
    self._peer_learning_rate = peer_learning_rate
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
    """Returns batch number i, [B, D]."""
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
      lr=self._peer_learning_rate,
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
    """Returns L0 and FVU, by numpy for either trainer."""
    l0, error = 0.0, 0.0
    for part in np.split(self._test, 8):
      l0 += float((np.asarray(encode(part)) > 0).sum())
      error += float(((np.asarray(reconstruct(part)) - part) ** 2).sum())
    return l0 / len(self._test), float(error / self._variance)


def show_frontier(settings: Settings):
  """Prints ours and sae-lens's, after equal updates and in equal time.

  Raises:
    ImportError: sae-lens is not installed.
  """
  if importlib.util.find_spec('sae_lens') is None:
    raise ImportError(
      "--part=frontier runs sae-lens too: pip install -e '.[peers]'."
    )
  steps, theirs = settings.steps or 200, []
  if settings.peers_from is not None:
    theirs = _read_peers(settings.peers_from, steps)
  everything = list(theirs)
  for point in theirs:
    print(point, flush=True)
  race = Race(settings.peer_learning_rate)

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
      _save(settings, list(map(dataclasses.asdict, everything)))
    if not points:
      raise ValueError('Every run diverged; there is nothing to compare.')
    return points

  theirs = theirs or run(race.sae_lens, steps, settings.l0_coefficients)
  ours = run(race.ours, steps, settings.sparsity or _FRONTIER)
  mean = lambda points: sum(p.seconds for p in points) / len(points)
  more = int(steps * mean(theirs) / mean(ours))
  timed = run(race.ours, more, settings.timed_sparsity)
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
  """Counts points that another has no more latents and no more error than."""
  return sum(
    any(o.l0 <= p.l0 and o.fvu <= p.fvu for o in others) for p in points
  )


def interpolated(points: list[Point], l0: float) -> float | None:
  """Returns a trainer's FVU at an L0, between its best points, on log axes."""
  best, lowest = [], np.inf
  for point in sorted(points, key=lambda p: (p.l0, p.fvu)):
    if point.fvu < lowest:
      best.append(point)
      lowest = point.fvu
  if not best or not best[0].l0 <= l0 <= best[-1].l0:
    return None
  x, y = np.log([[p.l0 for p in best], [p.fvu for p in best]])
  return float(np.exp(np.interp(np.log(l0), x, y)))


def _save(settings: Settings, records: list[dict]):
  if settings.json:
    write_text(settings.json, json.dumps(records, indent=2))


def work(settings: Settings, keep_flags: KeepFlags) -> int:
  """Shows one part; returns the exit code."""
  del keep_flags
  show = {'dictionary': show_recovery, 'frontier': show_frontier}
  show[settings.part](settings)
  return 0


if __name__ == '__main__':
  start(Settings, work)
