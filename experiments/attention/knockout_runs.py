"""Sweeps of a study, in batches that are kept as files."""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import itertools
import pathlib
import time

import jax
import numpy as np
from safetensors.numpy import load_file
import tqdm

from experiments.attention.cases import Case, pad_cases
from experiments.attention.edges import Edges, edge_masks
from experiments.attention.knockouts import (
  CutHeads,
  Sweep,
  cut_heads,
  knock_out,
  rows_of,
  sweep_flops,
  tokens_again,
)
from experiments.attention.windows import HeadSet, Window
from experiments.runs.checksums import of_value
from experiments.runs.stages import digest, stage
import gemma_jax as gj
from gemma_jax.whole_files import save_tensors
from sae.jumprelu import Latents

_FILE = 'sweep.safetensors'
_ARRAYS = ('log_prob', 'says', 'latents')


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Study:
  """Sweeps over C prompts, all edges together.

  Attributes:
    cases: The prompts.
    wanted: Wanted of each prompt, the tokens that are asked for next.
    rows: R pairs of edges and heads.
    windows: W windows of layers.
    sweep: What cutting all rows does.
    cost: Operations and seconds of the sweeps and of running rows whole.
  """

  cases: Sequence[Case]
  wanted: Sequence[Sequence[int]]
  rows: Sequence[tuple[Edges, HeadSet]]
  windows: Sequence[Window]
  sweep: Sweep
  cost: Mapping


def run_study(
  model: gj.Decoder,
  cases: Sequence[Case],
  edges: Sequence[Edges],
  windows: Sequence[Window],
  heads: Sequence[HeadSet],
  wanted: Sequence[Sequence[int]],
  watched: Sequence[Latents],
  *,
  rows_per_batch: int = 1024,
  folder: pathlib.Path,
  identity: Mapping,
  description: str = 'Cutting attention',
) -> Study:
  """Runs every sweep, one program per set of queries.

  Args:
    model: The model, stacked.
    cases: C prompts.
    edges: All sets of edges; those with the same queries run together.
    windows, heads, wanted, watched: See `knock_out`.
    rows_per_batch: Prompts times rows that are run at once.
    folder: The folder that keeps batches.
    identity: What results depend on besides the other arguments.
    description: What the progress bar says.
  """
  by_queries = sorted(edges, key=lambda edge: edge.queries)
  groups = [
    list(group)
    for _, group in itertools.groupby(by_queries, lambda edge: edge.queries)
  ]
  length = max(case.length for case in cases)
  identity = {
    **identity,
    'cases': of_value([(c.ids, c.span, c.relation) for c in cases]),
    'wanted': of_value([list(map(int, each)) for each in wanted]),
    'windows': of_value([window.layers.tolist() for window in windows]),
    'heads': of_value([each.heads.tolist() for each in heads]),
    'watched': [
      f'{each.site}.{int(each.layer)} {digest(*jax.tree.leaves(each))}'
      for each in watched
    ],
    'rows_per_batch': rows_per_batch,
  }

  def run(group, count, some, theirs, size) -> dict[str, np.ndarray]:
    """Returns the arrays of a batch, which is filled up to `size` prompts."""
    missing = size - len(some)
    began = time.perf_counter()
    sweep = knock_out(
      model,
      [*some, *some[-1:] * missing],
      group,
      windows,
      heads,
      [*theirs, *theirs[-1:] * missing],
      watched,
      length=length,
      count=count,
    )
    seconds = np.array(time.perf_counter() - began)
    arrays = {
      name: np.ascontiguousarray(getattr(sweep, name)[:, : len(some)])
      for name in _ARRAYS
    }
    return {**arrays, 'seconds': seconds}

  sweeps, costs, rows = [], [], []
  total = len(groups) * len(cases)
  with tqdm.tqdm(total=total, desc=description, unit='prompt') as progress:
    for group in groups:
      R = len(group) * len(heads)
      P = min(len(cases), max(1, rows_per_batch // R))
      count = tokens_again(cases, group)
      known = identity | {'edges': list(map(str, group))}
      parts = []
      for start in range(0, len(cases), P):
        batch = (list(x[start : start + P]) for x in (cases, wanted))
        work = functools.partial(run, group, count, *batch, P)
        place = folder / f'{group[0].queries}-{start // P:05d}'
        stage(place, known, lambda at, w=work: save_tensors(at / _FILE, w()))
        parts.append(load_file(place / _FILE))
        progress.update(len(parts[-1]['says'][0]))
      sweeps.append(
        {
          key: np.concatenate([part[key] for part in parts], axis=1)
          for key in _ARRAYS
        }
      )
      # The first batch compiles; where there are others they tell the time.
      seconds = [float(part['seconds']) for part in parts]
      costs.append(
        sweep_flops(model.config, cases, group, windows, heads)
        | {
          'edges': list(map(str, group)),
          'prompts': len(cases),
          'rows': R,
          'windows': len(windows),
          'tokens_again': count,
          'batches': len(parts),
          'first_batch_seconds': seconds[0],
          'later_batch_seconds': float(np.mean(seconds[1:]))
          if seconds[1:]
          else None,
        }
      )
      rows += rows_of(group, heads)
  joined = {
    key: np.concatenate([sweep[key] for sweep in sweeps], axis=2)
    for key in _ARRAYS
  }
  cost = {
    'flops': sum(each['flops'] for each in costs),
    'naive_flops': sum(each['naive_flops'] for each in costs),
    'groups': costs,
  }
  return Study(
    cases=cases,
    wanted=wanted,
    rows=rows,
    windows=windows,
    sweep=Sweep(**joined),
    cost=cost,
  )


def time_both_ways(
  model: gj.Decoder,
  cases: Sequence[Case],
  edges: Sequence[Edges],
  windows: Sequence[Window],
  heads: Sequence[HeadSet],
  wanted: Sequence[Sequence[int]],
  watched: Sequence[Latents],
) -> dict:
  """Times a sweep, and its rows run whole, compilation left out.

  Whole runs of one row are timed, a few of them, and multiplied.

  Args:
    model: The model, stacked.
    cases: A few prompts.
    edges: Sets of edges with the same queries.
    windows, heads, wanted, watched: See `knock_out`.

  Returns:
    Seconds of both, with what was run.
  """
  sweep = lambda: knock_out(
    model, cases, edges, windows, heads, wanted, watched
  )
  length = max(case.length for case in cases)
  batch = pad_cases(cases, model.config.fill_id, length)
  queries, keys = edge_masks(edges[:1], cases, length)
  cuts = cut_heads(windows, heads)

  def whole():
    out = gj.run(
      model,
      *batch,
      interventions=[CutHeads.of(queries[:, 0], keys[:, 0], cuts[-1:, 0])],
      capture=gj.capture(*{w.site for w in watched}, positions='last')
      if watched
      else None,
      logits_at='last',
    )
    jax.block_until_ready(out.logits)

  rows = len(edges) * len(heads) * len(windows)
  return {
    'edges': list(map(str, edges)),
    'prompts': len(cases),
    'rows': rows,
    'seconds': _best(sweep),
    'naive_seconds': _best(whole) * rows,
  }


def _best(run) -> float:
  """Returns seconds of the fastest of three runs, after one that compiles."""
  run()
  times = []
  for _ in range(3):
    start = time.perf_counter()
    run()
    times.append(time.perf_counter() - start)
  return min(times)
