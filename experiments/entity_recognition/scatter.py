"""Firing rates of all latents on known and on unknown entities."""

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from experiments.charts import style
from experiments.entity_recognition.tables import percent
from experiments.latents.class_look import LABEL_COLOURS

GREY = '#9a9a9a'
# A grey dot stands for the latents whose rates round to the same percents.
_GRID = 1.0
_HIGHLIGHTED = 10


def scatter(results: Mapping, arrays: Mapping[str, np.ndarray]) -> go.Figure:
  """Firing rates of all latents on known and on unknown entities of test.

  One panel per type, chosen latents in colour. Grey dots stand for all latents
  that are nearest to the same whole percents: hover for how many.
  """
  types = results['types']
  n = results['entities']['test']
  columns = min(2, len(types))
  rows = -(-len(types) // columns)
  figure = make_subplots(
    rows=rows,
    cols=columns,
    subplot_titles=[
      style.text(
        f'{name}: {n[name]["known"]:,} known, {n[name]["unknown"]:,} unknown'
      )
      for name in types
    ],
    horizontal_spacing=0.1,
    vertical_spacing=0.13 if rows > 1 else 0,
  )
  for e, name in enumerate(types):
    place = {'row': e // columns + 1, 'col': e % columns + 1}
    first = {'showlegend': e == 0}
    figure.add_trace(
      go.Scatter(
        x=[0, 100],
        y=[0, 100],
        mode='lines',
        line={'color': GREY, 'width': 1, 'dash': 'dash'},
        hoverinfo='skip',
        showlegend=False,
      ),
      **place,
    )
    figure.add_trace(_all_latents(results, arrays, e) | first, **place)
    for label in ('known', 'unknown'):
      figure.add_trace(_chosen_latents(results, label, name) | first, **place)
  where = _where(results)
  figure = style.styled(
    figure, x='', y='fires on unknown entities, %', height=90 + 400 * rows
  )
  for column in range(1, columns + 1):
    last = (len(types) - column) // columns + 1
    figure.update_xaxes(
      title_text=style.text(f'fires on known entities, % ({where})'),
      row=last,
      col=column,
    )
  figure.update_xaxes(range=[-2, 102])
  figure.update_yaxes(range=[-2, 102])
  figure.update_layout(margin={'t': 80}, legend={'y': 1 + 0.1 / rows})
  return figure


def _all_latents(results, arrays, e) -> dict:
  """Grey dots: one for all latents at the same point of a grid."""
  name = results['types'][e]
  n = results['entities']['test'][name]
  active = np.concatenate(
    [
      arrays[f'test_active/{sae["site"]}.{sae["layer"]}'][e]
      for sae in results['saes']
    ],
    axis=1,
  )  # [2, latents of all SAEs]
  sizes = np.array([n['known'], n['unknown']])[:, None]
  points = np.rint(active / sizes * 100 / _GRID).astype(int)
  points, counts = np.unique(points, axis=1, return_counts=True)
  points = points * _GRID
  return dict(
    type='scatter',
    name='all latents',
    legendgroup='all latents',
    x=points[0],
    y=points[1],
    mode='markers',
    marker={
      'color': GREY,
      'size': 4 + np.log10(counts),
      'opacity': 0.6,
    },
    customdata=counts,
    hovertemplate=(
      '%{customdata:,} latent(s) near known %{x} %, unknown %{y} %'
      '<extra></extra>'
    ),
  )


def _chosen_latents(results, label, name) -> dict:
  chosen = results['chosen'][label][:_HIGHLIGHTED]
  rates = [one['test']['types'][name] for one in chosen]
  return dict(
    type='scatter',
    name=f'chosen for {label}',
    legendgroup=label,
    x=[100 * rate['known']['value'] for rate in rates],
    y=[100 * rate['unknown']['value'] for rate in rates],
    mode='markers',
    marker={
      'color': LABEL_COLOURS[label],
      # The best one stands out.
      'size': [13] + [7] * (len(chosen) - 1),
      'symbol': ['star'] + ['circle'] * (len(chosen) - 1),
      'line': {'color': 'white', 'width': 0.5},
    },
    hovertext=[
      style.text(f'{place}. {one["id"]}, chosen for {label}')
      + f'<br>known {percent(rate["known"])}'
      + f'<br>unknown {percent(rate["unknown"])}'
      for place, (one, rate) in enumerate(zip(chosen, rates, strict=True), 1)
    ],
    hoverinfo='text',
  )


def _where(results: Mapping) -> str:
  """All sites and layers in a few words."""
  sites = {}
  for sae in results['saes']:
    sites.setdefault(sae['site'], []).append(sae['layer'])
  parts = [
    f'{site}, layer {layers[0]}'
    if len(layers) == 1
    else f'{site}, layers {min(layers)} to {max(layers)}'
    for site, layers in sites.items()
  ]
  return '; '.join(parts)
