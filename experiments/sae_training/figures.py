"""Figures of SAEs, from the entries of a results.json.

An entry is what `sae_results.entry` makes: a name, site and layer, 'metrics',
'intervals', and 'fidelity'.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from experiments.charts import style

_HIDDEN_NAMES = 12  # labels beside points, up to so many


def frontier(entries: Sequence[Mapping], measure: str) -> go.Figure:
  """Sparsity against fidelity: L0 on x, 'delta_loss' or 'fvu' on y.

  One line per layer, one point per SAE, with 95 % intervals where they are
  known. Points of a layer are joined in the order of their L0.
  """
  titles = {
    'delta_loss': 'delta loss, nats per token (lower is better)',
    'fvu': 'fraction of variance unexplained (lower is better)',
  }
  where = [_where(entry) for entry in entries]
  colours = style.colours(where)
  figure = go.Figure()
  for place, colour in colours.items():
    mine = [e for e, w in zip(entries, where, strict=True) if w == place]
    mine.sort(key=lambda entry: entry['metrics']['l0'])
    y = [_estimate(entry, measure) for entry in mine]
    x = [_estimate(entry, 'l0') for entry in mine]
    figure.add_trace(
      go.Scatter(
        name=style.text(place),
        x=[point['value'] for point in x],
        y=[point['value'] for point in y],
        error_x=_bars(x),
        error_y=_bars(y),
        mode='lines+markers' + ('+text' if len(mine) < _HIDDEN_NAMES else ''),
        text=[style.text(entry['label']) for entry in mine],
        # The last label would run out of the figure.
        textposition=['top right'] * (len(mine) - 1) + ['top left'],
        textfont={'size': 10},
        marker={'color': colour, 'size': 9},
        line={'color': colour},
        hovertext=[_hover(entry) for entry in mine],
        hoverinfo='text',
      )
    )
  return style.styled(
    figure, x='L0, active latents per token', y=titles[measure]
  )


def training_curves(runs: Mapping[str, Sequence[Mapping]]) -> go.Figure:
  """FVU, L0, dead latents and coefficient against tokens, one line per run.

  Args:
    runs: Name -> records of metrics.jsonl, in order.
  """
  panels = (
    ('fvu', 'FVU', 'linear'),
    ('l0', 'L0', 'log'),
    ('dead', 'share of dead latents', 'linear'),
    ('sparsity', 'sparsity coefficient', 'linear'),
  )
  figure = make_subplots(
    rows=2,
    cols=2,
    shared_xaxes=True,
    subplot_titles=[title for _, title, _ in panels],
    horizontal_spacing=0.09,
    vertical_spacing=0.1,
  )
  colours, dashes = style.colours(runs), style.dashes(runs)
  for number, (key, title, scale) in enumerate(panels):
    place = {'row': number // 2 + 1, 'col': number % 2 + 1}
    for name, records in runs.items():
      figure.add_trace(
        go.Scatter(
          name=style.text(name),
          legendgroup=style.text(name),
          showlegend=number == 0,
          x=[record['tokens'] for record in records],
          y=[record[key] for record in records],
          mode='lines' if len(records) > 1 else 'markers',
          line={'color': colours[name], 'dash': dashes[name], 'width': 1.5},
          marker={'color': colours[name]},
          hovertemplate=(
            f'{style.text(name)}<br>%{{x:,}} tokens<br>{title} %{{y:.4g}}'
            '<extra></extra>'
          ),
        ),
        **place,
      )
    figure.update_yaxes(type=scale, **place)
    if key == 'dead':  # mostly 0, about which plotly would centre the axis
      figure.update_yaxes(rangemode='tozero', **place)
  figure = style.styled(figure, x='', y='', height=640)
  for column in (1, 2):
    figure.update_xaxes(title_text='training tokens', row=2, col=column)
  figure.update_layout(margin={'t': 90}, legend={'y': 1.07})
  return figure


def frequency_histograms(entries: Sequence[Mapping]) -> go.Figure:
  """Shares of latents by how often they fire, one outline per SAE."""
  figure = go.Figure()
  names = [entry['name'] for entry in entries]
  colours, dashes = style.colours(names), style.dashes(names)
  low = 0.0
  for entry in entries:
    metrics = entry['metrics']
    histogram = metrics['frequency_histogram']
    edges = np.array(histogram['log10_edges'])
    counts = np.array(histogram['counts'])
    if counts.any():
      low = min(low, edges[np.flatnonzero(counts)[0]])
    name = entry['name']
    figure.add_trace(
      go.Scatter(
        name=style.text(name),
        x=edges,
        y=[*counts, 0],
        mode='lines',
        line={
          'color': colours[name],
          'dash': dashes[name],
          'shape': 'hv',
          'width': 1.5,
        },
        hovertemplate=(
          f'{style.text(name)}<br>%{{y:,}} latents from 10^%{{x:.2f}}<br>'
          f'n = {metrics["num_tokens"]:,} tokens; '
          f'{metrics["num_dead"]:,} of {metrics["num_latents"]:,} latents '
          'never fired<extra></extra>'
        ),
      )
    )
  figure = style.styled(
    figure,
    x='log10 of the share of tokens on which a latent fires',
    y='latents',
  )
  figure.update_xaxes(range=[low - 0.25, 0.05])
  return figure


def _where(entry) -> str:
  return f'{entry["site"]}, layer {entry["layer"]}'


def _estimate(entry, measure) -> Mapping:
  """Value and interval of a measure."""
  if measure == 'delta_loss':
    return entry['fidelity']['delta_loss']
  interval = entry['intervals'][measure]
  return {**interval, 'value': entry['metrics'][measure]}


def _bars(estimates) -> dict:
  def reach(name):
    return [
      None
      if e[name] is None or e['value'] is None
      else abs(e[name] - e['value'])
      for e in estimates
    ]

  return {
    'type': 'data',
    'symmetric': False,
    'array': reach('high'),
    'arrayminus': reach('low'),
    'thickness': 1,
    'width': 3,
  }


def _hover(entry) -> str:
  metrics, fidelity = entry['metrics'], entry['fidelity']
  lines = [entry['name'], f'n = {metrics["num_tokens"]:,} tokens']
  for title, measure in (
    ('L0', 'l0'),
    ('FVU', 'fvu'),
    ('delta loss', 'delta_loss'),
  ):
    e = _estimate(entry, measure)
    lines.append(
      f'{title} {style.number(e["value"])} '
      f'[{style.number(e["low"])}, {style.number(e["high"])}]'
    )
  recovered = fidelity['loss_recovered_zero']['value']
  lines += [
    f'loss recovered (zero ablation) {style.number(recovered)}',
    f'dead {style.number(metrics["dead_share"])}',
    f'{fidelity["num_sequences"]:,} sequences',
  ]
  return '<br>'.join(map(style.text, lines))
