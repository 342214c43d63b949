"""Which sublayers enrich a subject: its attributes rate without some of them.

What MLPs, or attention, add to the stream is set to 0 in several layers in a
row, and the rate is measured after the last of these and after a late layer.
(Geva et al. 2023; section 2.1 of the recall specification.)
"""

from collections.abc import Callable, Sequence
import functools

import jax
import jax.numpy as jnp
import numpy as np

from experiments.factual_recall.attributes import Attributes, estimate_rates
from experiments.factual_recall.dissection import Kept, kept_batches
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
  site: str = 'mlp_out',
  width: int = 10,
  layer: int | None = None,
  starts: Sequence[int] | None = None,
  everywhere: bool = False,
  reference: bool = False,
  rows_per_batch: int = 32,
  seed: int = 0,
  on_window: Callable[[], None] = lambda: None,
) -> dict:
  """Measures the rate at the subject's last token without some sublayers.

  What MLPs, or attention, add to the stream is 0 in `width` layers in a row.

  Args:
    model: Stacked.
    prompts: n of them.
    tokens: n lists; see `attribute_tokens`.
    site: 'mlp_out' or 'attn_out'.
    width: How many layers.
    layer: After which the rate is measured; None is five sixths of the way up,
      as layer 40 of GPT-2 XL's 48 is.
    starts: First layers of the windows; None is all up to that layer.
    everywhere: At all tokens, as the published code does, so that what the
      subject's last token reads of others changes too; all tokens are run
      again. Else at this one alone, which is much cheaper.
    reference: One layer more, as in the published code.
    rows_per_batch: How many prompts are kept at once; bounds memory.
    seed: Random seed of the controls and of the resamples.
    on_window: Called after each window of a batch.

  Returns:
    n, site, width, layer, everywhere; windows: [m] of [first, stop); clean and
    at_layer: own, control and difference, estimates of the rate after `layer`,
    [1] and [m]; change: the same of the second less the first; after_window and
    clean_after_window: [m], after the last layer of each window; arrays:
    'clean' float64 [L, n, 2], 'at_layer' and 'after_window' [m, n, 2].

  Raises:
    ValueError: there is no such site or layer.
  """
  L, n = model.config.num_layers, len(prompts)
  layer = 5 * L // 6 if layer is None else layer
  starts = range(layer + 1) if starts is None else starts
  if site not in ('mlp_out', 'attn_out'):
    raise ValueError(f"site={site!r} must be 'mlp_out' or 'attn_out'.")
  if not all(0 <= each <= layer < L for each in starts):
    raise ValueError(
      f'Windows start at {list(starts)} and are measured after layer {layer}; '
      f'the model has layers 0 to {L - 1}.'
    )
  width = width + reference
  windows = [[each, min(each + width, L)] for each in starts]
  attributes = Attributes.of(prompts, tokens, seed)
  clean = np.zeros((L, n, 2))
  found = np.zeros((2, len(windows), n, 2))
  for rows, kept in kept_batches(model, prompts, rows_per_batch):
    at = prompts.spans[rows][:, 1:] - 1
    streams = [_streams_at(kept, at)]
    for first, stop in windows:
      off = (np.arange(L) >= first) & (np.arange(L) < stop)
      after = _streams_without(
        model,
        kept,
        at,
        jnp.int32(first),
        jnp.int32(max(layer + 1, stop)),
        off,
        site=site,
        everywhere=everywhere,
      )
      streams.append(np.asarray(after, np.float32)[[layer, stop - 1]])
      on_window()
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
    'everywhere': everywhere,
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


def _streams_at(kept, positions) -> np.ndarray:
  """float32 [L, n, D], resid_post at positions int32 [n, 1]."""
  places = (np.asarray(kept.slots) == positions).argmax(1)
  rows = np.arange(len(places))
  return np.asarray(kept.stream[1:, rows, places], np.float32)


@functools.partial(jax.jit, static_argnames=('site', 'everywhere'))
def _streams_without(
  model, kept: Kept, at, first, upto, off, *, site, everywhere
):
  """resid_post [L, n, D] at positions `at`, with a site 0 in some layers.

  Args:
    model: Stacked.
    kept: Kept of n prompts.
    at: int32 [n, 1].
    first: int32 scalar, the first of these layers. Layers below give 0.
    upto: int32 scalar, the first layer that is not run; it gives 0 too.
    off: bool [L].
    site: Static.
    everywhere: Static; at all tokens, or at `at` alone.
  """
  config = model.config
  if everywhere:
    x, positions, before = kept.stream[first], kept.slots, None
  else:
    x, positions, before = kept.stream_at(first, at), at, kept.before(at)
  changes = [gj.patch(site, 0.0, layers=off)]
  _, seen, _ = run_blocks(
    model,
    x,
    positions,
    interventions=prepare(changes, config, positions),
    capture=Capture(
      sites=('resid_post',),
      layers=jnp.arange(config.num_layers),
      positions=at,
    ),
    prefix=before,
    first_layer=first,
    num_layers=upto,
  )
  return seen['resid_post'][:, :, 0]
