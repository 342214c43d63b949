"""Training by AdamW, in snapshots: all weights of a model, or adapters."""

from collections.abc import Callable, Mapping
import dataclasses
import functools
import os
from typing import Any, NamedTuple

import jax
from jax import lax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
import numpy as np
import optax
import tqdm

from gemma_jax import sharding
from gemma_jax.training.fingerprint import fingerprint
from gemma_jax.training.snapshot import Snapshot
from gemma_jax.weights import is_bias, is_norm

Weights = dict[str, jax.Array]
# How Adam's running means of gradients and of their squares decay, and the norm
# that gradients are cut to. The second is less than Adam's .999, so that a
# short training forgets its first gradients.
_B1, _B2, _CLIP = 0.9, 0.98, 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class FitConfig:
  """AdamW with a warm-up and a cosine.

  Attributes:
    steps: Updates.
    learning_rate: The highest; it falls to a twentieth of it.
    warmup: Steps until it is reached.
    weight_decay: Decay per step as a share of the learning rate; none for
      norms and biases.
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

  def __post_init__(self):
    bounds = {
      'steps': self.steps >= 1,
      'learning_rate': 0 < self.learning_rate < np.inf,
      'warmup': self.warmup >= 0,
      'weight_decay': 0 <= self.weight_decay < np.inf,
      'average': 0 <= self.average < 1,
      'snapshot_every': self.snapshot_every >= 1,
    }
    for name, fine in bounds.items():
      if not fine:
        raise ValueError(
          f'{name}={getattr(self, name)} is out of bounds: steps and '
          'snapshot_every are at least 1, the learning rate is positive, the '
          'average is below 1, and none is negative.'
        )


class State(NamedTuple):
  """Holds what an update changes.

  Attributes:
    weights: The weights after the last update.
    moments: Adam's running means, and its count of steps.
    mean: The running mean of the weights; None without one.
  """

  weights: Weights
  moments: Any
  mean: Weights | None

  @property
  def best(self) -> Weights:
    """Returns what is judged and returned."""
    return self.weights if self.mean is None else self.mean


def fit(
  loss: Callable[..., Any],
  weights: Mapping[str, jax.Array],
  batch: Callable[[int], Any],
  config: FitConfig,
  *,
  snapshot: str | os.PathLike,
  name: str,
  frozen: Any = None,
  accumulation: int = 1,
  judge: Callable[[Weights], Mapping[str, float]] | None = None,
  patience: int | None = None,
) -> tuple[Weights, list[dict]]:
  """Trains, and resumes to the same bits if it was killed.

  Weights on a mesh stay where they are, and so do their moments.

  Args:
    loss: A function of weights, a batch and `frozen`, if there is any: a mean
      in nats, or its numerator and denominator (`completion_sums`).
    weights: To begin with, float32: all of a model's, or adapters. They are not
      changed. To compute in bfloat16, see `as_model`.
    batch: The batch of a step, a pytree of arrays; the same for the same step.
    config: How.
    snapshot: File that is kept of the work, and gone on from.
    name: For the progress bar.
    frozen: What the loss needs besides and nobody trains: a pytree of arrays,
      such as the weights under adapters. It is an argument of the compiled
      program; an array that `loss` captures would be a constant inside it.
    accumulation: Micro-batches per batch, run one after another to save
      memory; every array of a batch then begins with a multiple of it. Means
      of them are averaged; numerators and denominators are summed.
    judge: Called every `snapshot_every` steps; says what the weights can do.
      Those of the highest 'score' are returned. None returns the last ones.
    patience: Training stops after so many judgements in a row that were no
      better than the best before; None trains for all steps.

  Returns:
    Weights, and a record per judgement or snapshot.

  Raises:
    ValueError: the loss or a score is not finite, the snapshot is of other
      work (configuration, weights or data), or an argument does not fit.
  """
  _check(weights, accumulation, judge, patience)
  identity = dataclasses.asdict(config) | {
    'accumulation': accumulation,
    'judged': judge is not None,
    'weights': fingerprint(dict(weights)),
    'frozen': fingerprint(frozen),
    'data': fingerprint([batch(0), batch(config.steps - 1)]),
  }
  saved = Snapshot(snapshot, identity)
  with sharding.mesh_of(_on_mesh((weights, frozen))):
    state, places = _start(config, weights)
    update = functools.partial(
      _update,
      loss=loss,
      config=config,
      accumulation=accumulation,
      places=places,
    )
    step, records = 0, []
    best = None if judge is None else state.weights
    if (found := saved.read((state, best))) is not None:
      step, (state, best), records = found
    losses = []
    with tqdm.tqdm(
      desc=name, total=config.steps, initial=step, unit='step'
    ) as bar:
      while step < config.steps and not _stalled(records, patience):
        values = _split(batch(step), accumulation)
        state, value = update(state, values, frozen)
        losses.append(value)
        step += 1
        bar.update()
        if step % config.snapshot_every and step < config.steps:
          continue
        record = {'step': step, 'loss': float(np.mean(jax.device_get(losses)))}
        losses = []
        if not np.isfinite(record['loss']):
          raise ValueError(
            f'{name}: the loss is {record["loss"]} before step {step}. Lower '
            f'the learning rate of {config.learning_rate}; {saved.path} is the '
            'last good snapshot.'
          )
        if judge is not None:
          # A copy: the next update writes where the state is.
          now = _copied(state.best)
          record |= judge(now)
          if not np.isfinite(record['score']):
            raise ValueError(
              f'{name}: the judge gives the score {record["score"]} at step '
              f'{step}, expected a finite number.'
            )
          if record['score'] > max((r['score'] for r in records), default=-1e9):
            best = now
        records.append(record)
        bar.set_postfix(
          {k: f'{v:.3f}' for k, v in record.items() if k != 'step'}
        )
        saved.write(step, (state, best), records)
  return (state.best if judge is None else best), records


def _check(weights, accumulation, judge, patience):
  for path, leaf in jax.tree_util.tree_leaves_with_path(dict(weights)):
    if leaf.dtype != jnp.float32:
      raise ValueError(
        f'{jax.tree_util.keystr(path)} is {leaf.dtype}; weights that are '
        'trained must be float32, since small updates are lost in less. Load '
        'them so, and compute in another dtype with as_model.'
      )
    if not getattr(leaf, 'is_fully_addressable', True):
      raise ValueError(
        'Other processes hold part of the weights; training runs in one '
        'process, over all of its devices.'
      )
  if accumulation < 1 or (patience is not None and patience < 1):
    raise ValueError(
      f'accumulation={accumulation} and patience={patience} must be positive.'
    )
  if patience is not None and judge is None:
    raise ValueError(f'patience={patience} needs a judge.')


def _optimizer(config: FitConfig, weights) -> optax.GradientTransformation:
  schedule = optax.warmup_cosine_decay_schedule(
    0,
    config.learning_rate,
    min(config.warmup, config.steps // 2),
    config.steps,
    config.learning_rate / 20,
  )
  decayed = {name: not (is_norm(name) or is_bias(name)) for name in weights}
  return optax.chain(
    optax.clip_by_global_norm(_CLIP),
    optax.adamw(
      schedule,
      b1=_B1,
      b2=_B2,
      weight_decay=config.weight_decay,
      mask=decayed,
    ),
  )


def _start(config: FitConfig, weights) -> tuple[State, tuple | None]:
  """Returns the state before the first step, and where its leaves live on a
  mesh.

  Copies, since updates write where the state is.
  """
  weights = _copied(dict(weights))
  mean = _copied(weights) if config.average else None
  state = State(weights, _optimizer(config, weights).init(weights), mean)
  mesh = jax.sharding.get_mesh()
  if mesh.empty:
    return state, None
  everywhere = NamedSharding(mesh, PartitionSpec())
  state = jax.tree.map(
    lambda x: (
      x
      if isinstance(x.sharding, NamedSharding)
      else jax.device_put(x, everywhere)
    ),
    state,
  )
  return state, tuple(x.sharding for x in jax.tree.leaves(state))


@functools.partial(
  jax.jit,
  static_argnames=('loss', 'config', 'accumulation', 'places'),
  donate_argnames='state',
)
def _update(
  state: State, values, frozen, *, loss, config, accumulation, places
):
  """Does one step; returns the next state, and the loss before it.

  Compiled once for a loss, a configuration and shapes: trainings that share
  them share the program.
  """

  def sums(weights, values):
    more = () if frozen is None else (frozen,)
    found = loss(weights, values, *more)
    return found if isinstance(found, tuple) else (found, 1.0)

  compute = jax.value_and_grad(sums, has_aux=True)
  if accumulation == 1:
    (total, count), gradient = compute(state.weights, values)
  else:

    def add(sofar, part):
      return jax.tree.map(jnp.add, sofar, compute(state.weights, part)), None

    first = jax.tree.map(lambda x: x[0], values)
    shapes = jax.eval_shape(compute, state.weights, first)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    ((total, count), gradient), _ = lax.scan(add, zeros, values)
  gradient = jax.tree.map(lambda g: g / count, gradient)
  optimizer = _optimizer(config, state.weights)
  changes, moments = optimizer.update(gradient, state.moments, state.weights)
  weights = optax.apply_updates(state.weights, changes)
  mean = state.mean
  if mean is not None:
    mean = optax.incremental_update(weights, mean, 1 - config.average)
  state = State(weights, moments, mean)
  if places is not None:
    leaves, tree = jax.tree.flatten(state)
    leaves = map(lax.with_sharding_constraint, leaves, places)
    state = jax.tree.unflatten(tree, leaves)
  return state, total / count


def _split(values, accumulation: int):
  """Arrays [R, ...] as micro-batches [accumulation, R / accumulation, ...]."""
  if accumulation == 1:
    return values

  def split(array):
    if len(array) % accumulation:
      raise ValueError(
        f'A batch of {len(array)} rows does not split into '
        f'accumulation={accumulation} micro-batches of one size.'
      )
    return array.reshape(accumulation, -1, *array.shape[1:])

  return jax.tree.map(split, values)


def _stalled(records: list[dict], patience: int | None) -> bool:
  """Returns True if none of the last `patience` judgements is the best."""
  if patience is None or not records:
    return False
  scores = [record['score'] for record in records]
  return len(scores) - 1 - int(np.argmax(scores)) >= patience


def _on_mesh(tree) -> jax.Array | None:
  """Returns a leaf that is spread over a mesh, if there is one."""
  leaves = jax.tree.leaves(tree)
  placed = lambda x: isinstance(getattr(x, 'sharding', None), NamedSharding)
  return next(filter(placed, leaves), None)


def _copied(tree):
  return jax.tree.map(lambda x: jnp.array(x, copy=True), tree)
