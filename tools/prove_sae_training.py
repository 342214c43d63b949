r"""Shows that training finds what is there, and how it compares with sae-lens.

dictionary   Sparse combinations of 256 known directions in 64 dimensions, of
             Zipf-distributed frequencies: are the directions recovered, at
             the true L0? On several seeds, beside an untrained SAE.
frontier     L0 and FVU on held-out activations after as many updates of ours
             and of sae-lens's JumpReLU trainer, on the same batches in the
             same order, with the seconds that each took (needs
             `pip install -e '.[peers]'`).

python -m tools.prove_sae_training --part=dictionary
python -m tools.prove_sae_training --part=frontier --json=out/frontier.json
"""

import json
import time

from absl import app, flags
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from sae.metrics import evaluate
from sae.monitor import TrainingDiverged
from sae.recipe import TrainConfig
from sae.train import train
from tools.synthetic_dictionary import SyntheticDictionary

_PART = flags.DEFINE_enum(
  'part', 'dictionary', ['dictionary', 'frontier'], 'What to show.'
)
_STEPS = flags.DEFINE_integer('steps', None, 'Updates. Default: 3000, or 200.')
_SEEDS = flags.DEFINE_list('seeds', ['0', '1', '2'], 'Of the dictionaries.')
_SPARSITY = flags.DEFINE_list(
  'sparsity', None, 'Our coefficients. Default: 0.015, or six of them.'
)
_L0_COEFFICIENTS = flags.DEFINE_list(
  'l0_coefficients', ['1', '3', '10', '30'], "sae-lens's coefficients."
)
_LEARNING_RATE = flags.DEFINE_float(
  'learning_rate',
  0.02,
  "Ours, of the dictionary. It bears more than TrainConfig.short's, 0.005.",
)
_PEER_RATES = flags.DEFINE_list(
  'peer_learning_rates',
  ['3e-3', '1e-2'],
  "sae-lens's learning rates; its default, 3e-4, leaves thousands of latents "
  'active after so few updates.',
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


def show_recovery(steps: int, sparsity: list[float]) -> list[dict]:
  """One line per seed and coefficient."""
  records = []
  for seed in map(int, _SEEDS.value):
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
  return records


def show_frontier(steps: int, sparsity: list[float]) -> list[dict]:
  """Ours and sae-lens's, on D=256, F=4096, B=4096."""
  from tools import sae_peers

  D, F, B = 256, 4096, 4096
  data = SyntheticDictionary(D, 1024, mean_l0=20.0)
  stream = data.batches(B)
  # Drawing takes as long as an update; batches come round again instead.
  pool = [next(stream) for _ in tqdm(range(64), desc='Drawing activations')]
  batch = lambda i: pool[i % len(pool)]
  test = np.concatenate([next(stream) for _ in range(4)])
  variance = ((test - test.mean(0)) ** 2).sum()
  records = []

  def note(name, coefficient, encode, reconstruct, seconds):
    l0, error = 0.0, 0.0
    for part in np.split(test, 8):
      l0 += float((np.asarray(encode(part)) > 0).sum())
      error += float(((np.asarray(reconstruct(part)) - part) ** 2).sum())
    record = {
      'trainer': name,
      'coefficient': coefficient,
      'l0': l0 / len(test),
      'fvu': float(error / variance),
      'seconds': seconds,
      'steps': steps,
    }
    records.append(record)
    print(
      f'{name:22} {coefficient:7g}  L0 {record["l0"]:7.2f}  FVU '
      f'{record["fvu"]:.4f}  {seconds:6.1f} s',
      flush=True,
    )

  for value in sparsity:
    # In the order of the stream, as the peer's trainer takes it.
    config = TrainConfig.fast(
      F, steps, sparsity=value, batch_size=B, bucket_size=B
    )
    start = time.perf_counter()
    try:
      sae = train(config, (batch(i) for i in range(steps))).sae
    except TrainingDiverged as error:
      print(f'ours, {value:g}: {error}', flush=True)
      continue
    seconds = time.perf_counter() - start
    note('ours', value, sae.encode, sae, seconds)
  for rate in map(float, _PEER_RATES.value):
    for value in map(float, _L0_COEFFICIENTS.value):
      peer = sae_peers.SAELens(
        D,
        F,
        B,
        num_steps=steps,
        l0_coefficient=value,
        l0_warm_up_steps=steps // 5,
        lr=rate,
        lr_warm_up_steps=steps // 10,
        lr_decay_steps=steps // 5,
      )
      peer.set_scale(pool[0])
      start = time.perf_counter()
      for i in tqdm(range(steps), desc='sae-lens'):
        peer.step(batch(i))
      seconds = time.perf_counter() - start
      peer.finish()
      note(f'sae-lens, lr {rate:g}', value, peer.encode, peer, seconds)
  is_ours = lambda record: record['trainer'] == 'ours'
  ours = [record for record in records if is_ours(record)]
  theirs = [record for record in records if not is_ours(record)]
  print(
    f'Dominated by one of sae-lens: {_dominated(ours, theirs)} of {len(ours)} '
    f'points of ours. By one of ours: {_dominated(theirs, ours)} of '
    f'{len(theirs)} of its.'
  )
  return records


def _dominated(points: list[dict], others: list[dict]) -> int:
  """How many points have more active latents and a larger error than one."""
  return sum(
    any(o['l0'] <= p['l0'] and o['fvu'] <= p['fvu'] for o in others)
    for p in points
  )


def main(argv):
  if len(argv) > 1:
    raise app.UsageError(f'Unexpected arguments {argv[1:]}.')
  if _PART.value == 'dictionary':
    values = _SPARSITY.value or ['0.015']
    show, steps = show_recovery, _STEPS.value or 3000
  else:
    values = _SPARSITY.value or '1e-6 3e-4 1e-3 3e-3 5e-3 1e-2'.split()
    show, steps = show_frontier, _STEPS.value or 200
  records = show(steps, [float(value) for value in values])
  if _JSON.value:
    with open(_JSON.value, 'w', encoding='utf-8') as file:
      json.dump(records, file, indent=2)


if __name__ == '__main__':
  app.run(main)
