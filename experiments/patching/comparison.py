"""The sweep that shares work against the one that does not: numbers, time."""

from collections.abc import Sequence
import time

import numpy as np

from experiments.patching import costs
from experiments.patching.cells import every_cell
from experiments.patching.effect_sizes import moved
from experiments.patching.naive_sweep import naive_sweep
from experiments.patching.pairs import Pair
from experiments.patching.runs import record_pairs
from experiments.patching.sweeps import first_difference, sweep
import gemma_jax as gj


def compare(
  model: gj.Decoder, pairs: Sequence[Pair], names: Sequence[str]
) -> dict:
  """Times denoising sweeps of the same pairs both ways, compiled before.

  Args:
    model: Stacked.
    pairs: Pairs, all of which are run at once.
    names: The maps.

  Returns:
    Per map and in total: operations by the formula of a naive sweep, by the
    formula of the minimum and as executed (the two recordings, which all maps
    share, are a line of their own), seconds of both, and the largest absolute
    difference of what they found. And `ends`, two patches whose effect is known
    without running them: the stream entering layer 0 at the last token, which
    both runs have in common, moves nothing; the one leaving the last layer
    there, which is all that the answer is read from, moves everything.
  """
  config = model.config
  base, donor = record_pairs(model, pairs, 'denoising')
  n, T = base.tokens.shape
  differ = first_difference(base, donor)
  rows = []
  for name in names:
    cells = every_cell(config, T, [name])
    one = {name: np.arange(cells[name].size).reshape(cells[name].shape) == 0}
    sweep(model, base, donor, cells)
    fast, seconds = _timed(sweep, model, base, donor, cells)
    whole = (model, base.tokens, donor.tokens, base.answers)
    naive_sweep(*whole, one)
    slow, naive_seconds = _timed(naive_sweep, *whole, cells)
    rows.append(
      {
        'map': name,
        'cells': int(cells[name].sum()),
        'naive_operations': costs.naive_cost(config, n, T, cells[name].size),
        'minimal_operations': costs.minimal_cost(config, n, T, name),
        'operations': costs.sweep_cost(config, n, T, differ, cells),
        'seconds': seconds,
        'naive_seconds': naive_seconds,
        'largest_difference': float(np.abs(fast[name] - slow[name]).max()),
      }
    )
  _, seconds = _timed(record_pairs, model, pairs, 'denoising')
  return {
    'pairs': n,
    'tokens': T,
    'first_difference': differ,
    'recording': {
      'operations': costs.recording_cost(config, n, T),
      'seconds': seconds,
    },
    'maps': rows,
    'ends': _ends(model, base, donor),
  }


def _ends(model, base, donor) -> list[dict]:
  given = gj.run(
    model, donor.tokens, capture=gj.capture('resid_pre', 'resid_post')
  )
  found = []
  for site, layer, run in (
    ('resid_pre', 0, base),
    ('resid_post', model.config.num_layers - 1, donor),
  ):
    change = gj.patch(site, given, layers=layer, positions='last')
    logits = gj.run(
      model, base.tokens, interventions=[change], logits_at='last'
    ).logits[:, 0]
    chosen = np.take_along_axis(np.asarray(logits), base.answers, axis=1)
    patched = chosen[:, 0] - chosen[:, 1]
    shares = moved(patched, base.difference, donor.difference)
    found.append(
      {
        'where': f'{site}.{layer}, last token',
        'expected': float(run is donor),
        'moved': float(shares.mean()),
        'largest_difference': float(np.abs(patched - run.difference).max()),
      }
    )
  return found


def _timed(function, *args):
  """Returns what a function returns, and how many seconds that took."""
  start = time.perf_counter()
  result = function(*args)
  return result, time.perf_counter() - start
