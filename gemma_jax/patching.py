"""Putting other activations in place, and cutting attention.

Layers, positions and heads are said as `where.py` explains.
"""

import jax
import jax.numpy as jnp
import numpy as np

from gemma_jax.edits import finite, place
from gemma_jax.interventions import Knockout, Patch
from gemma_jax.sites import resolve
from gemma_jax.where import Indices, PerRow, absolute, concrete, select


def patch(
  site: str,
  source,
  *,
  layers: Indices = None,
  heads: Indices = None,
  positions: Indices = None,
  source_positions: jax.Array | None = None,
) -> Patch:
  """Replaces activations by those of another run, or by a constant.

    donor = lm.run(other_prompts, capture=gj.capture('z'))
    gj.patch('z', source=donor, layers=5, heads=3, positions='last')

  What a run gave is put back at the layers and positions it was captured at;
  row b of the donor goes to row b.

  Args:
    site: Where.
    source: What `run` returned, with the site captured; or a number; or an
      array: [W], a constant (a mean, or zeros); [R, S or 1, W], the same for
      every layer chosen; [L, R, S or 1, W], one per layer of the model. One
      slot serves every position.
    layers: Which layers to patch; they must be among those captured. None is
      all that were.
    heads: Which query heads, at site 'z'; None is the whole vector.
    positions: Which positions.
    source_positions: int32 [S] or [R, S], needed for an array of several
      slots: the absolute position that each holds, -1 for none. A position
      without a slot is not patched.

  Raises:
    KeyError: the source does not have the site.
    ValueError: shapes do not fit, a layer was not captured, or the source is
      not finite.
  """
  where = place(site, layers, positions)
  if hasattr(source, 'activations'):
    if source_positions is not None:
      raise ValueError(
        'What run returned knows its positions; leave out source_positions.'
      )
    array, held, slots = _of_run(source, where['site'])
    _check_held(where['layers'], held)
  else:
    array = jnp.asarray(source)
    if array.ndim == 0:
      array = array[None]  # one feature, which serves all W
    if array.ndim not in (1, 3, 4):
      raise ValueError(
        f'source for {site} has shape {array.shape}, expected [W], [R, S, W] '
        'or [L, R, S, W] as captured over all layers.'
      )
    held = np.arange(len(array)) if array.ndim == 4 else np.array([-1])
    array = {1: array[None, None, None], 3: array[None]}.get(array.ndim, array)
    slots = _slots(source_positions, array.shape)
  return Patch(
    **where,
    heads=None if heads is None else select(heads, 'head'),
    source=jnp.moveaxis(finite(array, f'source for {site}'), 0, 1),
    source_layers=jnp.asarray(held, jnp.int32)[None],
    slots=slots,
  )


def knock_out_attention(
  *,
  queries: Indices = None,
  keys: Indices = None,
  layers: Indices = None,
  heads: Indices = None,
) -> Knockout:
  """Stops chosen queries from attending to chosen keys.

  Args:
    queries: Positions that lose their view.
    keys: Positions they no longer see. A query always sees itself.
    layers: Which layers; see `layer_window`.
    heads: Which query heads.

  Raises:
    ValueError: neither queries nor keys are said.
  """
  if queries is None and keys is None:
    raise ValueError(
      'Say which edges to cut: queries, keys or both. Without either, every '
      'token would see itself alone.'
    )
  return Knockout(
    layers=select(layers, 'layer'),
    heads=select(heads, 'head'),
    queries=select(queries, 'position', last=True),
    keys=select(keys, 'position', last=True),
  )


def _of_run(run, site):
  """Activations [k, R, S, W] of a run, their layers and slots [R, S]."""
  site = resolve(site, run.config)
  if site not in run.activations:
    raise KeyError(
      f'The source has {", ".join(run.activations) or "nothing captured"}, not '
      f'{site}. Capture it: capture=gj.capture({site!r}).'
    )
  array = run.activations[site]
  slots = jnp.broadcast_to(run.captured_at, (array.shape[1], array.shape[2]))
  # One slot would serve every position; a second, of none, keeps it to its own.
  if array.shape[2] == 1:
    array = jnp.pad(array, ((0, 0), (0, 0), (0, 1), (0, 0)))
    slots = jnp.pad(slots, ((0, 0), (0, 1)), constant_values=-1)
  return array, run.captured_layers, slots


def _check_held(layers, held):
  held = concrete(held)
  if held is None or layers.is_all:  # all that the source has
    return
  chosen = layers.indices(int(held.max(initial=-1)) + 1)
  for row in chosen or ():
    if len(missing := np.setdiff1d(row, held)):
      raise ValueError(
        f'The source was captured at layers {held.tolist()}; layer '
        f'{missing[0]} is not among them. Capture it too, or give an array: '
        "source=donor['site', layer]."
      )


def _slots(source_positions, shape) -> jax.Array:
  """int32 [1 or R, S]: the positions that slots hold."""
  _, R, S, _ = shape
  if source_positions is None:
    if S > 1:
      raise ValueError(
        f'source has {S} slots; say which positions they hold with '
        'source_positions: the positions of the run it was captured from, or '
        'those asked of the capture.'
      )
    return jnp.full((1, 1), -1, jnp.int32)
  if isinstance(source_positions, PerRow | str):
    source_positions = absolute(source_positions, 'source_positions')
  slots = jnp.atleast_2d(jnp.asarray(source_positions, jnp.int32))
  if slots.shape not in ((1, S), (R, S)):
    raise ValueError(
      f'source_positions have shape {slots.shape}, expected ({S},) or '
      f'({R}, {S}): one for every slot of the source.'
    )
  return slots
