"""What the last token must see, and where: attention knockouts in windows.

In `width` layers around each layer, the last token loses its view of a group
of tokens, in all heads; what becomes of the probability of the attribute says
whether that view carried it. (Section 2.1 of the recall specification.)

Only the last token is run again, from the window's first layer on: nothing
else changes. All windows share a program.
"""

from collections.abc import Mapping, Sequence
import functools

import jax
import jax.numpy as jnp
import numpy as np

from experiments.factual_recall.dissection import (
  GROUPS,
  CutEdges,
  can_cut,
  group_masks,
  recorded_batches,
  seen_before,
)
from experiments.factual_recall.task_prompts import Prompts
from experiments.factual_recall.trace import Trace, by_logits
from experiments.stats.intervals import cluster_bootstrap_ratio
from experiments.stats.resampling import cluster_bootstrap_means
import gemma_jax as gj
from gemma_jax.capture import Capture
from gemma_jax.interventions import prepare
from gemma_jax.model import run_blocks


def knock_out_windows(
  model: gj.Decoder,
  prompts: Prompts,
  trace: Trace,
  targets: Mapping[str, np.ndarray],
  *,
  width: int = 9,
  groups: Sequence[str] = GROUPS,
  rows_per_batch: int = 32,
  seed: int = 0,
) -> dict:
  """Cuts the last token's view of each group in a window around each layer.

  Args:
    model: Stacked.
    prompts: n of them.
    trace: Their run.
    targets: Name -> attribute tokens, int [n]; see `said_and_answer`.
    width: How many layers a window has; see `gj.layer_window`.
    groups: One of GROUPS.
    rows_per_batch: How many prompts are recorded at once; bounds memory.
    seed: Random seed of the resamples.

  Returns:
    width, n; windows: [L] of [first, stop); groups: group -> n, skipped (how
    many prompts have nothing to cut, or would be left with nothing to see) and
    target -> change, [L] estimates of the mean of 100 (p - p0) / p0, the
    published metric, and change_of_mean, [L] estimates of 100 (mean p - mean
    p0) / mean p0, which small p0 do not sway; arrays: 'log_prob/target', nats
    float64 [G, L, n], NaN where skipped, and 'clean/target', [n].
  """
  config = model.config
  L, n, G = config.num_layers, len(prompts), len(groups)
  masks = group_masks(prompts, groups)
  fits = can_cut(config, prompts, masks)
  names = list(targets)
  tokens = np.stack([targets[name] for name in names], axis=1)  # [n, k]
  entering = trace['resid_pre']
  clean = log_probs(model, trace.final, tokens).astype(np.float64)
  found = np.zeros((G, L, n, len(names)))
  for rows, recording in recorded_batches(model, prompts, rows_per_batch):
    asked = np.tile(tokens[rows], (G, 1))
    for layer in range(L):
      streams = _streams_without(
        model,
        recording,
        entering[:, rows],
        prompts.ends[rows][:, None],
        masks[:, rows],
        jnp.int32(layer),
        width=width,
      )
      streams = streams.reshape(G * len(rows), -1)
      after = log_probs(model, streams, asked)
      found[:, layer, rows] = after.reshape(G, len(rows), -1)
  found[~fits[:, None].repeat(L, 1)] = np.nan
  result = {
    'width': width,
    'n': n,
    'windows': windows(L, width),
    'groups': {},
    'arrays': {f'clean/{name}': clean[:, i] for i, name in enumerate(names)},
  }
  for i, name in enumerate(names):
    result['arrays'][f'log_prob/{name}'] = found[..., i]
  for g, group in enumerate(groups):
    some = np.flatnonzero(fits[g])
    units = [prompts.units[row] for row in some]
    result['groups'][group] = {'n': len(some), 'skipped': n - len(some)} | {
      name: _changes(found[g][:, some, i], clean[some, i], units, seed)
      for i, name in enumerate(names)
    }
  return result


def windows(num_layers: int, width: int) -> list[list[int]]:
  """Returns the [first, stop) of the window around each layer."""
  found = gj.layer_window(gj.per_row(np.arange(num_layers)), width, num_layers)
  return np.stack([found.start, found.stop], axis=1).tolist()


def log_probs(
  model: gj.Decoder, streams: np.ndarray, tokens: np.ndarray
) -> np.ndarray:
  """Returns log-probabilities, nats float32 [m, k], of what comes next.

  Args:
    model: Unembeds, a few streams at a time.
    streams: [m, D], leaving the last layer.
    tokens: int [m, k].
  """
  return by_logits(_log_probs, model, streams, tokens)


@jax.jit
def _log_probs(model, streams, tokens):
  logits = gj.unembed(model, streams.astype(model.dtype))
  asked = jnp.take_along_axis(logits, tokens, axis=1)
  return asked - jax.nn.logsumexp(logits, axis=1, keepdims=True)


@functools.partial(jax.jit, static_argnames='width')
def _streams_without(model, recording, entering, ends, keys, center, *, width):
  """Last streams [G, n, D] without keys in the window around a layer.

  Args:
    model: Stacked.
    recording: Recording of n prompts.
    entering: [L, n, D], resid_pre at their last tokens.
    ends: int32 [n, 1], their last positions.
    keys: bool [G, n, positions].
    center: int32 scalar, the layer.
    width: Width of the window.
  """
  config = model.config
  window = gj.layer_window(center, width, config.num_layers)
  first = window.start[0]
  before = seen_before(recording, ends)

  def one(keys):
    x, _, _ = run_blocks(
      model,
      entering[first][:, None].astype(model.dtype),
      ends,
      interventions=prepare([CutEdges.from_last(keys, window)], config, ends),
      capture=Capture(sites=()),
      prefix=before,
      first_layer=first,
      num_layers=config.num_layers,
    )
    return x[:, 0]

  return jax.vmap(one)(keys)


def _changes(log_prob, clean, units, seed) -> dict:
  """Estimates per layer, of log_prob [L, m] against clean [m]."""
  ratios = 100 * np.expm1(log_prob - clean)
  before, after = np.exp(clean), np.exp(log_prob)
  means = cluster_bootstrap_means(ratios.T, units, seed) if units else []
  of_mean = [
    cluster_bootstrap_ratio(100 * (row - before), before, units, seed)
    for row in after
  ]
  return {
    'change': [each.to_dict() for each in means],
    'change_of_mean': [each.to_dict() for each in of_mean],
  }
