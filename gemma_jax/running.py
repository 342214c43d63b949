"""The forward pass with its input checked, compiled once per shape.

`run` is what a script calls; `model.forward` is the pure function inside, for
use under one's own `jit`, `vmap` and `grad`.
"""

from collections.abc import Callable
import functools

import jax
import jax.numpy as jnp
import numpy as np

from gemma_jax import interventions as iv
from gemma_jax import model as model_lib
from gemma_jax import sharding
from gemma_jax.cache import Cache
from gemma_jax.capture import Capture
from gemma_jax.model import Output
from gemma_jax.weights import Decoder


def run(
  model: Decoder,
  tokens,
  positions=None,
  *,
  interventions: iv.Interventions | None = None,
  capture: Capture | None = None,
  logits_at=None,
  prefix: Cache | None = None,
  num_layers: int | None = None,
  query_chunk: int = model_lib.QUERY_CHUNK,
  remat: bool | Callable[..., bool] = False,
) -> Output:
  """Runs the model on a batch, after checking what it is given.

  Compiled once per choice of shapes, sites, types of changes and static
  arguments; see `model.forward` for all arguments. On a mesh, the mesh of the
  model's weights is used and rows are split over 'data'.

  Raises:
    KeyError, ValueError: tokens outside the vocabulary, positions that do not
      increase, a layer, position or site that does not exist, a change that
      touches no token of a row, wrong shapes. Nothing has run by then.
  """
  tokens, positions = check_tokens(model, tokens, positions, prefix)
  layers = model.config.num_layers if num_layers is None else num_layers
  check_changes(
    model, interventions, positions, prefix=prefix, num_layers=layers
  )
  every = isinstance(logits_at, str) and logits_at == 'all'
  if logits_at is not None and not every:
    logits_at = np.asarray(logits_at)
    if logits_at.ndim != 2 or logits_at.shape[0] not in (1, len(tokens)):
      raise ValueError(
        f"logits_at is {logits_at!r}; expected 'all' or positions [B or 1, P], "
        f'for B={len(tokens)} rows, such as last_position(positions).'
      )
  if capture is not None and capture.layers is not None:
    wanted = np.asarray(capture.layers)
    bad = wanted[(wanted >= layers) | (wanted < -1)]
    if bad.size:
      raise ValueError(
        f'Cannot capture layer {bad[0]}: layers 0 to {layers - 1} are run.'
      )
  for name, at in (
    ('capture.positions', capture and capture.positions),
    ('logits_at', None if every else logits_at),
  ):
    if at is not None:
      _check_present(name, np.asarray(at), np.asarray(positions))
  with sharding.mesh_of(model.embed[...]):
    return _forward(
      model,
      tokens,
      positions,
      interventions=interventions,
      capture=capture,
      logits_at=None if every else logits_at,
      all_logits=every,
      prefix=prefix,
      num_layers=num_layers,
      query_chunk=query_chunk,
      remat=remat,
    )


def last_position(positions) -> jax.Array:
  """int32 [B, 1]: each row's last position, as `logits_at` takes it."""
  return jnp.max(jnp.asarray(positions), axis=1, keepdims=True)


@functools.partial(
  jax.jit,
  static_argnames=('all_logits', 'num_layers', 'query_chunk', 'remat'),
)
def _forward(model, tokens, positions, *, all_logits, logits_at, **kwargs):
  tokens = sharding.constrain(tokens, 'BT')
  positions = sharding.constrain(positions, 'BT')
  return model_lib.forward(
    model,
    tokens,
    positions,
    logits_at='all' if all_logits else logits_at,
    **kwargs,
  )


def check_tokens(model: Decoder, tokens, positions, prefix=None):
  """Tokens and positions as int32 arrays [B, T], or an error.

  Positions default to counting from 0, or from where the prefix ends.
  """
  tokens = np.asarray(tokens)
  if tokens.ndim != 2 or not np.issubdtype(tokens.dtype, np.integer):
    raise ValueError(
      f'tokens must be integers [B, T], got {tokens.dtype} {tokens.shape}.'
    )
  V = model.config.vocab_size
  bad = (tokens < 0) | (tokens >= V)
  if bad.any():
    raise ValueError(
      f'Token id {tokens[bad][0]} is outside the vocabulary of {V}.'
    )
  start = 0 if prefix is None else int(np.max(np.asarray(prefix.positions))) + 1
  if positions is None:
    positions = np.broadcast_to(
      np.arange(start, start + tokens.shape[1]), tokens.shape
    )
  positions = np.asarray(positions)
  if positions.shape != tokens.shape:
    raise ValueError(
      f'positions have shape {positions.shape}, tokens {tokens.shape}.'
    )
  before = np.maximum.accumulate(positions, axis=1)[:, :-1]
  before = np.pad(before, ((0, 0), (1, 0)), constant_values=-1)
  bad = ((positions >= 0) & (positions <= before)) | (positions < -1)
  if bad.any():
    row = int(bad.any(1).argmax())
    raise ValueError(
      f'Positions of row {row} must increase, with -1 at padding; got '
      f'{positions[row].tolist()}.'
    )
  inside = (positions >= 0) & (positions < start)
  if inside.any():
    row = int(inside.any(1).argmax())
    raise ValueError(
      f'Row {row} has position {positions[row][inside[row]][0]}, inside the '
      f'shared prefix, which ends before {start}.'
    )
  return tokens.astype(np.int32), positions.astype(np.int32)


def check_changes(
  model: Decoder,
  interventions: iv.Interventions | None,
  positions: np.ndarray,
  new_tokens: int = 0,
  prefix: Cache | None = None,
  num_layers: int | None = None,
):
  """Raises where a change does not fit, or touches nothing that is run.

  Args:
    model: Its shapes are what changes must fit.
    interventions: Site -> changes.
    positions: int32 [B, T].
    new_tokens: How many tokens will follow in every row.
    prefix: Tokens before the rows', seen as keys.
    num_layers: How many layers are run; None is all.
  """
  iv.check_interventions(interventions or {}, model.config, len(positions))
  first = np.where(positions < 0, np.iinfo(np.int32).max, positions).min(1)
  last = positions.max(1) + new_tokens - (new_tokens > 0)
  for site, changes in (interventions or {}).items():
    for number, change in enumerate(changes):
      where = f'{type(change).__name__} {number} at {site}'
      layers = np.asarray(change.layers) != 0
      unrun = layers.any(1) & ~layers[:, :num_layers].any(1)
      if unrun.any():
        raise ValueError(
          f'{where} is set at layers {np.flatnonzero(layers[unrun.argmax()])}; '
          f'only layers 0 to {num_layers - 1} are run.'
        )
      for name in ('tokens', 'queries', 'keys'):
        gates = getattr(change, name, None)
        if gates is None or gates.shape[1] == 1:
          continue
        if gates.shape[1] <= last.max():
          raise ValueError(
            f'{where} has gates for positions 0 to {gates.shape[1] - 1} '
            f'({name}); rows go up to {last.max()}, new tokens included. Give '
            f'num_positions={last.max() + 1} or more.'
          )
        start = first if name != 'keys' or prefix is None else first * 0
        on = np.broadcast_to(
          np.asarray(gates) != 0, (len(positions), gates.shape[1])
        )
        at = np.arange(gates.shape[1])
        here = on & (at >= start[:, None]) & (at <= last[:, None])
        missed = on.any(1) & ~here.any(1) & (last >= 0)
        if missed.any():
          row = int(np.argmax(missed))
          raise ValueError(
            f'{where} is set at positions '
            f'{np.flatnonzero(on[row]).tolist()} of row {row} ({name}), which '
            f'has positions {start[row]} to {last[row]}: it would do nothing.'
          )


def _check_present(name: str, at: np.ndarray, positions: np.ndarray):
  """Raises for a position that its row, or if shared every row, lacks."""
  if at.shape[0] == 1:
    found = np.isin(at, positions)
  else:
    found = (at[:, :, None] == positions[:, None, :]).any(-1)
  bad = ~found & (at != -1)
  if (at == -1).all():
    raise ValueError(
      f'{name} is -1 everywhere. Positions count from 0; for the last one give '
      'last_position(positions).'
    )
  if bad.any():
    row, column = np.argwhere(bad)[0]
    rows = 'no row has' if at.shape[0] == 1 else f'row {row} does not have'
    raise ValueError(
      f'{name} asks for position {at[row, column]}, which {rows}. Positions '
      f'go from {positions[positions >= 0].min(initial=0)} to '
      f'{positions.max()}; use -1 where a row has nothing to give.'
    )
