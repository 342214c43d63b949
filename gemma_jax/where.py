"""Which layers, positions and heads: one meaning everywhere.

  None          all of them
  5             that one
  [5, 7]        both, in every row; range(5, 8) and a Span are stretches
  'last'        positions only: each row's last token
  mask          a bool or float array [size]: a gate for each

holds for every row of a batch. What differs by row is said with `per_row`:

  per_row([5, 7])                     row 0 at 5, row 1 at 7
  per_row([[5, 6], [7, -1]])          several in each; -1 fills up
  per_row([range(2, 5), range(1, 3)]) a stretch in each; Spans too
  per_row(mask)                       a bool or float array [R, size]

Positions are absolute: 0 is a row's first token, whatever the padding, and the
tokens that are being generated count on. `before` and `since` say "the prompt
only" and "the generated tokens only".

Concrete values are checked here and when they are run; traced ones cannot be,
so under `jit` and `grad` an index out of range means nothing.
"""

from collections.abc import Sequence
import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gemma_jax.text.spans import Span

# Stands for each row's last position until a run says which that is.
LAST = -2
# Above every layer, position and head.
END = 2**30
# Scattered indices are filled up to a multiple of this: few programs.
_IDS = 4


@dataclasses.dataclass(frozen=True)
class PerRow:
  """Values that differ by row; see `per_row`."""

  values: Any


def per_row(values) -> PerRow:
  """Says that an argument differs by row.

  Args:
    values: [R], one per row; [R, m], several, where -1 fills up; R ranges of
      step 1; or a bool or float mask [R, size].
  """
  return PerRow(values)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Selection:
  """Some indices per row, as data; R is 1 for all rows.

  Index i is chosen if start <= i < stop, or if it is one of ids.

  Attributes:
    start: int32 [R]; LAST is each row's last token, and stop is not used.
    stop: int32 [R].
    ids: int32 [R, m]; -1 is none.
    weights: float32 [R, size], or None. If given, index i has gate
      weights[:, i], and the fields above are not used.
  """

  start: jax.Array
  stop: jax.Array
  ids: jax.Array
  weights: jax.Array | None = None

  @property
  def rows(self) -> int:
    """R."""
    if self.weights is not None:
      return self.weights.shape[0]
    return max(self.start.shape[0], self.ids.shape[0])

  def gate(self, at: jax.Array) -> jax.Array:
    """float32 gates [R, ...] of indices int32 [R or 1, ...]; -1 has gate 0."""
    return self._chosen(at) if self.weights is None else self._weighed(at)

  def _weighed(self, at):
    # Index -1 must never reach a gather: it would wrap.
    size = self.weights.shape[1]
    rows = max(at.shape[0], self.rows)
    at = jnp.broadcast_to(at, (rows, *at.shape[1:]))
    weights = jnp.broadcast_to(self.weights, (rows, size))
    flat = jnp.clip(at.reshape(rows, -1), 0, size - 1)
    found = jnp.take_along_axis(weights, flat, axis=1).reshape(at.shape)
    return jnp.where((at >= 0) & (at < size), found, 0)

  def _chosen(self, at):
    over = lambda a: a.reshape(a.shape[0], *[1] * (at.ndim - 1), *a.shape[1:])
    chosen = (at >= over(self.start)) & (at < over(self.stop))
    if self.ids.shape[1]:
      chosen |= (at[..., None] == over(self.ids)).any(-1)
    return (chosen & (at >= 0)).astype(jnp.float32)

  def resolved(self, last: jax.Array) -> 'Selection':
    """With LAST replaced by each row's last position, int32 [B]."""
    if self.weights is not None or not self.may_be_last:
      return self
    is_last = self.start == LAST
    return dataclasses.replace(
      self,
      start=jnp.where(is_last, last, self.start),
      stop=jnp.where(is_last, last + 1, self.stop),
    )

  @property
  def size(self) -> int | None:
    """Returns how many indices a mask covers; None without a mask."""
    return None if self.weights is None else self.weights.shape[1]

  @property
  def is_all(self) -> bool:
    """Returns True if every row is known to choose every index."""
    known = [concrete(self.start), concrete(self.stop)]
    if self.weights is not None or any(each is None for each in known):
      return False
    return bool((known[0] == 0).all() and (known[1] == END).all())

  @property
  def may_be_last(self) -> bool:
    """Returns True if some row may be LAST: True where that is not known."""
    known = concrete(self.start)
    return known is None or bool((known == LAST).any())

  def indices(self, size: int) -> list[np.ndarray] | None:
    """Returns each row's chosen indices below `size`, or None while tracing.

    A row that chooses all has all; one that chooses LAST has [LAST].
    """
    leaves = [concrete(leaf) for leaf in jax.tree.leaves(self)]
    if any(leaf is None for leaf in leaves):
      return None
    if self.weights is not None:
      return [np.flatnonzero(row) for row in leaves[-1]]
    rows = []
    for row in range(self.rows):
      start, stop, ids = (a[min(row, len(a) - 1)] for a in leaves)
      if start == LAST:
        rows.append(np.array([LAST]))
        continue
      everything = stop == END
      stretch = np.arange(start, min(size, stop) if everything else stop)
      rows.append(np.unique([*stretch, *ids[ids >= 0]]).astype(int))
    return rows


Indices = int | str | Sequence | np.ndarray | jax.Array | PerRow | Selection
Indices |= None


def select(indices: Indices, what: str, *, last: bool = False) -> Selection:
  """Returns a Selection, from any way to say which (module docstring).

  Args:
    indices: Which.
    what: 'layer', 'position' or 'head', for messages.
    last: True if 'last' is understood.

  Raises:
    ValueError: an index is negative, repeated, or of a wrong shape or type.
  """
  if isinstance(indices, Selection):
    return indices
  if indices is None:
    return _stretch([0], [END])
  if isinstance(indices, str):
    if indices != 'last' or not last:
      words = "the only word is 'last'" if last else 'no word is understood'
      raise ValueError(f'{what}s={indices!r}: {words}.')
    return _stretch([LAST], [LAST])
  if isinstance(indices, Span):
    return _stretch([indices.start], [indices.stop])
  rowwise = isinstance(indices, PerRow)
  values = indices.values if rowwise else indices
  if rowwise and _all_stretches(values):
    _check_steps(values, what)
    return _stretch([r.start for r in values], [r.stop for r in values])
  values = _array(values, what)
  most = 2 if rowwise else 1
  if values.ndim > most or (rowwise and values.ndim == 0):
    raise ValueError(
      f'{what}s have shape {values.shape}; '
      + (
        'per_row takes [R] or [R, m].'
        if rowwise
        else 'a list says which of them, in every row. What differs by row is '
        f'said with per_row: {what}s=gj.per_row(...).'
      )
    )
  if not jnp.issubdtype(values.dtype, jnp.integer):
    if values.ndim != most:
      raise ValueError(
        f'A mask over {what}s has shape {values.shape}, expected '
        f'{"[R, size]" if rowwise else "[size]"}. Indices must be integers.'
      )
    known = concrete(values)
    if known is not None and not np.isfinite(known).all():
      raise ValueError(
        f'A mask over {what}s holds NaN or infinity; expected finite gates.'
      )
    weights = jnp.asarray(values, jnp.float32).reshape(-1, values.shape[-1])
    return dataclasses.replace(_stretch([0], [0]), weights=weights)
  _check_indices(values, what, rowwise)
  if values.ndim == 2:
    return _scattered(values)
  if values.ndim == 0 or rowwise:
    start = jnp.atleast_1d(jnp.asarray(values, jnp.int32))
    return _stretch(start, start + 1)
  known = concrete(values)
  if known is None:
    return _scattered(values[None])
  if not known.size:
    return _stretch([0], [0])
  first, final = int(known.min()), int(known.max())
  if final - first + 1 == known.size:
    return _stretch([first], [final + 1])
  return _scattered(known[None])


def layer_window(centers: Indices, width: int, num_layers: int) -> Selection:
  """`width` layers around each center, cut at both ends of the model.

  Layers center - width // 2 up to center - width // 2 + width - 1: the windows
  of Geva et al. 2023 (arXiv 2304.14767), who used width 9.

  Args:
    centers: One layer, or per_row([R]).
    width: How many layers.
    num_layers: L.

  Raises:
    ValueError: a center is not a layer, or the width is not positive.
  """
  if width < 1:
    raise ValueError(f'width must be at least 1, got {width}.')
  rowwise = isinstance(centers, PerRow)
  values = _array(centers.values if rowwise else centers, 'center')
  if values.ndim != rowwise:
    raise ValueError(f'centers must be a layer or per_row([R]), got {centers}.')
  _check_indices(values, 'center', rowwise)
  if (known := concrete(values)) is not None and (known >= num_layers).any():
    raise ValueError(
      f'center {known.max()} is out of range: the model has {num_layers} '
      'layers.'
    )
  start = jnp.atleast_1d(jnp.asarray(values, jnp.int32)) - width // 2
  return _stretch(jnp.maximum(start, 0), jnp.minimum(start + width, num_layers))


def before(lengths) -> Selection:
  """Returns positions below an int or each row's length, [R]: a prompt."""
  stop = jnp.atleast_1d(jnp.asarray(lengths, jnp.int32))
  return _stretch(jnp.zeros_like(stop), stop)


def since(lengths) -> Selection:
  """Returns the positions from each row's length on, an int or [R]: generated
  tokens.

  The prompt's last token, whose logits give the first generated one, is at
  length - 1.
  """
  start = jnp.atleast_1d(jnp.asarray(lengths, jnp.int32))
  return _stretch(start, jnp.full_like(start, END))


def absolute(positions: Indices, what: str) -> np.ndarray | jax.Array:
  """Positions to read, int32 [B or 1, P], -1 for none and LAST for the last.

  Args:
    positions: An int, a list for every row, 'last', or per_row.
    what: The argument's name, for messages.
  """
  if isinstance(positions, str):
    if positions != 'last':
      raise ValueError(f"{what}={positions!r}: the only word is 'last'.")
    return np.full((1, 1), LAST, np.int32)
  if isinstance(positions, Span):
    positions = range(*positions)
  rowwise = isinstance(positions, PerRow)
  values = _array(positions.values if rowwise else positions, what)
  if values.ndim > 1 + rowwise or (rowwise and not values.ndim):
    raise ValueError(
      f'{what} have shape {values.shape}: a list says which, in every row. '
      f'What differs by row is said with per_row: {what}=gj.per_row(...).'
    )
  if not jnp.issubdtype(values.dtype, jnp.integer):
    raise ValueError(f'{what} must be integers, got {values.dtype}.')
  filled = rowwise and values.ndim == 2
  known = concrete(values)
  if known is not None and (known < (-1 if filled else 0)).any():
    raise ValueError(
      f'{what} count from 0, got {known.tolist()}; the last one is '
      f"{what}='last'."
    )
  if rowwise:
    values = values if filled else values[:, None]
  else:
    values = values.reshape(1, -1)
  return values.astype(np.int32)


def concrete(x) -> np.ndarray | None:
  """Returns the values, or None while tracing."""
  return None if isinstance(x, jax.core.Tracer) else np.asarray(x)


def _array(values, what):
  if isinstance(values, jax.Array):
    return values
  if isinstance(values, Sequence) and any(
    isinstance(value, Sequence | np.ndarray) for value in values
  ):
    longest = max(len(value) for value in values)
    values = [[*value, *[-1] * (longest - len(value))] for value in values]
  try:
    array = np.asarray(values)
  except (TypeError, ValueError) as error:
    raise ValueError(f'{what}s={values!r} are not indices: {error}.') from error
  return array.astype(np.int32) if not array.size else array


def _stretch(start, stop) -> Selection:
  start, stop = (jnp.asarray(each, jnp.int32) for each in (start, stop))
  return Selection(start=start, stop=stop, ids=jnp.zeros((1, 0), jnp.int32))


def _scattered(ids) -> Selection:
  ids = jnp.asarray(ids, jnp.int32)
  fill = -ids.shape[1] % _IDS
  ids = jnp.pad(ids, ((0, 0), (0, fill)), constant_values=-1)
  return dataclasses.replace(_stretch([0], [0]), ids=ids)


def _all_stretches(values) -> bool:
  return (
    isinstance(values, Sequence)
    and len(values) > 0
    and all(isinstance(value, range | Span) for value in values)
  )


def _check_steps(ranges, what):
  for row, each in enumerate(ranges):
    if getattr(each, 'step', 1) != 1 or each.start < 0:
      raise ValueError(
        f'{what}s of row {row} are {each}; a range per row counts from 0 up '
        'in steps of 1.'
      )


def _check_indices(values, what: str, rowwise: bool):
  """Raises for indices below 0, but for the -1 that fills up, and repeats."""
  known = concrete(values)
  if known is None or not known.size:
    return
  filled = known.ndim == 2
  if (bad := known < (-1 if filled else 0)).any():
    at = np.argwhere(bad)[0]
    hint = "; each row's last token is 'last'" if what == 'position' else ''
    raise ValueError(
      f'{what} {known[tuple(at)]} (row {at[0] if rowwise and at.size else 0}) '
      'is out of range. Count from 0; in per_row([[...], ...]) -1 fills up'
      f'{hint}.'
    )
  if known.ndim == rowwise:  # one index per row
    return
  for row in np.atleast_2d(known):
    used = row[row >= 0]
    if len(np.unique(used)) < len(used):
      raise ValueError(
        f'{what}s {row.tolist()} of one row are repeated. A mask of 0 and 1 '
        'must be bool or float.'
      )
