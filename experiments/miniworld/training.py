"""Training of a small Gemma 2 on one device, in snapshots."""

from collections.abc import Callable, Mapping
import dataclasses
import json
import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from safetensors.numpy import load_file, save_file
import tqdm

import gemma_jax as gj

Weights = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitConfig:
  """AdamW with a warm-up and a cosine.

  Attributes:
    steps: Updates.
    learning_rate: The highest; it falls to a twentieth of it.
    warmup: Steps until it is reached.
    weight_decay: Not of norms' weights.
    average: The weights that are judged and returned are a running mean, of
      which each step keeps this share; 0 is the last weights.
    snapshot_every: Steps between snapshots, and between judgements.
  """

  steps: int
  learning_rate: float
  warmup: int = 100
  weight_decay: float = 0.05
  average: float = 0.0
  snapshot_every: int = 200


def next_token_loss(
  weights: Weights, config: gj.ModelConfig, tokens, counts, positions=None
) -> jax.Array:
  """Mean cross-entropy in nats of each token, given those before it.

  Args:
    weights: The weights of a Gemma 2, as `Decoder.weights` has them.
    config: Its shape.
    tokens: int32 [B, T].
    counts: bool [B, T]: which tokens are to be predicted; never a row's first.
    positions: int32 [B, T], -1 at padding; None is no padding.
  """
  # Unstacked: XLA for CPU copies the weights of a scan (tools/BENCHMARKS.md).
  model = gj.unstack_layers(gj.Decoder(config, dict(weights)))
  out = gj.forward(model, tokens, positions, logits_at='all')
  losses = optax.softmax_cross_entropy_with_integer_labels(
    out.logits[:, :-1], tokens[:, 1:]
  )
  counts = jnp.asarray(counts, jnp.float32)[:, 1:]
  return (losses * counts).sum() / counts.sum()


def fit(
  loss: Callable[[Weights, Any], jax.Array],
  weights: Weights,
  batch: Callable[[int], Any],
  config: FitConfig,
  *,
  snapshot: str | os.PathLike,
  name: str,
  judge: Callable[[Weights], Mapping[str, float]] | None = None,
) -> tuple[Weights, list[dict]]:
  """Trains.

  Args:
    loss: Of weights and a batch; in nats.
    weights: To begin with.
    batch: The batch of a step, a pytree of arrays; the same for the same step.
    config: How.
    snapshot: File that is kept of the work, and gone on from.
    name: For the progress bar.
    judge: Called every `snapshot_every` steps; says what the weights can do.
      Those of the highest 'score' are returned. None returns the last ones.

  Returns:
    Weights, and a record per judgement or snapshot.

  Raises:
    ValueError: the loss is not finite, or the snapshot is of other weights.
  """
  schedule = optax.warmup_cosine_decay_schedule(
    0,
    config.learning_rate,
    min(config.warmup, config.steps // 2),
    config.steps,
    config.learning_rate / 20,
  )
  decayed = {name: not name.endswith('norm') for name in weights}
  optimizer = optax.chain(
    optax.clip_by_global_norm(1.0),
    optax.adamw(
      schedule,
      b1=0.9,
      b2=0.98,
      weight_decay=config.weight_decay,
      mask=decayed,
    ),
  )

  @jax.jit
  def update(state, values):
    weights, moments, mean = state
    value, gradient = jax.value_and_grad(loss)(weights, values)
    changes, moments = optimizer.update(gradient, moments, weights)
    weights = optax.apply_updates(weights, changes)
    mean = optax.incremental_update(weights, mean, 1 - config.average)
    return (weights, moments, mean), value

  weights = jax.tree.map(jnp.asarray, dict(weights))
  state = weights, optimizer.init(weights), weights
  saved = _Snapshot(pathlib.Path(snapshot), state)
  step, state, best, records = saved.read()
  losses = []
  with tqdm.tqdm(
    desc=name, total=config.steps, initial=step, unit='step'
  ) as bar:
    while step < config.steps:
      state, value = update(state, batch(step))
      losses.append(value)
      step += 1
      bar.update()
      if step % config.snapshot_every and step < config.steps:
        continue
      mean = float(np.mean(jax.device_get(losses)))
      losses = []
      if not np.isfinite(mean):
        raise ValueError(
          f'{name}: the loss is {mean} before step {step}. Lower the learning '
          f'rate of {config.learning_rate}; {saved.path} is the last good '
          'snapshot.'
        )
      record = {'step': step, 'loss': mean}
      if judge is None:
        best = state[-1]
      else:
        record |= judge(state[-1])
        if record['score'] > max((r['score'] for r in records), default=-1e9):
          best = state[-1]
      records.append(record)
      bar.set_postfix({k: f'{v:.3f}' for k, v in record.items() if k != 'step'})
      saved.write(step, state, best, records)
  return best, records


class _Snapshot:
  """A file with the state of a training: either the old one or the new one."""

  def __init__(self, path: pathlib.Path, state):
    self.path = path
    self._start = state
    self._leaves, self._tree = jax.tree.flatten((state, state[-1]))

  def read(self):
    """Step, state, best weights, records; those of the start without a file.

    Raises:
      ValueError: the file is of another training.
    """
    if not self.path.is_file():
      return 0, self._start, self._start[-1], []
    found = load_file(self.path)
    leaves = [found.get(str(i)) for i in range(len(self._leaves))]
    if any(
      x is None or x.shape != y.shape
      for x, y in zip(leaves, self._leaves, strict=True)
    ):
      raise ValueError(
        f'{self.path} is a snapshot of other weights. Delete it to begin anew.'
      )
    state, best = jax.tree.unflatten(self._tree, map(jnp.asarray, leaves))
    records = json.loads(found['records'].tobytes())
    return int(found['step'][0]), state, best, records

  def write(self, step, state, best, records):
    leaves = jax.device_get(jax.tree.leaves((state, best)))
    arrays = {str(i): np.asarray(x) for i, x in enumerate(leaves)}
    arrays['step'] = np.array([step])
    arrays['records'] = np.frombuffer(json.dumps(records).encode(), np.uint8)
    self.path.parent.mkdir(parents=True, exist_ok=True)
    partial = self.path.with_name(f'.{self.path.name}.partial')
    save_file(arrays, partial)
    os.replace(partial, self.path)
