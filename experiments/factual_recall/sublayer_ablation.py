"""Which sublayers enrich a subject: its attributes rate without some of them.

What MLPs, or attention, add to the stream is set to 0 in several layers in a
row, and the rate is measured after the last of these and after a late layer.
(Geva et al. 2023; section 2.1 of the recall specification.)
"""

from collections.abc import Sequence
import functools

import jax
import jax.numpy as jnp
import numpy as np

from experiments.factual_recall.attributes import Attributes, estimate_rates
from experiments.factual_recall.dissection import recorded_batches, seen_before
from experiments.factual_recall.task_prompts import Prompts
import gemma_jax as gj
from gemma_jax.capture import Capture
from gemma_jax.interventions import prepare
from gemma_jax.model import run_blocks


def rate_without_sublayers(
  model: gj.Decoder,
  prompts: Prompts,
  tokens: Sequence[Sequence[int]],
  *,
  site: str,
  width: int,
  reference: bool = False,
  rows_per_batch: int = 32,
  seed: int = 0,
) -> dict:
  """Measures the rate at the subject's last token without some sublayers.

  What MLPs, or attention, add to the stream is 0 in `width` layers in a row, at
  this token alone; the published code has it so at all tokens, which changes
  what this one reads of others too.

  Args:
    model: Stacked.
    prompts: n of them.
    tokens: n lists; see `attribute_tokens`.
    site: 'mlp_out' or 'attn_out'.
    width: How many layers.
    reference: One layer more, as in the published code.
    rows_per_batch: How many prompts are recorded at once; bounds memory.
    seed: Random seed of the controls and of the resamples.

  Returns:
    n, site, width, everywhere (False); layer, five sixths of the way up, as
    layer 40 of GPT-2 XL's 48 is; windows: [m] of [first, stop), from each layer
    up to that one; clean and at_layer: own, control and difference, estimates
    of the rate after `layer`, [1] and [m]; change: the same of the second less
    the first; after_window and clean_after_window: [m], after the last layer of
    each window; arrays:
    'clean' float64 [L, n, 2], 'at_layer' and 'after_window' [m, n, 2].
  """
  L, n = model.config.num_layers, len(prompts)
  layer = 5 * L // 6
  width = width + reference
  windows = [[first, min(first + width, L)] for first in range(layer + 1)]
  attributes = Attributes.of(prompts, tokens, seed)
  clean = np.zeros((L, n, 2))
  found = np.zeros((2, len(windows), n, 2))
  for rows, recording in recorded_batches(model, prompts, rows_per_batch):
    at = prompts.spans[rows][:, 1:] - 1
    streams = [_streams_at(recording, at)]
    for first, stop in windows:
      off = (np.arange(L) >= first) & (np.arange(L) < stop)
      after = _streams_without(
        model,
        recording,
        at,
        jnp.int32(first),
        jnp.int32(max(layer + 1, stop)),
        off,
        site=site,
      )
      streams.append(np.asarray(after, np.float32)[[layer, stop - 1]])
    joined = np.concatenate(streams)  # [L + 2 m, b, D]
    of = np.broadcast_to(rows, joined.shape[:2])
    rates = attributes.rates(model, joined, of)[..., 0, :]
    clean[:, rows] = rates[:L]
    found[:, :, rows] = rates[L:].reshape(-1, 2, len(rows), 2).swapaxes(0, 1)
  at_layer, after_window = found
  ends = [stop - 1 for _, stop in windows]
  estimates = {
    'clean': clean[[layer]],
    'at_layer': at_layer,
    'change': at_layer - clean[layer],
    'after_window': after_window,
    'clean_after_window': clean[ends],
  }
  return {
    'n': n,
    'site': site,
    'width': width,
    'layer': layer,
    'everywhere': False,
    'windows': windows,
    'arrays': {
      'clean': clean,
      'at_layer': at_layer,
      'after_window': after_window,
    },
  } | {
    name: estimate_rates(rates, prompts.units, seed)
    for name, rates in estimates.items()
  }


def _streams_at(recording, positions) -> np.ndarray:
  """float32 [L, n, D], resid_post at positions int32 [n, 1]."""
  places = (np.asarray(recording.positions) == positions).argmax(1)
  rows = np.arange(len(places))
  return np.asarray(recording.stream[1:, rows, places], np.float32)


@functools.partial(jax.jit, static_argnames='site')
def _streams_without(model, recording, at, first, upto, off, *, site):
  """resid_post [L, n, D] at positions `at`, with a site 0 in some layers.

  Args:
    model: Stacked.
    recording: Recording of n prompts.
    at: int32 [n, 1].
    first: int32 scalar, the first of these layers. Layers below give 0.
    upto: int32 scalar, the first layer that is not run; it gives 0 too.
    off: bool [L].
    site: Static.
  """
  config = model.config
  places = (recording.positions == at).argmax(1)[:, None, None]
  changes = [gj.patch(site, 0.0, layers=off)]
  _, seen, _ = run_blocks(
    model,
    jnp.take_along_axis(recording.stream[first], places, axis=1),
    at,
    interventions=prepare(changes, config, at),
    capture=Capture(
      sites=('resid_post',),
      layers=jnp.arange(config.num_layers),
      positions=at,
    ),
    prefix=seen_before(recording, at),
    first_layer=first,
    num_layers=upto,
  )
  return seen['resid_post'][:, :, 0]
