"""What an intervention is: arrays that say what to change, where, how much.

Interventions map a site to the changes made there, in order:

  {'resid_post': (edit, patch), 'attn_logits': (knockout,)}

Which sites are touched, and by how many changes of which type, is compiled
into the program. Everything inside a change is data: another layer, position,
head, direction, latent or coefficient never recompiles.

A change never says "if layer == l". It carries a gate per layer and a gate per
position; the forward pass applies it at every layer, scaled by their product,
and off is 0. Its arrays have a leading row axis R: B rows with a change each,
or 1 for all rows; each array may choose. So a sweep is a batch. Use the
constructors in `instruments.py` and `patching.py`; this file is what they
build. (1 row or B rows, 1 position or S, are different shapes, hence different
programs.)

Positions are absolute, -1 is nothing and is never changed. A position gate of
size S covers positions 0 to S - 1 and is 0 beyond; of size 1 it covers all.
"""

from collections.abc import Sequence
import dataclasses
from typing import TypeAlias

import jax
from jax import lax
import jax.numpy as jnp

from gemma_jax import sites as sites_lib
from gemma_jax.capture import find_positions, take_positions
from gemma_jax.config import ModelConfig
from gemma_jax.layers import rounded


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Edit:
  """Adds combinations of k directions, read off the activation by k readers.

    p  = x @ read.T + bias
    x += gate * (shift + (p > threshold) * (slope * p + offset)) @ write

  One formula serves steering, directional ablation, and scaling, clamping or
  ablating SAE latents; for latents it is exact SAE surgery that keeps the
  error term, since only the difference of the latent is written. The k readers
  all see the same x. Computed in float32, rounded to x.dtype once.

  Attributes:
    layers: float32 [R, L], gate per layer; a coefficient goes here.
    tokens: float32 [R, S or 1], gate per absolute position.
    read: float32 [R, k, W]; encoder columns, for latents.
    write: float32 [R, k, W]; decoder rows, for latents.
    bias: float32 [R, k].
    threshold: float32 [R, k]; -inf is always active. Strict, as JumpReLU is.
    slope: float32 [R, k].
    offset: float32 [R, k].
    shift: float32 [R, k].
  """

  layers: jax.Array
  tokens: jax.Array
  read: jax.Array
  write: jax.Array
  bias: jax.Array
  threshold: jax.Array
  slope: jax.Array
  offset: jax.Array
  shift: jax.Array

  def apply(self, x: jax.Array, layer: jax.Array, positions: jax.Array):
    """The edited x [B, T, W], at positions int32 [B, T]."""
    old = x.astype(jnp.float32)
    p = _rowwise('BTW,BkW->BTk', old, self.read) + self.bias[:, None]
    active = p > self.threshold[:, None]
    size = active * (self.slope[:, None] * p + self.offset[:, None])
    size = (size + self.shift[:, None]) * _gate(self, layer, positions)
    new = old + _rowwise('BTk,BkW->BTW', size, self.write)
    return rounded(new, x.dtype)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Patch:
  """Replaces the activation, or some of its features.

    x = gate * source + (1 - gate) * x

  Attributes:
    layers: float32 [R, L], gate per layer.
    tokens: float32 [R, S or 1], gate per absolute position.
    features: float32 [R, W or 1], gate per feature; a head is H of them.
    source: [R, L or 1, S or 1, W]; one layer, or one slot, serves all.
    slots: int32 [R, S], the absolute position of every slot of the source;
      positions without one are not changed. Of no meaning for one slot.
  """

  layers: jax.Array
  tokens: jax.Array
  features: jax.Array
  source: jax.Array
  slots: jax.Array

  def apply(self, x: jax.Array, layer: jax.Array, positions: jax.Array):
    """The patched x [B, T, W], at positions int32 [B, T]."""
    gate = _gate(self, layer, positions) * self.features[:, None]
    source = self.source
    source = source[:, layer] if source.shape[1] > 1 else source[:, 0]
    if source.shape[1] > 1:
      slots = jnp.broadcast_to(self.slots, (x.shape[0], source.shape[1]))
      source = jnp.broadcast_to(source, (x.shape[0], *source.shape[1:]))
      source = take_positions(source, slots, positions)
      gate = gate * find_positions(slots, positions)[1][:, :, None]
    old = x.astype(jnp.float32)
    # Written so that gates 0 and 1 are exact.
    return rounded(gate * source + (1 - gate) * old, x.dtype)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Knockout:
  """Cuts attention edges: no chosen query sees a chosen key in chosen heads.

  A query always keeps the edge to itself, so its pattern still sums to 1.

  Attributes:
    layers: bool [R, L].
    heads: bool [R, N].
    queries: bool [R, S or 1], by absolute position.
    keys: bool [R, S or 1], by absolute position.
  """

  layers: jax.Array
  heads: jax.Array
  queries: jax.Array
  keys: jax.Array

  def cuts(self, layer, query_positions, key_positions) -> jax.Array:
    """bool [B, N, T, S]: the edges to remove."""
    queries = gate_at(self.queries, query_positions)[:, None, :, None]
    keys = gate_at(self.keys, key_positions)[:, None, None, :]
    heads = (self.heads & self.layers[:, layer][:, None])[:, :, None, None]
    itself = query_positions[:, :, None] == key_positions[:, None, :]
    return heads & queries & keys & ~itself[:, None]


Change: TypeAlias = Edit | Patch | Knockout
Interventions: TypeAlias = dict[str, Sequence[Change]]


def gate_at(gates: jax.Array, positions: jax.Array) -> jax.Array:
  """Values [B or R, T] of gates [R, S or 1] at positions int32 [B, T].

  0 (False) at -1 and beyond the last gate. Index -1 must never reach a gather:
  it would wrap to the last slot.
  """
  S = gates.shape[1]
  inside = (positions >= 0) & ((positions < S) | (S == 1))
  gates = jnp.broadcast_to(gates, (positions.shape[0], S))
  values = jnp.take_along_axis(gates, jnp.clip(positions, 0, S - 1), axis=1)
  return jnp.where(inside, values, jnp.zeros_like(values))


def stack_rows(rows: Sequence[Interventions]) -> Interventions:
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
    return jax.tree.map(join, *[_equal_rows(row) for row in rows])
  except (ValueError, TypeError) as error:
    raise ValueError(
      'stack_rows needs interventions that touch the same sites with the same '
      'types of changes and the same sizes (S, k); build them with the same '
      f'num_positions. {error}'
    ) from error


def check_interventions(
  interventions: Interventions, config: ModelConfig, rows: int
) -> None:
  """Raises unless the shapes fit the model and a batch of `rows` rows.

  Shapes are known while tracing, so this costs nothing at run time.

  Raises:
    KeyError: not a site.
    ValueError: a change that the site does not take, or an array of a wrong
      size; the message says what was expected.
  """
  for site, changes in interventions.items():
    if isinstance(changes, Change):
      raise ValueError(
        f'Interventions map a site to several changes: give a tuple, '
        f"{{'{site}': (change,)}}."
      )
    if site not in (*sites_lib.VECTOR_SITES, 'attn_logits'):
      raise KeyError(
        f'Interventions touch {site!r}; sites are '
        f'{(*sites_lib.VECTOR_SITES, "attn_logits")}. Other spellings are '
        'read by parse_site.'
      )
    allowed = Knockout if site == 'attn_logits' else (Edit, Patch)
    for change in changes:
      if not isinstance(change, allowed):
        raise ValueError(
          f'{site} does not take a {type(change).__name__}: Knockout goes to '
          "'attn_logits', Edit and Patch to the other sites."
        )
      want = {'layers': {1: (config.num_layers,)}}
      if isinstance(change, Knockout):
        want['heads'] = {1: (config.num_heads,)}
      else:
        W = sites_lib.site_width(config, site)
        if isinstance(change, Edit):
          k = change.write.shape[1]
          vector = {1: (k,)}
          want |= {'read': {1: (k,), 2: (W,)}, 'write': {2: (W,)}}
          want |= dict.fromkeys(
            ('bias', 'threshold', 'slope', 'offset', 'shift'), vector
          )
        else:
          want['features'] = {1: (1, W)}
          want['source'] = {1: (1, config.num_layers), 3: (W,)}
          want['slots'] = {1: (change.source.shape[2],)}
      for field in dataclasses.fields(change):
        shape = jnp.shape(getattr(change, field.name))
        where = f'{type(change).__name__}.{field.name} at {site}'
        if shape[0] not in (1, rows):
          raise ValueError(
            f'{where} has {shape[0]} rows; the batch has {rows}. Give 1 '
            '(all rows) or one per row.'
          )
        for axis, sizes in want.get(field.name, {}).items():
          if shape[axis] not in sizes:
            raise ValueError(
              f'{where} has shape {shape}; axis {axis} must be '
              f'{" or ".join(map(str, sizes))} for this model.'
            )


def _gate(change: Edit | Patch, layer, positions):
  """[B, T, 1]: the product of the layer's and the positions' gates."""
  gate = gate_at(change.tokens, positions)
  return (change.layers[:, layer][:, None] * gate)[:, :, None]


def _rowwise(spec: str, x: jax.Array, w: jax.Array) -> jax.Array:
  """An einsum over rows in full float32; w may have one row for all."""
  if w.shape[0] == 1:
    left, right = spec.split(',')
    spec, w = f'{left},{right[1:]}', w[0]
  return jnp.einsum(spec, x, w, precision=lax.Precision.HIGHEST)


def _equal_rows(interventions: Interventions) -> Interventions:
  """Every array with the same number of rows."""
  leaves = jax.tree.leaves(interventions)
  rows = max(leaf.shape[0] for leaf in leaves)
  return jax.tree.map(
    lambda leaf: jnp.broadcast_to(leaf, (rows, *leaf.shape[1:])), interventions
  )
