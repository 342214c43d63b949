"""What an intervention is: arrays that say what to change, where, how much.

Interventions are a list of changes. Each carries its site; those of one site
are made in the order of the list, each on what the one before it left.

Which sites are touched, and by how many changes of which type, is compiled
into the program. Everything inside a change is data: another layer, position,
head, direction, latent or coefficient never recompiles.

A change never says "if layer == l". It carries selections of layers and of
positions (where.py); the forward pass applies it at every layer, scaled by
their gates, and off is 0. Its arrays have a leading row axis R: B rows with a
change each, or 1 for all rows; each array may choose. So a sweep is a batch.
Use the constructors in `edits.py` and `patching.py`; this file is what they
build. (1 row or B rows are different shapes, hence different programs.)

Positions are absolute, -1 is nothing and is never changed.
"""

from collections.abc import Sequence
import dataclasses
from typing import Any, ClassVar

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from gemma_jax import sites as sites_lib
from gemma_jax.capture import find_positions, take_positions
from gemma_jax.config import ModelConfig
from gemma_jax.layers import rounded
from gemma_jax.where import Selection


@dataclasses.dataclass(frozen=True, kw_only=True)
class Change:
  """A change of one site. Subclasses are frozen dataclasses that JAX knows.

  Attributes:
    kind: Name of the class; static, and set by itself. JAX 0.10 takes two
      dataclasses with equal fields for one structure, whatever their classes,
      so that a call could run another kind's program.
    site: Where; static.
    site_kinds: Sites that this kind of change can go to.
  """

  kind: str = dataclasses.field(
    default='', repr=False, metadata={'static': True}
  )
  site_kinds: ClassVar[tuple[str, ...]] = sites_lib.VECTOR_SITES

  def __post_init__(self):
    own = f'{type(self).__module__}.{type(self).__qualname__}'
    object.__setattr__(self, 'kind', own)

  def apply(
    self,
    x: jax.Array,
    layer: jax.Array,
    positions: jax.Array,
    config: ModelConfig,
  ) -> jax.Array:
    """The changed x [B, T, W], at positions int32 [B, T] of a layer."""
    raise NotImplementedError

  def sizes(self, config: ModelConfig) -> dict[str, dict[int, tuple]]:
    """Field -> axis -> the sizes it may have in this model."""
    return {}


def _change(cls):
  """Returns a frozen dataclass that is a pytree."""
  frozen = dataclasses.dataclass(frozen=True, kw_only=True)
  return jax.tree_util.register_dataclass(frozen(cls))


def static_field():
  """Returns a field that is compiled into the program."""
  return dataclasses.field(metadata={'static': True})


@_change
class Edit(Change):
  """Adds combinations of k directions, read off the activation by k readers.

    p  = x @ read.T + bias
    x += gate * (shift + (p > threshold) * (slope * p + offset)) @ write

  One formula serves steering, directional ablation, and scaling, clamping or
  ablating SAE latents; for latents it is exact SAE surgery that keeps the
  error term, since only the difference of the latent is written. The k readers
  all see the same x. Computed in float32, rounded to x.dtype once. The gate is
  coefficient, times those of layers and positions.

  Attributes:
    site: Where the vectors are added; W is its width.
    layers: The layers that are edited.
    positions: The absolute positions that are edited.
    coefficient: float32 [R].
    read: float32 [R, k, W]; encoder columns, for latents.
    write: float32 [R, k, W]; decoder rows, for latents.
    bias: float32 [R, k].
    threshold: float32 [R, k]; -inf is always active. Strict, as JumpReLU is.
    slope: float32 [R, k].
    offset: float32 [R, k].
    shift: float32 [R, k].
  """

  site: str = static_field()
  layers: Selection
  positions: Selection
  coefficient: jax.Array
  read: jax.Array
  write: jax.Array
  bias: jax.Array
  threshold: jax.Array
  slope: jax.Array
  offset: jax.Array
  shift: jax.Array

  def apply(self, x, layer, positions, config):
    gate = _gate(self, layer, positions) * self.coefficient[:, None]
    old = x.astype(jnp.float32)
    p = _rowwise('BTW,BkW->BTk', old, self.read) + self.bias[:, None]
    active = p > self.threshold[:, None]
    size = active * (self.slope[:, None] * p + self.offset[:, None])
    size = (size + self.shift[:, None]) * gate[:, :, None]
    new = old + _rowwise('BTk,BkW->BTW', size, self.write)
    return rounded(new, x.dtype)

  def sizes(self, config):
    W = sites_lib.site_width(config, self.site)
    k = self.write.shape[1]
    vectors = {1: (k,), 2: (W,)}
    terms = ('bias', 'threshold', 'slope', 'offset', 'shift')
    return {'read': vectors, 'write': vectors} | dict.fromkeys(terms, {1: (k,)})


@_change
class Patch(Change):
  """Replaces the activation, or some heads of it, by that of another run.

    x = gate * source + (1 - gate) * x

  Attributes:
    site: Where activations are replaced; W is its width.
    layers: The layers that are patched.
    positions: The absolute positions that are patched.
    heads: The query heads that are patched, at site z; None is the whole
      vector.
    source: [R, k, S or 1, W]: k layers, of S slots; one slot serves all.
    source_layers: int32 [R, k], the layers that the source holds; layers
      without one are not changed. -1 serves every layer.
    slots: int32 [R, S], the absolute position of every slot of the source;
      positions without one are not changed. Of no meaning for one slot.
  """

  site: str = static_field()
  layers: Selection
  positions: Selection
  heads: Selection | None
  source: jax.Array
  source_layers: jax.Array
  slots: jax.Array

  def apply(self, x, layer, positions, config):
    gate = _gate(self, layer, positions)[:, :, None]
    fits = (self.source_layers == layer) | (self.source_layers == -1)  # [R, k]
    gate = gate * fits.any(1)[:, None, None]
    source = _taken(self.source, fits.argmax(1))
    if source.shape[1] > 1:
      slots = jnp.broadcast_to(self.slots, (x.shape[0], source.shape[1]))
      source = jnp.broadcast_to(source, (x.shape[0], *source.shape[1:]))
      source = take_positions(source, slots, positions)
      gate = gate * find_positions(slots, positions)[1][:, :, None]
    if self.heads is not None:
      heads = self.heads.gate(jnp.arange(config.num_heads)[None])
      gate = gate * jnp.repeat(heads, config.head_dim, axis=1)[:, None]
    old = x.astype(jnp.float32)
    # Written so that gates 0 and 1 are exact.
    return rounded(gate * source + (1 - gate) * old, x.dtype)

  def sizes(self, config):
    W = sites_lib.site_width(config, self.site)
    _, k, S, _ = self.source.shape
    return {
      'source': {3: (W, 1)},
      'slots': {1: (S,)},
      'source_layers': {1: (k,)},
    }


@_change
class Splice(Change):
  """Puts what a module makes of the activation in its place.

  Attributes:
    site: What the module reads.
    layers: The layers where the module is run.
    positions: The absolute positions whose activation is replaced.
    module: A pytree, called with x [B, T, W]: an SAE gives its reconstruction.
  """

  site: str = static_field()
  layers: Selection
  positions: Selection
  module: Any

  def apply(self, x, layer, positions, config):
    gate = _gate(self, layer, positions)[:, :, None]

    def replaced(x):
      made = self.module(x).astype(jnp.float32)
      old = x.astype(jnp.float32)
      return rounded(jnp.where(gate > 0, made, old), x.dtype)

    return lax.cond((gate > 0).any(), replaced, lambda x: x, x)


@_change
class Knockout(Change):
  """Cuts attention edges: no chosen query sees a chosen key in chosen heads.

  A query always keeps the edge to itself, so its pattern still sums to 1.

  Attributes:
    site: 'attn_logits'.
    layers: The layers where edges are cut.
    heads: The query heads that lose them.
    queries: The absolute positions that lose their view.
    keys: The absolute positions that are no longer seen.
  """

  site_kinds: ClassVar[tuple[str, ...]] = ('attn_logits',)
  site: str = dataclasses.field(
    default='attn_logits', metadata={'static': True}
  )
  layers: Selection
  heads: Selection
  queries: Selection
  keys: Selection

  def cuts(self, layer, query_positions, key_positions, config) -> jax.Array:
    """bool [B, N, T, S]: the edges to remove."""
    heads = self.heads.gate(jnp.arange(config.num_heads)[None]) > 0
    heads &= self.layers.gate(jnp.full((1, 1), layer)) > 0
    queries = self.queries.gate(query_positions) > 0
    keys = self.keys.gate(key_positions) > 0
    itself = query_positions[:, :, None] == key_positions[:, None, :]
    edges = queries[:, :, None] & keys[:, None, :] & ~itself
    return heads[:, :, None, None] & edges[:, None]


Interventions = Sequence[Change]
# Which index each selection of a change counts, and where 'last' is known.
SELECTIONS = {
  'layers': 'layer',
  'heads': 'head',
  'positions': 'position',
  'queries': 'position',
  'keys': 'position',
}


def prepare(
  interventions: Interventions | None,
  config: ModelConfig,
  positions: jax.Array,
) -> tuple[Change, ...]:
  """Changes with canonical sites, 'last' resolved, and shapes checked.

  Shapes are known while tracing, so checking costs nothing at run time.

  Args:
    interventions: Changes.
    config: The model that they are made to.
    positions: int32 [B, T], whose last ones 'last' means.

  Raises:
    KeyError: not a site.
    ValueError: what is given is not a list of changes, a change does not go to
      its site, or an array has a size that does not fit the model.
  """
  if isinstance(interventions, Change | dict):
    raise ValueError(
      f'interventions are a list of changes, got {type(interventions).__name__}'
      '. Each change carries its site: interventions=[gj.steer(...)].'
    )
  prepared = []
  last = positions.max(axis=1)
  for number, change in enumerate(interventions or ()):
    if not isinstance(change, Change):
      raise ValueError(
        f'interventions[{number}] is {type(change).__name__}, expected what '
        'steer, patch, knock_out_attention and the like return.'
      )
    site = sites_lib.resolve(change.site, config)
    resolved = {'site': site} if site != change.site else {}
    for field in dataclasses.fields(change):
      value = getattr(change, field.name)
      if isinstance(value, Selection):
        if SELECTIONS.get(field.name) == 'position':
          value = value.resolved(last)
        if value is not getattr(change, field.name):
          resolved[field.name] = value
    if resolved:
      change = dataclasses.replace(change, **resolved)
    _check(change, f'interventions[{number}]', config, positions.shape[0])
    prepared.append(change)
  return tuple(prepared)


def _check(change: Change, where: str, config: ModelConfig, rows: int):
  """Raises unless the change goes to its site and its shapes fit the model."""
  name = f'{where}, {type(change).__name__} at {change.site}'
  if change.site not in change.site_kinds:
    raise ValueError(
      f'{name}: it goes to {" or ".join(change.site_kinds)}. Knockouts cut '
      'attn_logits; everything else changes the other sites.'
    )
  if getattr(change, 'heads', None) is not None and change.site not in (
    'z',
    'attn_logits',
  ):
    raise ValueError(
      f"{name} has heads; only z, the heads' outputs side by side, has them."
    )
  if isinstance(change, Splice):
    W = sites_lib.site_width(config, change.site)
    made = jax.eval_shape(change.module, jnp.zeros((1, 1, W), jnp.float32))
    if made.shape != (1, 1, W):
      raise ValueError(f'{name} gives {made.shape}, expected (1, 1, {W}).')
  sizes = change.sizes(config)
  for field in dataclasses.fields(change):
    value = getattr(change, field.name)
    if isinstance(value, Selection):
      if value.rows not in (1, rows):
        raise ValueError(_rows(f'{name}: {field.name}', value.rows, rows))
      size = {'layer': config.num_layers, 'head': config.num_heads}.get(
        SELECTIONS.get(field.name)
      )
      if size and value.weights is not None and value.weights.shape[1] != size:
        raise ValueError(
          f'{name}: {field.name} is a mask over {value.weights.shape[1]} of '
          f'them; this model has {size}.'
        )
      continue
    if not isinstance(value, jax.Array | np.ndarray):
      continue
    shape = value.shape
    if shape[:1] not in ((1,), (rows,)):
      raise ValueError(_rows(f'{name}: {field.name}', len(value), rows))
    for axis, wanted in sizes.get(field.name, {}).items():
      if shape[axis] not in wanted:
        raise ValueError(
          f'{name}: {field.name} has shape {shape}; axis {axis} must be '
          f'{" or ".join(map(str, wanted))} for this model.'
        )


def _rows(what: str, got: int, rows: int) -> str:
  return (
    f'{what} has {got} rows; the batch has {rows}. Give one value for all '
    'rows, or one per row.'
  )


def stack_rows(rows: Sequence[Interventions]) -> list[Change]:
  """Joins the interventions of several runs into one batch, in order.

  Args:
    rows: Interventions of the same structure (sites, number and type of
      changes, ranks k), each for one or more rows.

  Raises:
    ValueError: structures or sizes differ.
  """

  def join(*leaves):
    return jnp.concatenate(leaves, axis=0)

  try:
    return jax.tree.map(join, *[_equal_rows(list(row)) for row in rows])
  except (ValueError, TypeError) as error:
    raise ValueError(
      'stack_rows needs interventions that touch the same sites with the same '
      'types of changes and the same sizes (k, slots, indices per row). '
      f'{error}'
    ) from error


def _equal_rows(interventions: list[Change]) -> list[Change]:
  """Returns the changes, every array with the same number of rows."""
  leaves = jax.tree.leaves(interventions)
  rows = max(leaf.shape[0] for leaf in leaves)
  return jax.tree.map(
    lambda leaf: jnp.broadcast_to(leaf, (rows, *leaf.shape[1:])), interventions
  )


def _gate(change, layer, positions):
  """[B or 1, T]: the product of the layer's and the positions' gates."""
  here = change.layers.gate(jnp.full((1, 1), layer, jnp.int32))
  return here * change.positions.gate(positions)


def _taken(source: jax.Array, at: jax.Array) -> jax.Array:
  """[R, S, W]: of source [R, k, S, W], each row's entry at, int32 [R or 1]."""
  if source.shape[1] == 1:
    return source[:, 0]
  if at.shape[0] == 1:
    return source[:, at[0]]
  rows = at.shape[0]
  source = jnp.broadcast_to(source, (rows, *source.shape[1:]))
  return jax.vmap(lambda layers, i: layers[i])(source, at)


def _rowwise(spec: str, x: jax.Array, w: jax.Array) -> jax.Array:
  """Returns an einsum over rows in full float32; w may have one row for all."""
  if w.shape[0] == 1:
    left, right = spec.split(',')
    spec, w = f'{left},{right[1:]}', w[0]
  return jnp.einsum(spec, x, w, precision=lax.Precision.HIGHEST)
