"""What dissecting recall works on: groups of tokens, and a run that is kept.

Geva et al. 2023 ("Dissecting Recall of Factual Associations", arXiv 2304.14767;
section 2.1 of the recall specification) ask how a fact reaches the last token:

  knockout_windows.py  what the last token must see, and in which layers
  extraction.py        in which layer attention or an MLP writes the attribute
  enrichment.py        how much of its attributes a subject's token holds

All ask it of one run of the prompts, whose streams, keys and values are kept.
Letters: n prompts, S slots (the shared prefix, then a row's own tokens), G
groups, and those of the library.
"""

from collections.abc import Iterator, Sequence
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from experiments.factual_recall.task_prompts import Prompts
from experiments.factual_recall.trace import Trace, batches, outcomes
import gemma_jax as gj

SUBJECT, NON_SUBJECT, LAST = 'subject', 'non-subject', 'last'
# Many models park attention at the first token: cutting it is a change by
# itself, so that the others are cut without it too.
NON_SUBJECT_NOR_FIRST = 'non-subject nor first'
GROUPS = (SUBJECT, NON_SUBJECT, NON_SUBJECT_NOR_FIRST, LAST)
# What an attribute is: what the model says, as published, or the task's answer.
SAID, ANSWER = 'said', 'answer'


def said_and_answer(
  model: gj.Decoder, prompts: Prompts, trace: Trace
) -> dict[str, np.ndarray]:
  """Returns the attribute tokens of n prompts, int [n], under both readings."""
  said = outcomes(model, trace.final, prompts.answers).top
  return {SAID: said, ANSWER: prompts.answers}


def group_masks(prompts: Prompts, groups: Sequence[str]) -> np.ndarray:
  """Returns bool [G, n, positions]: which positions each group has.

  'subject' is its tokens, 'non-subject' all others, BOS and demonstrations
  too; neither has the last token, which is 'last' even if it is the subject's.

  Raises:
    ValueError: a group is unknown.
  """
  at = np.arange(int(prompts.ends.max()) + 1)
  ends = prompts.ends[:, None]
  earlier = at < ends
  subject = (at >= prompts.spans[:, :1]) & (at < prompts.spans[:, 1:])
  masks = {
    SUBJECT: subject & earlier,
    NON_SUBJECT: ~subject & earlier,
    NON_SUBJECT_NOR_FIRST: ~subject & earlier & (at > 0),
    LAST: at == ends,
  }
  for group in groups:
    if group not in masks:
      raise ValueError(f'No group is {group!r}; they are {", ".join(GROUPS)}.')
  return np.stack([masks[group] for group in groups])


def can_cut(
  config: gj.ModelConfig, prompts: Prompts, masks: np.ndarray
) -> np.ndarray:
  """Returns bool [G, n]: whether a prompt's last token can lose a group.

  It must have a token of the group, and see another one in every layer: with
  nothing to see, attention would be uniform.
  """
  distance = prompts.ends[:, None] - np.arange(masks.shape[-1])
  seen = (distance >= 0) & (distance < config.windows.min())
  return masks.any(-1) & (seen & ~masks).any(-1)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class CutEdges(gj.Knockout):
  """A knockout that cuts what it is told to, a token's view of itself too."""

  @classmethod
  def from_last(cls, keys: jax.Array, layers=None) -> 'CutEdges':
    """Returns the cut of the last token's view of keys, bool [n, positions]."""
    whole = gj.knock_out_attention(
      queries='last', keys=gj.per_row(keys), layers=layers
    )
    return cls(**vars(whole))

  def cuts(self, layer, query_positions, key_positions, config) -> jax.Array:
    """bool [B, N, T, S]: the edges to remove."""
    heads = self.heads.gate(jnp.arange(config.num_heads)[None]) > 0
    heads &= self.layers.gate(jnp.full((1, 1), layer)) > 0
    queries = self.queries.gate(query_positions) > 0
    keys = self.keys.gate(key_positions) > 0
    edges = queries[:, :, None] & keys[:, None, :]
    return heads[:, :, None, None] & edges[:, None]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class Kept:
  """Holds what a run of n prompts left at all tokens.

  Attributes:
    slots: int32 [n, S], positions; -1 is padding.
    stream: [L + 1, n, S, D], resid_pre of every layer, and what leaves the
      last one.
    k, v: [L, n, K, S, H], rotated keys, and values.
  """

  slots: jax.Array
  stream: jax.Array
  k: jax.Array
  v: jax.Array

  def before(self, positions: jax.Array) -> gj.Cache:
    """Returns what tokens at positions int32 [n, 1] see of earlier ones."""
    slots = jnp.where(self.slots < positions, self.slots, -1)
    length = jnp.int32(self.slots.shape[1])
    return gj.Cache(k=self.k, v=self.v, positions=slots, length=length)

  def stream_at(self, layer: jax.Array, positions: jax.Array) -> jax.Array:
    """Returns what enters a layer at positions int32 [n, 1], [n, 1, D]."""
    places = (self.slots == positions).argmax(1)[:, None, None]
    return jnp.take_along_axis(self.stream[layer], places, axis=1)


def keep(model: gj.Decoder, prompts: Prompts) -> Kept:
  """Runs prompts, their shared prefix once."""
  tokens, positions = prompts.tokens, prompts.positions
  if not len(prompts.prefix):
    return _keep(model, tokens, positions, None)
  before = _record(model, prompts.prefix[None])
  return _keep(model, tokens, positions, before)


def kept_batches(
  model: gj.Decoder, prompts: Prompts, size: int
) -> Iterator[tuple[np.ndarray, Kept]]:
  """Yields numbers of rows, `size` at most, and what is kept of them.

  Batches are as even as possible, and all of one length: the last is filled up
  with its last row.
  """
  for rows in batches(len(prompts), size):
    yield rows, keep(model, prompts.take(rows))


@jax.jit
def _record(model, tokens) -> gj.Recording:
  return gj.record(model, tokens)


@jax.jit
def _keep(model, tokens, positions, before: gj.Recording | None) -> Kept:
  config = model.config
  B, T = tokens.shape
  prefix = None
  if before is not None:
    length = jnp.int32(before.positions.shape[1])
    prefix = gj.Cache(
      k=before.k, v=before.v, positions=before.positions, length=length
    )
  out = gj.forward(
    model,
    tokens,
    positions,
    capture=gj.Capture(sites=('resid_pre', 'resid_post')),
    cache=gj.Cache.empty(config, B, T, model.dtype),
    cache_is_empty=True,
    prefix=prefix,
  )
  kept = Kept(
    slots=positions,
    stream=jnp.concatenate([out['resid_pre'], out['resid_post'][-1:]]),
    k=out.cache.k,
    v=out.cache.v,
  )
  if before is None:
    return kept

  def joined(shared, own, rows_axis, slots_axis):
    shape = list(shared.shape)
    shape[rows_axis] = B
    return jnp.concatenate([jnp.broadcast_to(shared, shape), own], slots_axis)

  return Kept(
    slots=joined(before.positions, kept.slots, 0, 1),
    stream=joined(before.stream, kept.stream, 1, 2),
    k=joined(before.k, kept.k, 1, 3),
    v=joined(before.v, kept.v, 1, 3),
  )
