"""What dissecting recall works on: groups of tokens, and a recorded run.

Geva et al. 2023 ("Dissecting Recall of Factual Associations", arXiv 2304.14767;
section 2.1 of the recall specification) ask how a fact reaches the last token:

  knockout_windows.py  what the last token must see, and in which layers
  extraction.py        in which layer attention or an MLP writes the attribute
  enrichment.py        how much of its attributes a subject's token holds

All ask it of one recorded run of the prompts.
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


def record_prompts(model: gj.Decoder, prompts: Prompts) -> gj.Recording:
  """Runs prompts, their shared prefix once, whose slots come first."""
  prefix = _record(model, prompts.prefix[None]) if len(prompts.prefix) else None
  return _record(model, prompts.tokens, prompts.positions, prefix=prefix)


def recorded_batches(
  model: gj.Decoder, prompts: Prompts, size: int
) -> Iterator[tuple[np.ndarray, gj.Recording]]:
  """Yields numbers of rows, `size` at most as in `batches`, and their run."""
  for rows in batches(len(prompts), size):
    yield rows, record_prompts(model, prompts.take(rows))


def seen_before(recording: gj.Recording, positions: jax.Array) -> gj.Cache:
  """Returns what tokens at positions int32 [n, 1] see of earlier ones."""
  slots = recording.positions
  return gj.Cache(
    k=recording.k,
    v=recording.v,
    positions=jnp.where(slots < positions, slots, -1),
    length=jnp.int32(slots.shape[1]),
  )


_record = jax.jit(gj.record)
