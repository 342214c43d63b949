"""Parts of the model that can carry an effect, and holding them in place.

A component is a head (its z) or an MLP (its mlp_out) of one layer, at one group
of a prompt's tokens:

  before   up to the entity
  entity   the entity's own
  after    after the entity, but the last
  last     the last, whose logits are read

Each is in a *state*: FREE, what the pass itself computes; CLEAN, its value in
the unedited run; GIVEN, another value, such as that of the edited run. Path
patching is a choice of states. Those of a row are an array int8 [L, N + 1, G]:
heads, then the MLP.
"""

from collections.abc import Iterable, Sequence
import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from experiments.steering import Question
import gemma_jax as gj

GROUPS = ('before', 'entity', 'after', 'last')
FREE, CLEAN, GIVEN = range(3)
# Sites of the components; what blocks add to the stream follows from them.
SITES = ('z', 'mlp_out')


class Component(NamedTuple):
  """A head or an MLP, at some tokens.

  Attributes:
    layer: Number of the layer, from 0.
    head: Number of the head, from 0; None is the layer's MLP.
    group: One of GROUPS.
  """

  layer: int
  head: int | None
  group: str

  @property
  def site(self) -> str:
    """Returns the site of the component's value."""
    return 'mlp_out' if self.head is None else 'z'

  def __str__(self):
    place = '' if self.head is None else f'/{self.head}'
    return f'{self.site}.{self.layer}{place} {self.group}'

  def index(self, config: gj.ModelConfig) -> tuple[int, int, int]:
    """Returns the component's place in an array of states."""
    unit = config.num_heads if self.head is None else self.head
    return self.layer, unit, GROUPS.index(self.group)


def components_where(mask: np.ndarray) -> list[Component]:
  """Returns the components at the True entries of bool [L, N + 1, G]."""
  mlp = mask.shape[1] - 1
  return [
    Component(int(layer), None if unit == mlp else int(unit), GROUPS[group])
    for layer, unit, group in np.argwhere(mask)
  ]


def states_of(
  config: gj.ModelConfig,
  components: Iterable[Component],
  state: int,
  others: int = FREE,
) -> np.ndarray:
  """Returns states of components and of all others, int8 [L, N + 1, G]."""
  shape = (config.num_layers, config.num_heads + 1, len(GROUPS))
  states = np.full(shape, others, np.int8)
  for component in components:
    states[component.index(config)] = state
  return states


def token_groups(questions: Sequence[Question], length: int) -> np.ndarray:
  """Returns 1 where a position is of a group, float32 [Q, S, G]."""
  groups = np.zeros((len(questions), length, len(GROUPS)), np.float32)
  for group, question in zip(groups, questions, strict=True):
    start, stop = question.span
    end = question.length - 1
    for i, span in enumerate(
      ((0, start), (start, stop), (stop, end), (end, end + 1))
    ):
      group[slice(*span), i] = 1
  return groups


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Held(gj.Change):
  """Holds any set of components, which no product of gates could say.

  The rows are padded on the right, so that a column is a position.

  Attributes:
    site: One of SITES.
    source: [R, L, S, W], what they are held at.
    cells: float32 [R, L, n, G], gates of the n components of a layer, which
      are equal parts of the site's features.
    groups: float32 [R, S, G], the tokens of each group.
  """

  site: str = dataclasses.field(metadata={'static': True})
  source: jax.Array
  cells: jax.Array
  groups: jax.Array

  def apply(self, x, layer, positions, config):
    """Returns x [B, T, W] with the chosen parts replaced by the source's."""
    gate = jnp.einsum('BTG,BnG->BTn', self.groups, self.cells[:, layer])
    gate = jnp.repeat(gate, x.shape[2] // gate.shape[2], axis=2)
    source = self.source[:, layer].astype(jnp.float32)
    # Written so that gates 0 and 1 are exact.
    held = gate * source + (1 - gate) * x.astype(jnp.float32)
    return held.astype(x.dtype)


def hold(
  config: gj.ModelConfig,
  states: np.ndarray,
  groups: jax.Array,
  clean: dict[str, jax.Array],
  given: dict[str, jax.Array],
) -> list[gj.Change]:
  """Returns changes that put components in their states.

  Args:
    config: The model's config.
    states: int8 [R, L, N + 1, G].
    groups: float32 [R, S, G], of `token_groups`.
    clean: Site -> [R, L, S, W], values of CLEAN components.
    given: Site -> [R, L, S, W], values of GIVEN components.
  """
  N = config.num_heads
  parts = {'z': states[:, :, :N], 'mlp_out': states[:, :, N:]}
  return [
    Held(
      site=site,
      source=source[site],
      cells=jnp.asarray(part == state, jnp.float32),
      groups=groups,
    )
    for site, part in parts.items()
    for state, source in ((CLEAN, clean), (GIVEN, given))
  ]
