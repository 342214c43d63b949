"""Where the attribute is written: extraction events at the last token.

A sublayer extracts a token if, of all tokens, its output points most to this
one: argmax over the vocabulary of out . E, E being the *input* embedding. No
norm is applied first, as published; the same after the final norm stands
beside it. The output is what is added to the stream, after a post-norm where
there is one. (Section 2.1 of the recall specification.)
"""

from collections.abc import Mapping, Sequence

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from experiments.factual_recall.dissection import (
  LAST,
  NON_SUBJECT,
  SUBJECT,
  CutEdges,
  can_cut,
  group_masks,
  recorded_batches,
)
from experiments.factual_recall.task_prompts import Prompts
from experiments.factual_recall.trace import Trace
from experiments.factual_recall.vocabulary_ranks import ranks
from experiments.stats.intervals import wilson_by_cluster
import gemma_jax as gj
from gemma_jax import layers
from gemma_jax.block import BlockContext, block
from gemma_jax.capture import Capture, take_positions
from gemma_jax.interventions import prepare
from gemma_jax.model import QUERY_CHUNK, rotary_by_layer

ATTENTION, MLP = 'attn_out', 'mlp_out'
# The published code projects outputs as they are.
RAW, NORMED = 'raw', 'normed'
# From which layers early states are taken, as published.
EARLY = (0, 1, 5, 10, 20)
# What the published code writes into attention's weights.
_PUBLISHED_CUT = -1e6


def extraction(
  model: gj.Decoder,
  prompts: Prompts,
  trace: Trace,
  targets: Mapping[str, np.ndarray],
  *,
  groups: Sequence[str] = (SUBJECT, NON_SUBJECT),
  reference: bool = False,
  rows_per_batch: int = 32,
) -> dict:
  """Measures how often each layer extracts the attribute.

  Args:
    model: Stacked.
    prompts: n of them.
    trace: Their run.
    targets: Name -> attribute tokens, int [n]; see `said_and_answer`.
    groups: For each, attention is measured again where the last token does not
      see it in that one layer, what enters the layer being as it was.
    reference: Measure that as the published code does too: it writes -1e6 into
      weights that are softmaxed already and applies softmax again, so that
      attention to all the rest is nearly uniform. A defect, for comparison.
    rows_per_batch: How many prompts are recorded at once; bounds memory.

  Returns:
    n; skipped: group -> how many prompts cannot lose it; rates: output ->
    'raw' and 'normed' -> target -> layers, [L] estimates, and any, one of an
    event in any layer. Outputs are 'attn_out', 'mlp_out', 'attn_out without
    <group>' and 'attn_out without <group>, published'. arrays:
    'event/output/raw/target', bool [L, n].
  """
  outputs = {ATTENTION: trace[ATTENTION], MLP: trace[MLP]}
  masks = group_masks(prompts, groups)
  rows_of, skipped = {}, {}
  fits = can_cut(model.config, prompts, masks)
  cut = _without(model, prompts, trace, masks, reference, rows_per_batch)
  for g, group in enumerate(groups):
    skipped[group] = int((~fits[g]).sum())
    for ending, found in zip(('', ', published'), cut, strict=False):
      name = f'{ATTENTION} without {group}{ending}'
      outputs[name], rows_of[name] = found[g], np.flatnonzero(fits[g])
  rates, arrays = {}, {}
  for name, found in outputs.items():
    rows = rows_of.get(name, np.arange(len(prompts)))
    units = [prompts.units[row] for row in rows]
    for variant in (RAW, NORMED):
      events = _events(model, found, targets, variant == NORMED)
      rates.setdefault(name, {})[variant] = {
        target: _rates(event[:, rows], units)
        for target, event in events.items()
      }
      for target, event in events.items():
        arrays[f'event/{name}/{variant}/{target}'] = event
  return {
    'n': len(prompts),
    'skipped': skipped,
    'rates': rates,
    'arrays': arrays,
  }


def extraction_after_early_patching(
  model: gj.Decoder,
  prompts: Prompts,
  trace: Trace,
  targets: Mapping[str, np.ndarray],
  *,
  early: Sequence[int] = EARLY,
  rows_per_batch: int = 32,
) -> dict:
  """Measures attention's extraction on early states of a group of tokens.

  What enters layer l at the group's tokens is replaced by what entered an
  early layer there; extraction in layer l, of the unnormed output, says what
  the layers between had put there for attention to read.

  Args:
    model: Stacked.
    prompts: n of them.
    trace: Their run.
    targets: Name -> attribute tokens, int [n].
    early: Early layers; those that have no layer above are dropped.
    rows_per_batch: How many prompts are recorded at once; bounds memory.

  Returns:
    n, early, dropped; groups: 'subject', 'non-subject' and 'last' -> n
    (prompts that have such tokens) and skipped,
    and str(early layer) -> target -> layers, estimates of the layers above it
    in order, any, an event in one of these, and any_clean, the same without
    patching; arrays: 'event/group/early layer/target', bool [L - 1 - early,
    n].
  """
  L, n = model.config.num_layers, len(prompts)
  groups = (SUBJECT, NON_SUBJECT, LAST)
  used = [layer for layer in early if layer < L - 1]
  masks = group_masks(prompts, groups)
  has = masks.any(-1)
  shape = (len(groups), n, model.config.d_model)
  outputs = {e: np.zeros((L - 1 - e, *shape), np.float32) for e in used}
  for rows, recording in recorded_batches(model, prompts, rows_per_batch):
    for layer in range(min(used, default=L - 1) + 1, L):
      for e in (each for each in used if each < layer):
        outputs[e][layer - e - 1][:, rows] = _on_early_states(
          model,
          recording,
          prompts.ends[rows][:, None],
          masks[:, rows],
          jnp.int32(layer),
          jnp.int32(e),
        )
  clean = _events(model, trace[ATTENTION], targets, False)
  result = {
    'n': n,
    'early': used,
    'dropped': [layer for layer in early if layer not in used],
    'groups': {},
    'arrays': {},
  }
  for g, group in enumerate(groups):
    rows = np.flatnonzero(has[g])
    units = [prompts.units[row] for row in rows]
    found = {'n': len(rows), 'skipped': n - len(rows)}
    for e in used:
      events = _events(model, outputs[e][:, g], targets, False)
      found[str(e)] = {}
      for target, event in events.items():
        without = clean[target][e + 1 :, rows].any(0)
        found[str(e)][target] = _rates(event[:, rows], units) | {
          'any_clean': wilson_by_cluster(without, units).to_dict()
        }
        result['arrays'][f'event/{group}/{e}/{target}'] = event
    result['groups'][group] = found
  return result


def _events(model, outputs, targets, normed) -> dict[str, np.ndarray]:
  """Target -> bool [L, n], whether outputs [L, n, D] extract tokens [n]."""
  L, n, D = outputs.shape
  vectors = np.asarray(outputs, np.float32).reshape(L * n, D)
  if normed:
    vectors = np.asarray(_final_norm(model, vectors))
  tokens = np.stack([np.tile(each, L) for each in targets.values()], axis=1)
  first = ranks(model.embed[...], vectors, tokens) == 0
  return {target: first[:, i].reshape(L, n) for i, target in enumerate(targets)}


@jax.jit
def _final_norm(model, x):
  return layers.norm(model.config, x, model.final_norm, model.final_norm_b)


def _rates(events, units) -> dict:
  """Estimates of events bool [L, m], per layer and in any of them."""
  return {
    'layers': [wilson_by_cluster(row, units).to_dict() for row in events],
    'any': wilson_by_cluster(events.any(0), units).to_dict(),
  }


def _without(model, prompts, trace, masks, reference, rows_per_batch):
  """attn_out without each group in one layer, [1 or 2, G, L, n, D].

  The second, with `reference`, is that of the published code.
  """
  L, n, D = model.config.num_layers, len(prompts), model.config.d_model
  found = np.zeros((1 + reference, len(masks), L, n, D), np.float32)
  for rows, recording in recorded_batches(model, prompts, rows_per_batch):
    ends = prompts.ends[rows][:, None]
    for layer in range(L):
      number = jnp.int32(layer)
      found[0, :, layer, rows] = np.swapaxes(
        _cut(model, recording, ends, masks[:, rows], number), 0, 1
      )
      if reference:
        found[1, :, layer, rows] = np.swapaxes(
          _published_cut(
            model,
            recording,
            ends,
            masks[:, rows],
            number,
            trace.pattern[layer, rows],
          ),
          0,
          1,
        )
  return found


@jax.jit
def _cut(model, recording, ends, keys, layer):
  """attn_out [G, n, D] of a layer whose last token does not see keys."""
  x = recording.stream[layer]

  def one(keys):
    changes = [CutEdges.from_last(keys)]
    return _attention_out(model, recording, x, ends, layer, changes)

  return jax.vmap(one)(keys)


@jax.jit
def _published_cut(model, recording, ends, keys, layer, pattern):
  """Returns the same from the uncut pattern [n, N, S], by a second softmax."""
  x, values = recording.stream[layer], recording.v[layer]
  real = (recording.positions >= 0)[:, None]

  def one(keys):
    cut = _at_slots(recording, keys)[:, None]
    weights = jnp.where(cut, _PUBLISHED_CUT, pattern)
    weights = jax.nn.softmax(weights, axis=-1, where=real)
    z = layers.attention_values(weights[:, :, None], [values])
    z = z.reshape(*z.shape[:2], -1)
    changes = [gj.patch('z', source=z, positions='last')]
    return _attention_out(model, recording, x, ends, layer, changes)

  return jax.vmap(one)(keys)


@jax.jit
def _on_early_states(model, recording, ends, masks, layer, early):
  """attn_out [G, n, D] of a layer that reads an early one's states.

  Args:
    model: Stacked.
    recording: Recording of n prompts.
    ends: int32 [n, 1], their last positions.
    masks: bool [G, n, positions], where states are early.
    layer, early: int32 scalars.
  """
  now, then = recording.stream[layer], recording.stream[early]

  def one(mask):
    x = jnp.where(_at_slots(recording, mask)[..., None], then, now)
    return _attention_out(model, recording, x, ends, layer, [])

  return jax.vmap(one)(masks)


def _at_slots(recording, mask):
  """bool [n, S] at slots, of a mask [n, positions]."""
  slots = recording.positions
  chosen = jnp.take_along_axis(mask, jnp.maximum(slots, 0), axis=1)
  return chosen & (slots >= 0)


def _attention_out(model, recording, x, ends, layer, changes):
  """attn_out [n, D] at the last tokens of one layer that x [n, S, D] enters.

  The MLP is not asked for, so that the compiler leaves it out.
  """
  config = model.config
  run = BlockContext(
    config=config,
    positions=recording.positions,
    key_positions=recording.positions,
    rotary=rotary_by_layer(config, recording.positions),
    interventions=prepare(changes, config, recording.positions),
    capture=Capture(sites=(ATTENTION,)),
    cache_length=None,
    cache_is_empty=False,
    prefix=None,
    query_chunk=QUERY_CHUNK,
  )
  weights = jax.tree.map(
    lambda a: lax.dynamic_index_in_dim(a, layer, keepdims=False), model.blocks
  )
  window = jnp.asarray(config.windows)[layer]
  _, seen, _ = block(run, weights, layer, window, x, None)
  out = take_positions(seen[ATTENTION], recording.positions, ends)
  return out[:, 0].astype(jnp.float32)
