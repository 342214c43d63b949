"""Which attention blocks, heads and MLPs tuning changed, and what for.

A hybrid has the tuned weights of one component and the untuned ones of all
else, or the other way round. Its effect is the change of the refusal's log-odds
at the prompt's last token: into the untuned model, hybrid less untuned; back,
tuned less hybrid; each as a share of tuned less untuned, in means over prompts.
They are over known prompts, unknown ones, and 'apart', unknown less known: what
it does for telling them apart, not for refusing all alike. Shares of single
components need not add up to 1.

  attention  wq, wk, wv, wo of a layer, with biases
  head       its slices of wq and wo: keys and values may be shared by heads
  mlp        gate, up, down of a layer, with biases
  norms      the gains and biases of all norms, apart
  embedding  embedding, learned positions, unembedding

Which weights are the tuned ones is said by masks, which are data: one program
serves all hybrids. Memory holds both models and one mixture of them. Letters:
n prompts, L layers, N heads.
"""

from collections.abc import Sequence
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from experiments.refusal_tuning.asked import Asked, check_pair
from experiments.stats.intervals import number_units
from experiments.stats.resampling import draw, estimate
import gemma_jax as gj
from gemma_jax.weights import is_norm

KINDS = ('all', 'layers', 'attention', 'mlp', 'head', 'norms', 'embedding')
_HEADS = {'wq': 1, 'bq': 1, 'wo': 2}  # weight -> its axis of heads
_SHARED = ('wk', 'wv', 'bk', 'bv', 'bo')
_MLP = ('gate', 'up', 'down', 'gate_b', 'up_b', 'down_b')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Component:
  """Some weights of a model.

  Attributes:
    kind: One of KINDS; 'layers' is attention and MLPs of several layers.
    layers: Which.
    head: Number of the head; None for other kinds.
  """

  kind: str
  layers: tuple[int, ...] = ()
  head: int | None = None

  def __post_init__(self):
    if self.kind not in KINDS:
      raise ValueError(f'A component is one of {KINDS}, not {self.kind!r}.')
    if (self.head is not None) != (self.kind == 'head'):
      raise ValueError(
        f'{self.kind} with head={self.head}: only heads have one.'
      )

  @property
  def name(self) -> str:
    """For tables, such as 'L9H8' and 'mlp 3'."""
    if self.kind == 'head':
      return f'L{self.layers[0]}H{self.head}'
    if self.kind == 'layers':
      return f'layers {self.layers[0]} to {self.layers[-1]}'
    return ' '.join([self.kind, *map(str, self.layers)])

  def masks(self, config: gj.ModelConfig) -> dict[str, np.ndarray]:
    """Returns which weights it has: see `_mix`.

    Raises:
      ValueError: the model has no such layer or head.
    """
    L, N = config.num_layers, config.num_heads
    bad = [each for each in self.layers if not 0 <= each < L]
    if bad or (self.head is not None and not 0 <= self.head < N):
      raise ValueError(
        f'{self.name}: the model has layers 0 to {L - 1} and heads 0 to '
        f'{N - 1}.'
      )
    masks = {
      'heads': np.zeros((L, N), bool),
      'shared': np.zeros(L, bool),
      'mlp': np.zeros(L, bool),
      'norms': np.zeros((), bool),
      'embedding': np.zeros((), bool),
    }
    at = list(self.layers)
    if self.kind == 'all':
      return {name: np.ones_like(mask) for name, mask in masks.items()}
    if self.kind in ('attention', 'layers'):
      masks['heads'][at] = masks['shared'][at] = True
    if self.kind in ('mlp', 'layers'):
      masks['mlp'][at] = True
    if self.kind == 'head':
      masks['heads'][at[0], self.head] = True
    if self.kind in ('norms', 'embedding'):
      masks[self.kind] = np.ones((), bool)
    return masks


def components(
  config: gj.ModelConfig,
  *,
  heads_of: Sequence[int] = (),
  cut: int | None = None,
) -> list[Component]:
  """Returns every attention block and MLP, and what is apart from them.

  Args:
    config: Configuration of the models.
    heads_of: Layers whose heads are taken one by one too.
    cut: A layer; the layers up to it and those above it, as two components,
      say whether a change is above what is read there.
  """
  L = config.num_layers
  found = [Component(kind='all')]
  if cut is not None:
    parts = tuple(range(cut + 1)), tuple(range(cut + 1, L))
    found += [Component(kind='layers', layers=part) for part in parts if part]
  for kind in ('attention', 'mlp'):
    found += [Component(kind=kind, layers=(layer,)) for layer in range(L)]
  found += [
    Component(kind='head', layers=(layer,), head=head)
    for layer in heads_of
    for head in range(config.num_heads)
  ]
  return [*found, Component(kind='norms'), Component(kind='embedding')]


def patch_weights(
  before: gj.Decoder,
  after: gj.Decoder,
  asked: Asked,
  refusals: Sequence[int],
  which: Sequence[Component],
  *,
  against: Sequence[int] | None = None,
  back: bool = True,
  rows_per_batch: int = 64,
  seed: int = 0,
) -> dict:
  """Measures what each component's change does to refusing.

  Args:
    before: The untuned model, stacked.
    after: The tuned one.
    asked: n prompts; known and unknown ones are reported apart.
    refusals: Tokens that a refusal begins with.
    which: Components, from `components`.
    against: Tokens that answers begin with; None is the best of all others.
    back: If true, untuned components are put into the tuned model too.
    rows_per_batch: Prompts run at once; bounds memory.
    seed: Random seed of the resamples.

  Returns:
    'n'; 'log_odds': 'before', 'after' and 'change', in nats; 'components': for
    each its 'name', 'kind', 'layers', 'head', 'size' (the relative Frobenius
    norm of its change; None of no weights), and 'into' and 'back' (None if not
    asked for): 'effect' in nats, and 'share' of the change. All are over
    'known', 'unknown' and 'apart', where there are such prompts. Intervals
    resample entities; where the change's interval has 0, shares say nothing.

  Raises:
    ValueError: the models do not match, or a token or component does not exist.
  """
  check_pair(before, after)
  config = before.config
  masks = [component.masks(config) for component in which]
  refusals, against = (
    _tokens(config, refusals),
    (None if against is None else _tokens(config, against)),
  )
  if against is not None and set(refusals) & set(against):
    raise ValueError(
      f'Tokens {sorted(set(refusals) & set(against))} begin both refusals and '
      'answers; leave them out of one.'
    )
  read = _Reader(
    before, after, asked, refusals, against, min(rows_per_batch, len(asked))
  )
  nothing = jax.tree.map(np.zeros_like, Component(kind='all').masks(config))
  start = read(nothing)
  end = read(jax.tree.map(np.logical_not, nothing))
  means = _Means(asked, seed)

  def effects(values):
    found, shares = means.of(values), means.of(values, end - start)
    return {
      name: {'effect': found[name], 'share': shares[name]} for name in found
    }

  results = []
  for component, mask in zip(which, masks, strict=True):
    into = effects(read(mask) - start)
    reverse = None
    if back:
      reverse = effects(end - read(jax.tree.map(np.logical_not, mask)))
    results.append(
      {'name': component.name}
      | dataclasses.asdict(component)
      | {'size': change_size(before, after, mask)}
      | {'into': into, 'back': reverse}
    )
  return {
    'n': len(asked),
    'log_odds': {
      'before': means.of(start),
      'after': means.of(end),
      'change': means.of(end - start),
    },
    'components': results,
  }


def change_size(before: gj.Decoder, after: gj.Decoder, masks) -> float | None:
  """Returns |tuned - untuned| / |untuned| over the weights of a component.

  Args:
    before, after: The models, stacked.
    masks: From `Component.masks`.
  """
  squares = np.asarray(
    _squares(before.weights(), after.weights(), masks), np.float64
  )
  changed, whole = squares
  return float(np.sqrt(changed / whole)) if whole else None


class _Means:
  """Means over known and unknown prompts, and apart, resampling entities."""

  def __init__(self, asked, seed):
    which, units = number_units(asked.entities)
    counts = draw(len(units), np.random.default_rng(seed))[:, which]
    if len(units) < 2:
      counts[:] = np.nan
    self._weights = np.concatenate([np.ones((1, len(asked))), counts])
    groups = {'known': asked.known, 'unknown': ~asked.known}
    self._groups = {name: mine for name, mine in groups.items() if mine.any()}

  def of(self, values, over=None) -> dict[str, dict]:
    """Means of values [n], or what share they are of those of others."""
    means = self._means(values)
    if over is not None:
      whole = self._means(over)
      with np.errstate(divide='ignore', invalid='ignore'):
        means = {name: means[name] / whole[name] for name in means}
      for found in means.values():
        found[~np.isfinite(found)] = np.nan
    counts = {name: int(mine.sum()) for name, mine in self._groups.items()}
    counts['apart'] = len(values)
    return {
      name: estimate(found[0], found[1:], counts[name]).to_dict()
      for name, found in means.items()
    }

  def _means(self, values):
    """Name -> float64 [1 + R], the mean and its resamples."""
    found = {}
    for name, mine in self._groups.items():
      weights = self._weights[:, mine]
      total = weights.sum(1)
      some = np.full_like(total, np.nan)
      found[name] = np.divide(
        weights @ values[mine], total, out=some, where=total > 0
      )
    if len(found) > 1:
      found['apart'] = found['unknown'] - found['known']
    return found


class _Reader:
  """Log-odds [n] of hybrids, by one program."""

  def __init__(self, before, after, asked, refusals, against, size):
    self._weights = before.weights(), after.weights()
    self._config, self._n, self._size = before.config, len(asked), size
    self._batch = asked.padded(before.config.fill_id)
    self._tokens = (
      jnp.asarray(refusals),
      (None if against is None else jnp.asarray(against)),
    )

  def __call__(self, masks) -> np.ndarray:
    found = []
    for first in range(0, self._n, self._size):
      rows = np.minimum(np.arange(first, first + self._size), self._n - 1)
      odds = _log_odds(
        *self._weights,
        masks,
        self._batch.tokens[rows],
        self._batch.positions[rows],
        *self._tokens,
        config=self._config,
      )
      gj.check_finite(odds, self._weights[0]['embed'].dtype, 'Log-odds')
      found.append(odds)
    return np.concatenate(found)[: self._n].astype(np.float64)


@functools.partial(jax.jit, static_argnames='config')
def _log_odds(
  untuned, tuned, masks, tokens, positions, refusals, against, *, config
) -> jax.Array:
  """float32 [B], of a refusal against an answer, at the last tokens."""
  mixed = {
    name: _mix(name, untuned[name], tuned[name], masks) for name in untuned
  }
  model = gj.Decoder(config, mixed)
  logits = gj.forward(model, tokens, positions, logits_at='last').logits[:, 0]
  said = jax.nn.logsumexp(logits[:, refusals], axis=-1)
  if against is not None:
    return said - jax.nn.logsumexp(logits[:, against], axis=-1)
  return said - logits.at[:, refusals].set(-jnp.inf).max(-1)


def _mix(name, untuned, tuned, masks) -> jax.Array:
  """Returns one weight of a hybrid: the tuned one where its mask is set.

  Masks are 'heads' bool [L, N], 'shared' [L] (what a layer's heads share),
  'mlp' [L], 'norms' [] and 'embedding' [].
  """
  return jnp.where(_chosen(name, untuned, masks), tuned, untuned)


def _chosen(name, weight, masks) -> jax.Array:
  """Returns the mask of a weight, to broadcast with it."""
  if is_norm(name) or name.endswith('norm_b'):
    return masks['norms']
  if name in _HEADS:
    mask = jnp.asarray(masks['heads'])  # [L, N]
    axes = [i for i in range(1, weight.ndim) if i != _HEADS[name]]
    return jnp.expand_dims(mask, axes)
  if name in _SHARED or name in _MLP:
    mask = jnp.asarray(masks['shared' if name in _SHARED else 'mlp'])
    return mask.reshape(-1, *[1] * (weight.ndim - 1))
  return masks['embedding']


@jax.jit
def _squares(untuned, tuned, masks) -> jax.Array:
  """float32 [2], sums of squares of the change and of the untuned weights."""
  total = jnp.zeros(2)
  for name, weight in untuned.items():
    chosen = _chosen(name, weight, masks)
    old = weight.astype(jnp.float32)
    new = tuned[name].astype(jnp.float32)
    for i, part in enumerate((new - old, old)):
      total = total.at[i].add(jnp.where(chosen, part * part, 0).sum())
  return total


def _tokens(config: gj.ModelConfig, ids: Sequence[int]) -> list[int]:
  ids = sorted(set(map(int, ids)))
  if not ids or not 0 <= ids[0] <= ids[-1] < config.vocab_size:
    raise ValueError(
      f'Tokens {ids} were given, expected one or more of 0 to '
      f'{config.vocab_size - 1}.'
    )
  return ids
