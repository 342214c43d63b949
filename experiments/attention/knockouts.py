"""Sweeps of attention knockouts: edges x windows of layers x sets of heads.

Knocking out edges of some queries changes nothing before the first of them, nor
below the first layer of the window. So a sweep runs every prompt once, and then
only the tokens from that query on, from that layer on: for edges of the last
token, one token. All windows are one compiled call; edges and heads are rows.
"""

from collections.abc import Sequence
import dataclasses
import functools

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from experiments.attention.cases import Case, pad_cases
from experiments.attention.edges import Edges, edge_masks
from experiments.attention.resuming import (
  PROMPT_AXES,
  last_positions,
  record,
  resume,
)
from experiments.attention.windows import HeadSet, Window
import gemma_jax as gj
from gemma_jax.costs import block_flops, unembedding_flops
from sae.jumprelu import Latents, encode


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Sweep:
  """Holds what knockouts do to P prompts.

  Row 0 of the first axis is the model as it is; W windows follow.

  Attributes:
    log_prob: float32 [1 + W, P, R], log-probability that one of the wanted
      tokens comes next.
    says: bool [1 + W, P, R], whether the likeliest token is one of them.
    latents: float32 [1 + W, P, R, 2, k], activations at the entity's last token
      and at the prompt's; NaN at the former if it is not run again: nothing
      changes there.
  """

  log_prob: np.ndarray
  says: np.ndarray
  latents: np.ndarray


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, kw_only=True)
class CutHeads(gj.Knockout):
  """A knockout whose heads differ from layer to layer.

  Attributes:
    cells: bool [R, L, N], heads that lose their view.
  """

  cells: jax.Array

  @classmethod
  def of(cls, queries, keys, cells) -> 'CutHeads':
    """Returns the knockout of queries and keys bool [R, S], by position."""
    whole = gj.knock_out_attention(
      queries=gj.per_row(queries), keys=gj.per_row(keys)
    )
    return cls(**vars(whole), cells=cells)

  def cuts(self, layer, query_positions, key_positions, config) -> jax.Array:
    """Returns the edges that are cut, bool [B, N, T, S]."""
    whole = super().cuts(layer, query_positions, key_positions, config)
    return whole & self.cells[:, layer, :, None, None]


def rows_of(
  edges: Sequence[Edges], heads: Sequence[HeadSet]
) -> list[tuple[Edges, HeadSet]]:
  """Returns the rows of a sweep, in order."""
  return [(edge, some) for edge in edges for some in heads]


def knock_out(
  model: gj.Decoder,
  cases: Sequence[Case],
  edges: Sequence[Edges],
  windows: Sequence[Window],
  heads: Sequence[HeadSet],
  wanted: Sequence[Sequence[int]],
  watched: Sequence[Latents] = (),
  *,
  length: int | None = None,
  count: int | None = None,
) -> Sweep:
  """Runs a sweep.

  Args:
    model: The model, stacked.
    cases: P prompts.
    edges: E sets of edges.
    windows: W windows of layers.
    heads: Sets of heads; R is E times as many.
    wanted: Wanted of each prompt, the tokens that are asked for next.
    watched: k latents whose activations are measured, each by itself.
    length: Tokens that prompts are padded to. Default: those of the longest.
    count: Tokens of each prompt that are run again. Default: as many as needed.
      Calls with the same length and count share a program.
  """
  length = length or max(case.length for case in cases)
  count = count or tokens_again(cases, edges)
  first = [min(edge.first(case) for edge in edges) for case in cases]
  batch = pad_cases(cases, model.config.fill_id, length)
  queries, keys = edge_masks(edges, cases, length)
  cuts = cut_heads(windows, heads)  # [W, heads, L, N]
  E, h = len(edges), len(heads)
  last = [(case.span[1] - 1, case.length - 1) for case in cases]
  most = max(map(len, wanted))
  tokens = [[*each, *[-1] * (most - len(each))] for each in wanted]
  out = _sweep(
    model,
    record(model, *batch),
    last_positions(batch.positions, np.array(first, np.int32), count),
    np.repeat(queries, h, axis=1),
    np.repeat(keys, h, axis=1),
    np.tile(cuts, (1, E, 1, 1)),
    starts(cuts),
    np.array(tokens, np.int32),
    np.array(last, np.int32),
    tuple(watched),
  )
  log_prob, says, latents = jax.tree.map(np.array, out)
  # Where no token is wanted, its logarithm is -inf.
  gj.check_finite(
    np.where(np.isneginf(log_prob), 0, log_prob).swapaxes(0, 1),
    model.dtype,
    'Log-probabilities',
  )
  again = [f <= at for f, (at, _) in zip(first, last, strict=True)]
  latents[:, ~np.array(again), :, 0] = np.nan
  return Sweep(log_prob=log_prob, says=says, latents=latents)


def tokens_again(cases: Sequence[Case], edges: Sequence[Edges]) -> int:
  """Returns T, the most tokens from the first query to a prompt's end."""
  return max(case.length - edge.first(case) for case in cases for edge in edges)


def cut_heads(
  windows: Sequence[Window], heads: Sequence[HeadSet]
) -> np.ndarray:
  """Returns which heads are cut, bool [W, sets of heads, L, N]."""
  layers = np.stack([window.layers for window in windows])
  sets = np.stack([each.heads for each in heads])
  return layers[:, None, :, None] & sets[None]


def starts(cuts: np.ndarray) -> np.ndarray:
  """Returns the first layer where heads are cut, int32 [W]; else the last."""
  any_head = cuts.any(axis=(1, 3))  # [W, L]
  first = np.where(any_head.any(1), any_head.argmax(1), cuts.shape[2] - 1)
  return first.astype(np.int32)


def sweep_flops(
  config: gj.ModelConfig,
  cases: Sequence[Case],
  edges: Sequence[Edges],
  windows: Sequence[Window],
  heads: Sequence[HeadSet],
) -> dict[str, int]:
  """Returns operations of `knock_out`, and of running every row whole.

  Attention's scores are left out: below 1 % at the length of a prompt.
  """
  L, layer = config.num_layers, block_flops(config)
  logits = unembedding_flops(config)
  rows, P = len(edges) * len(heads), len(cases)
  tokens = sum(case.length for case in cases)
  again = P * tokens_again(cases, edges)
  first = starts(cut_heads(windows, heads))
  shared = (tokens + again) * L * layer + P * logits
  swept = sum(
    rows * (again * (L - int(start)) * layer + P * logits) for start in first
  )
  naive = (1 + len(windows) * rows) * (tokens * L * layer + P * logits)
  return {'flops': shared + swept, 'naive_flops': naive}


@jax.jit
def _sweep(
  model,
  recording: gj.Recording,
  again,
  queries,
  keys,
  cuts,
  starts,
  wanted,
  places,
  watched: tuple[Latents, ...],
):
  """Returns the arrays of a Sweep.

  Args:
    model: The model, stacked.
    recording: Recording of P prompts.
    again: int32 [P, T], positions that are run again, -1 for none.
    queries, keys: bool [P, R, S], by position.
    cuts: bool [W, R, L, N], heads that are cut.
    starts: int32 [W], the first layer where any is.
    wanted: int32 [P, A], tokens that are asked for next, -1 for none.
    places: int32 [P, 2], positions where latents are measured.
    watched: The latents.
  """
  config = model.config
  L, N, k = config.num_layers, config.num_heads, len(watched)
  R = queries.shape[1]

  def one(
    recording, again, queries, keys, wanted, places, found, *, start, cuts
  ):
    """Runs a prompt; returns [R], [R], and [R, 2, k] made of what was found."""
    at = again == places[:, None]  # [2, T]

    def read(weights, layer, seen, found):
      for i, each in enumerate(watched):
        x = jnp.einsum(
          'RTW,iT->RiW',
          seen[each.site].astype(jnp.float32),
          at.astype(jnp.float32),
          precision=lax.Precision.HIGHEST,
        )
        new = encode(each, x.astype(model.dtype))[..., 0]
        new = new.astype(jnp.float32)
        old = found[:, :, i]
        found = found.at[:, :, i].set(jnp.where(layer == each.layer, new, old))
      return found

    rows = len(cuts)
    x, found = resume(
      model,
      recording,
      again,
      start,
      rows=rows,
      interventions=[CutHeads.of(queries[:rows], keys[:rows], cuts)],
      sites=tuple(dict.fromkeys(each.site for each in watched)),
      read=read,
      found=found,
    )
    logits = gj.unembed(model, x[:, -1])
    right = jnp.where(wanted >= 0, logits[:, jnp.clip(wanted, 0)], -jnp.inf)
    log_prob = jax.nn.logsumexp(right, -1) - jax.nn.logsumexp(logits, -1)
    says = (logits.argmax(-1)[:, None] == wanted).any(-1)
    return log_prob, says, found

  def prompts(found, start, cuts):
    mapped = jax.vmap(
      functools.partial(one, start=start, cuts=cuts),
      in_axes=(PROMPT_AXES, 0, 0, 0, 0, 0, 0),
    )
    return mapped(recording, again, queries, keys, wanted, places, found)

  P = queries.shape[0]
  nothing = jnp.zeros((1, L, N), bool)
  uncut = prompts(jnp.zeros((P, 1, 2, k)), jnp.int32(0), nothing)
  uncut = jax.tree.map(
    lambda a: jnp.broadcast_to(a, (P, R, *a.shape[2:])), uncut
  )
  cut = lax.map(lambda each: prompts(uncut[2], *each), (starts, cuts))
  return jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), uncut, cut)
