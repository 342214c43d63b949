"""Figures of SAEs, from the entries of a results.json.

An entry is what `results.entry` makes: a name, site and layer, 'metrics',
'intervals', and 'fidelity'.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from experiments import charts
from experiments.charts.style import interval, number

_LABELLED = 12  # SAEs of a layer up to which each has a label in the figure
_TITLES = {
  'delta_loss': 'delta loss, nats per token (lower is better)',
  'fvu': 'fraction of variance unexplained (lower is better)',
}


def frontier(entries: Sequence[Mapping], measure: str) -> go.Figure:
  """Shows sparsity against fidelity: a line per layer, a point per SAE.

  Args:
    entries: The SAEs.
    measure: What is on y, 'delta_loss' or 'fvu'; L0 is on x.
  """
  layers = {}
  for each in sorted(entries, key=lambda entry: entry['metrics']['l0']):
    place = f'{each["site"]}, layer {each["layer"]}'
    layers.setdefault(place, []).append(each)
  order = dict.fromkeys(f'{e["site"]}, layer {e["layer"]}' for e in entries)
  return charts.lines(
    [
      charts.Line.of(
        place,
        [each['metrics']['l0'] for each in layers[place]],
        [_estimate(each, measure) for each in layers[place]],
        hover=list(map(_hover, layers[place])),
        labels=[each['label'] for each in layers[place]]
        if len(layers[place]) <= _LABELLED
        else None,
      )
      for place in order
    ],
    x_title='L0, active latents per token',
    y_title=_TITLES[measure],
  )


def training_curves(
  runs: Mapping[str, Sequence[Mapping]],
) -> list[go.Figure]:
  """Shows L0, and FVU, dead latents and coefficient, against tokens.

  Args:
    runs: Name -> records of metrics.jsonl, in order.
  """
  curves = {
    title: [
      charts.Line(
        name,
        [record['tokens'] for record in records],
        [record[key] for record in records],
      )
      for name, records in runs.items()
    ]
    for key, title in (
      ('l0', 'L0'),
      ('fvu', 'FVU'),
      ('dead', 'share of dead latents'),
      ('sparsity', 'sparsity coefficient'),
    )
  }
  l0 = curves.pop('L0')
  x_title = 'training tokens'
  figure = charts.lines(l0, x_title=x_title, y_title='L0', y_log=True)
  return [
    # It may stay within a few decades, so 2 and 5 of each get a label.
    figure.update_yaxes(dtick='D2'),
    charts.lines(
      curves, x_title=x_title, y_title='', y_range=(0, None), share_y=False
    ),
  ]


def frequency_histograms(entries: Sequence[Mapping]) -> go.Figure:
  """Shows how many latents fire how often, one outline per SAE."""
  outlines, low = [], 0.0
  for entry in entries:
    metrics = entry['metrics']
    found = metrics['frequency_histogram']
    edges, counts = np.array(found['log10_edges']), np.array(found['counts'])
    if counts.any():
      low = min(low, edges[np.flatnonzero(counts)[0]])
    more = (
      f'n = {metrics["num_tokens"]:,} tokens; {metrics["num_dead"]:,} of '
      f'{metrics["num_latents"]:,} latents never fired'
    )
    outlines.append(
      charts.Line(
        entry['name'],
        (edges[:-1] + edges[1:]) / 2,
        counts,
        hover=[
          f'from 10^{start:.2f} to 10^{stop:.2f}\n{more}'
          for start, stop in zip(edges[:-1], edges[1:], strict=True)
        ],
      )
    )
  return charts.lines(
    outlines,
    x_title='log10 of the share of tokens on which a latent fires',
    y_title='latents',
    x_range=(low - 0.25, 0.05),
  )


def _estimate(entry, measure) -> Mapping:
  """Returns value and interval of a measure."""
  if measure == 'delta_loss':
    return entry['fidelity']['delta_loss']
  value = entry['metrics'][measure]
  return {**entry['intervals'][measure], 'value': value}


def _hover(entry) -> str:
  metrics, fidelity = entry['metrics'], entry['fidelity']
  found = {
    title: _estimate(entry, measure)
    for title, measure in (
      ('L0', 'l0'),
      ('FVU', 'fvu'),
      ('delta loss', 'delta_loss'),
    )
  }
  recovered = fidelity['loss_recovered_zero']['value']
  return '\n'.join(
    [
      entry['name'],
      f'n = {metrics["num_tokens"]:,} tokens',
      *(
        f'{title} {interval(each["value"], each["low"], each["high"])}'
        for title, each in found.items()
      ),
      f'loss recovered (zero ablation) {number(recovered)}',
      f'dead {number(metrics["dead_share"])}',
      f'{fidelity["num_sequences"]:,} sequences',
    ]
  )
