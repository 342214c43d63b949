"""Training of JumpReLU SAEs on a stream of activations.

The loop here fills buckets, has many updates made per program call, and keeps
checkpoints. What an update is: `update.py`; every constant: `recipe.py`; what
is logged and when a run is stopped: `monitor.py`.
"""

from collections.abc import Iterator, Sequence
import contextlib
import dataclasses
import os
import pathlib
import warnings

import jax
import jax.numpy as jnp
import numpy as np

from sae.folding import fold
from sae.jumprelu import JumpReLUSAE, Origin, Weights
from sae.training.activation_buffer import (
  ActivationBuffer,
  ActivationsEnded,
  Source,
)
from sae.training.logs import Log
from sae.training.monitor import Monitor, TrainingDiverged
from sae.training.recipe import TrainConfig
from sae.training.snapshots import Snapshots
from sae.training.update import State, init_state, run_updates


@dataclasses.dataclass(frozen=True)
class Trained:
  """Holds what training gives.

  Attributes:
    saes: One per source and run, [S][R]; they act on raw activations.
    names: Names of the runs in logs, [S][R].
    metrics: Metrics of the last interval, [S][R] of name -> value, in scaled
      units; None if nothing was left to train.
    scale: float32 [S], what activations were divided by in training.
  """

  saes: list[list[JumpReLUSAE]]
  names: list[list[str]]
  metrics: list[list[dict[str, float]]] | None
  scale: np.ndarray

  @property
  def sae(self) -> JumpReLUSAE:
    """Returns the SAE, of a training of one.

    Raises:
      ValueError: there are several.
    """
    if len(self.saes) != 1 or len(self.saes[0]) != 1:
      raise ValueError(
        f'There are {len(self.saes)} sources with {len(self.saes[0])} runs '
        'each; index `saes`.'
      )
    return self.saes[0][0]


def train(
  config: TrainConfig,
  activations: Source,
  *,
  out: str | os.PathLike | None = None,
  origins: Sequence[Origin] | None = None,
  mesh: jax.sharding.Mesh | None = None,
  log_every: int = 100,
  checkpoint_every: int | None = None,
  wandb_project: str | None = None,
  progress: bool = True,
) -> Trained:
  """Trains SAEs; goes on from a checkpoint if `out` has one of the same run.

  A resumed run gives what the uninterrupted one gives, bit for bit on one kind
  of device, if the stream gives the same activations.

  Args:
    config: How to train, and the sweep.
    activations: Batches [n, D] of raw activations, any n. See
      `ActivationBuffer` for masks, for several sources trained at once
      ([S, n, D]), and for streams that a resumed run opens in the middle (a
      function of the first row).
    out: Folder for checkpoints, `metrics.jsonl` and TensorBoard's files. None
      keeps nothing.
    origins: What the SAEs will say of themselves, one per source.
    mesh: Mesh of axes 'data' and 'model', see `sharding.py`; None is one
      device.
    log_every: Updates per program call and per record, at most.
    checkpoint_every: Updates between checkpoints, rounded up to whole calls;
      None is one per bucket.
    wandb_project: Also log to this project of Weights & Biases.
    progress: Show a bar.

  Raises:
    ActivationsEnded: the stream has fewer than num_steps * batch_size rows.
      What was trained until then is in a checkpoint.
    TrainingDiverged: loss or activations were not finite, or the error grew.
    ValueError: `out` holds another run, or an argument does not fit.
  """
  for name, value in (
    ('log_every', log_every),
    ('checkpoint_every', checkpoint_every),
  ):
    if value is not None and value < 1:
      raise ValueError(f'{name} must be at least 1, got {value}.')
  if config.sparsity_warmup_steps >= config.num_steps:
    warnings.warn(
      f'sparsity_warmup_steps={config.sparsity_warmup_steps} is not over in '
      f'num_steps={config.num_steps}: coefficients end below what was asked '
      'for. TrainConfig.fast has warm-ups in proportion to the run.',
      stacklevel=2,
    )
  with contextlib.ExitStack() as stack:
    snapshots = None
    if out is not None:
      snapshots = Snapshots(pathlib.Path(out) / 'checkpoints', config)
      stack.callback(snapshots.close)
    step, state, buckets = _begin(config, activations, mesh, snapshots)
    origins = _check_origins(origins, len(state.scale))
    log = Log(
      out,
      num_steps=config.num_steps,
      tokens_per_step=config.batch_size,
      first_step=step,
      wandb_project=wandb_project,
      config=dataclasses.asdict(config),
      progress=progress,
    )
    stack.callback(log.close)
    names = _names(config, origins)
    monitor = Monitor(
      config,
      log,
      names,
      state.params.b_dec.shape[-1],
      checkpoint=snapshots.path(step) if step else None,
    )
    every = checkpoint_every or config.bucket_size // config.batch_size
    saved = step

    def save():
      nonlocal saved
      monitor.flush()  # raises rather than keep what is wrong
      if snapshots and saved < step:
        snapshots.save(step, state)
        monitor.checkpoint, saved = snapshots.path(step), step

    for bucket, at, count in _calls(config, step, log_every):
      try:
        buckets.load(bucket)
      except ActivationsEnded as error:
        save()
        raise ActivationsEnded(
          f'{error} {step} of {config.num_steps} updates were made and kept.'
        ) from None
      state, metrics = run_updates(
        state,
        buckets.array,
        buckets.order,
        at * config.batch_size,
        config=config,
        num_steps=count,
        mesh=mesh,
      )
      monitor.push(step, metrics, state)
      step += count
      if step - saved >= every or step == config.num_steps:
        save()
    monitor.flush()
    return Trained(
      saes=[
        [export(state, s, r, origin) for r in range(len(config.runs))]
        for s, origin in enumerate(origins)
      ],
      names=names,
      metrics=monitor.last,
      scale=np.asarray(state.scale),
    )


def export(
  state: State,
  source: int = 0,
  run: int = 0,
  origin: Origin | None = None,
) -> JumpReLUSAE:
  """Returns the SAE of one run, folded so that it acts on raw activations."""
  params = jax.tree.map(lambda x: x[source, run], state.params)
  weights = Weights(*params[:4], jnp.exp(params.log_threshold))
  scale = 1 / state.scale[source]
  folded = fold(weights, input_scale=scale, subtract_b_dec=True)
  return JumpReLUSAE(folded, origin or Origin())


def _begin(config, activations, mesh, snapshots):
  """(step, state, buckets or None if nothing is left to do)."""
  step = (snapshots and snapshots.latest) or 0
  if step:
    S, D = snapshots.shape
    state = snapshots.restore(init_state(config, jnp.ones(S), D, mesh))
    if step >= config.num_steps:
      return step, state, None
    buckets = ActivationBuffer(config, activations, first_step=step, mesh=mesh)
    if buckets.shape != (S, D):
      raise ValueError(
        f'The checkpoint in {snapshots.path(step)} is of {S} sources of width '
        f'{D}; the stream gives {buckets.shape[0]} of width '
        f'{buckets.shape[1]}.'
      )
    return step, state, buckets
  buckets = ActivationBuffer(config, activations, mesh=mesh)
  buckets.load(0)
  scale = buckets.scale()
  if not np.isfinite(scale).all():
    bad = buckets.rows_not_finite()[:5].tolist()
    if not bad:
      raise ValueError(
        'The squared norm of the activations overflows float32; divide them '
        'by their scale.'
      )
    raise TrainingDiverged(
      0, f'rows {bad} of the stream hold NaN or infinity', None
    )
  if not (scale > 0).all():
    raise ValueError('All activations of the first bucket are 0.')
  return 0, init_state(config, scale, buckets.shape[1], mesh), buckets


def _calls(config, step, log_every) -> Iterator[tuple[int, int, int]]:
  """Yields the program calls from an update on: (bucket, updates into it,
  updates).

  A bucket is cut into calls of equal length but for the last, so that two
  programs serve all full buckets.
  """
  per_bucket = config.bucket_size // config.batch_size
  per_call = -(-per_bucket // -(-per_bucket // log_every))
  while step < config.num_steps:
    bucket, at = divmod(step, per_bucket)
    count = min(
      per_call - at % per_call, per_bucket - at, config.num_steps - step
    )
    yield bucket, at, count
    step += count


def _check_origins(origins, sources: int) -> Sequence[Origin]:
  origins = [Origin()] * sources if origins is None else list(origins)
  if len(origins) != sources:
    raise ValueError(
      f'There are {len(origins)} origins for {sources} sources of activations.'
    )
  return origins


def _names(config: TrainConfig, origins) -> list[list[str]]:
  """Distinct names of the runs for logs, [S][R]."""
  runs = config.runs
  swept = {
    name: [getattr(run, name) for run in runs]
    for name in ('sparsity', 'target_l0', 'seed')
  }
  labels = [
    ','.join(
      f'{name}={values[i]:g}'
      for name, values in swept.items()
      if len(set(values)) > 1
    )
    for i in range(len(runs))
  ]
  if len(set(labels)) < len(labels):
    labels = [f'run={i}' for i in range(len(labels))]
  places = [(origin.site, origin.layer) for origin in origins]
  distinct = len(set(places)) == len(places)
  names = []
  for s, origin in enumerate(origins):
    source = f'source_{s}'
    if distinct and origin.site is not None:
      source = f'{origin.site}_{origin.layer}'
    parts = [source if len(origins) > 1 else '']
    names.append(
      ['/'.join(filter(None, [*parts, label])) or 'sae' for label in labels]
    )
  return names
