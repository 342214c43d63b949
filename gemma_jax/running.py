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
from gemma_jax import sharding, where
from gemma_jax.cache import Cache
from gemma_jax.capture import Capture, resolve_last
from gemma_jax.capture import prepare as prepare_capture
from gemma_jax.finite import bad_row, check_row
from gemma_jax.model import Output
from gemma_jax.sites import ATTENTION_SITES
from gemma_jax.weights import Decoder


def run(
  model: Decoder,
  tokens,
  positions=None,
  *,
  interventions: iv.Interventions | None = None,
  capture: Capture | None = None,
  logits_at: where.Indices = None,
  prefix: Cache | None = None,
  query_chunk: int = model_lib.QUERY_CHUNK,
  remat: bool | Callable[..., bool] = False,
) -> Output:
  """Runs the model on a batch, after checking what it is given.

  Without logits, layers above the last one captured are not run. Compiled once
  per choice of shapes, sites and types of changes: layers, positions, heads,
  directions and coefficients are data. On a mesh, the mesh of the model's
  weights is used and rows are split over 'data'.

  Args:
    model: The weights.
    tokens: int32 [B, T].
    positions: int32 [B, T], -1 at padding; None counts from 0.
    interventions: Changes, in the order in which they are made.
    capture: Activations to return.
    logits_at: Positions whose logits are returned: 'last', 'all', a list for
      every row, or per_row; None is none.
    prefix, query_chunk, remat: As in `model.forward`.

  Raises:
    KeyError, ValueError: tokens outside the vocabulary, positions that do not
      increase, a layer, position or site that does not exist, a change that
      touches no token of a row, wrong shapes. Nothing has run by then. Or
      what is returned of a token, logits or activations, is not finite.
  """
  config = model.config
  tokens, positions = check_tokens(model, tokens, positions, prefix)
  capture = prepare_capture(capture, config, positions)
  num_layers, upto = config.num_layers, None
  if capture.layers is not None:
    wanted = np.asarray(capture.layers)
    bad = wanted[(wanted >= num_layers) | (wanted < -1)]
    if bad.size:
      raise ValueError(
        f'Cannot capture layer {bad[0]}: the model has layers 0 to '
        f'{num_layers - 1}.'
      )
    if logits_at is None:
      num_layers = int(wanted.max(initial=0)) + 1
      # As data where a loop can have it so: one program for every layer.
      upto = np.int32(num_layers) if model.is_stacked and not remat else None
  interventions = check_changes(
    model, interventions, positions, prefix=prefix, num_layers=num_layers
  )
  every = isinstance(logits_at, str) and logits_at == 'all'
  if logits_at is not None and not every:
    logits_at = where.absolute(logits_at, 'logits_at')
    logits_at = np.asarray(resolve_last(logits_at, positions))
    if logits_at.shape[0] not in (1, len(tokens)):
      raise ValueError(
        f'logits_at has {len(logits_at)} rows; the batch has {len(tokens)}.'
      )
  for name, at in (
    ('capture.positions', capture.positions),
    ('logits_at', None if every else logits_at),
  ):
    if at is not None:
      _check_present(name, np.asarray(at), np.asarray(positions))
  with sharding.mesh_of(model.embed[...]):
    out, bad = _forward(
      model,
      tokens,
      positions,
      interventions=interventions,
      capture=capture,
      logits_at=None if every else logits_at,
      all_logits=every,
      prefix=prefix,
      upto=upto,
      num_layers=None if upto is not None else num_layers,
      query_chunk=query_chunk,
      remat=remat,
    )
  if (known := where.concrete(bad)) is not None:
    _check_finite(known, out, model.dtype)
  return out


@functools.partial(
  jax.jit,
  static_argnames=('all_logits', 'num_layers', 'query_chunk', 'remat'),
)
def _forward(
  model, tokens, positions, *, all_logits, logits_at, upto, num_layers, **kwargs
):
  """Returns the output, and `bad_row` of its activations and logits."""
  tokens = sharding.constrain(tokens, 'BT')
  positions = sharding.constrain(positions, 'BT')
  out = model_lib.forward(
    model,
    tokens,
    positions,
    logits_at='all' if all_logits else logits_at,
    num_layers=num_layers if upto is None else upto,
    **kwargs,
  )
  there = out.captured_at >= 0
  bad = [
    bad_row(
      values,
      there[:, None, :, None] if site in ATTENTION_SITES else there[..., None],
      axes=2,
    )
    for site, values in sorted(out.activations.items())
  ]
  if out.logits is not None:
    at = positions if all_logits else logits_at
    bad.append(bad_row(out.logits, (at >= 0)[..., None]))
  # On a mesh, every process is to know.
  return out, sharding.constrain(jnp.array(bad, jnp.int32), '.')


def _check_finite(bad: np.ndarray, out: Output, dtype):
  """Raises ValueError where `_forward` found something; the first layer's."""
  found = []
  for row, site in zip(bad, sorted(out.activations), strict=False):
    if row >= 0:
      slot, row = divmod(int(row), out.activations[site].shape[1])
      found.append((int(out.captured_layers[slot]), site, row))
  if found:
    layer, site, row = min(found)
    check_row(row, dtype, f'Activations ({site} of layer {layer})')
  if out.logits is not None:
    check_row(int(bad[-1]), dtype, 'The logits')


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
  rows = model.config.position_rows - model.config.position_offset
  if model.config.position_rows and positions.max(initial=-1) >= rows:
    raise ValueError(
      f'Position {positions.max()} has no row in the table of learned '
      f'positions, which goes up to {rows - 1}. Shorten the text.'
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
) -> tuple[iv.Change, ...]:
  """Returns the changes, prepared; raises where one does not fit, or does
  nothing.

  Args:
    model: The model that changes must fit.
    interventions: Changes.
    positions: int32 [B, T].
    new_tokens: How many tokens will follow in every row.
    prefix: Tokens before the rows', seen as keys.
    num_layers: How many layers are run; None is all.
  """
  config = model.config
  changes = iv.prepare(interventions, config, positions)
  sizes = {'layer': config.num_layers, 'head': config.num_heads}
  first = np.where(positions < 0, np.iinfo(np.int32).max, positions).min(1)
  last = positions.max(1) + new_tokens - (new_tokens > 0)
  for number, change in enumerate(changes):
    name = f'interventions[{number}], {type(change).__name__} at {change.site}'
    for field, what in iv.SELECTIONS.items():
      selection = getattr(change, field, None)
      if selection is None:
        continue
      if what in sizes:
        _check_indices(name, what, selection, sizes[what], num_layers)
        continue
      start = first * 0 if field == 'keys' and prefix is not None else first
      _check_positions(name, field, selection, start, last)
    if isinstance(change, iv.Patch):
      _check_slots(name, change, positions, first, last)
  return changes


def _check_indices(name, what, selection, size, num_layers):
  """Raises for layers or heads that do not exist, or are not run."""
  for row, chosen in enumerate(selection.indices(size) or ()):
    if chosen.size and not 0 <= chosen[0] <= chosen[-1] < size:
      bad = chosen[(chosen < 0) | (chosen >= size)][0]
      raise ValueError(
        f'{name}: {what} {bad} (row {row}) is out of range; the model has '
        f'{what}s 0 to {size - 1}.'
      )
    if what == 'layer' and num_layers and chosen.size:
      if chosen[0] >= num_layers:
        raise ValueError(
          f'{name} is set at layers {chosen.tolist()}; only layers 0 to '
          f'{num_layers - 1} are run, up to the last one captured.'
        )


def _check_positions(name, field, selection, first, last):
  """Raises where a selection of positions misses every token of a row."""
  size = selection.size
  if size is not None and size <= last.max():
    raise ValueError(
      f'{name}: {field} is a mask over positions 0 to {size - 1}; rows go up '
      f'to {last.max()}, new tokens included. Give a mask of {last.max() + 1} '
      'or more, or say which positions.'
    )
  rows = selection.indices(int(last.max()) + 1) or ()
  for row in range(len(last) if rows else 0):
    chosen = rows[row if len(rows) > 1 else 0]
    inside = (chosen >= first[row]) & (chosen <= last[row])
    if chosen.size and not inside.any() and last[row] >= 0:
      raise ValueError(
        f'{name} is set at positions {chosen.tolist()} of row {row} ({field}), '
        f'which has positions {first[row]} to {last[row]}: it would do '
        'nothing.'
      )


def _check_slots(name, change, positions, first, last):
  """Raises where a position is to be patched that the source does not have.

  Without positions, those of the source are; one must be in the row.
  """
  slots = where.concrete(change.slots)
  if slots is None or slots.shape[1] == 1:
    return
  rows = change.positions.indices(int(positions.max()) + 1) or ()
  everywhere = change.positions.is_all
  for row in range(len(positions) if rows else 0):
    held = slots[row if len(slots) > 1 else 0]
    if everywhere:
      inside = (held >= first[row]) & (held <= last[row])
      if (held >= 0).any() and not inside.any() and last[row] >= 0:
        raise ValueError(
          f'{name}: the source has positions {held[held >= 0].tolist()}, and '
          f'row {row} has positions {first[row]} to {last[row]}: it would do '
          "nothing. Positions are absolute; positions='last' and an array, "
          f'source=donor[{change.site!r}, layer], put one activation there.'
        )
      continue
    chosen = rows[row if len(rows) > 1 else 0]
    chosen = chosen[np.isin(chosen, positions[row])]
    missing = np.setdiff1d(chosen, held)
    if missing.size:
      raise ValueError(
        f'{name}: the source has no activation of position {missing[0]}, which '
        f'is to be patched in row {row}. Positions are absolute. To put one '
        'activation at another position, give it as an array: source=donor['
        f'{change.site!r}, layer], captured at one position.'
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
      f'{name} is -1 everywhere. Positions count from 0; the last one is '
      "'last'."
    )
  if bad.any():
    row, column = np.argwhere(bad)[0]
    rows = 'no row has' if at.shape[0] == 1 else f'row {row} does not have'
    raise ValueError(
      f'{name} asks for position {at[row, column]}, which {rows}. Positions '
      f'go from {positions[positions >= 0].min(initial=0)} to '
      f'{positions.max()}; use -1 where a row has nothing to give.'
    )
