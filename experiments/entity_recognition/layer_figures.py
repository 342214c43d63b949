"""Separation scores by layer, and what shuffled labels give."""

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from experiments.charts import style


def layer_curves(results: Mapping, label: str) -> go.Figure:
  """Scores by layer: the mean of the best latents of each type, and MaxMin.

  Bars reach from the lowest to the highest of these latents. The band has what
  MaxMin is under shuffled labels, from the median to the 95 % quantile.
  """
  curve = results['layers'][label]
  where = _places(curve)
  ticks = list(range(len(curve)))
  types = results['types']
  figure = go.Figure()
  if all(place['null'] is not None for place in curve):
    _add_band(figure, ticks, curve)
  colours = style.colours(types)
  for e, name in enumerate(types):
    points = [place['types'][name] for place in curve]
    # Side by side, or bars hide each other.
    shift = 0.5 * ((e + 0.5) / len(types) - 0.5)
    figure.add_trace(
      go.Scatter(
        name=style.text(name),
        x=[tick + shift for tick in ticks],
        y=[point['mean'] for point in points],
        error_y={
          'type': 'data',
          'symmetric': False,
          'array': [point['max'] - point['mean'] for point in points],
          'arrayminus': [point['mean'] - point['min'] for point in points],
          'thickness': 1,
          'width': 2,
        },
        mode='lines+markers',
        line={'color': colours[name], 'width': 1.2},
        marker={'color': colours[name], 'size': 5},
        hovertext=[
          style.text(f'{name}, {at}')
          + f'<br>mean of the best {point["n"]}: {point["mean"]:.3f}'
          + f'<br>from {point["min"]:.3f} to {point["max"]:.3f}'
          for at, point in zip(where, points, strict=True)
        ],
        hoverinfo='text',
      )
    )
  figure.add_trace(
    go.Scatter(
      name='MaxMin: one latent, all types',
      x=ticks,
      y=[place['maxmin'] for place in curve],
      mode='lines+markers',
      line={'color': 'black', 'dash': 'dash', 'width': 2},
      marker={'color': 'black', 'size': 6},
      hovertext=[
        style.text(f'MaxMin, {at}, latent {place["latent"]}')
        + f'<br>{place["maxmin"]:.3f}'
        for at, place in zip(where, curve, strict=True)
      ],
      hoverinfo='text',
    )
  )
  sites = dict.fromkeys(place['site'] for place in curve)
  figure = style.styled(
    figure,
    x=f'layer of {sites.popitem()[0]}' if len(sites) == 1 else 'site and layer',
    y=f'separation of {label} entities',
  )
  names = [
    str(place['layer']) if len(sites) <= 1 else at
    for at, place in zip(where, curve, strict=True)
  ]
  # The band would turn the order round.
  figure.update_layout(legend={'traceorder': 'normal'})
  figure.update_xaxes(
    tickvals=ticks, ticktext=list(map(style.text, names)), showgrid=False
  )
  return figure


def _add_band(
  figure: go.Figure, ticks: Sequence[int], curve: Sequence[Mapping]
):
  for key, name in (('median', ''), ('high', 'MaxMin, shuffled labels')):
    figure.add_trace(
      go.Scatter(
        name=name,
        x=ticks,
        y=[place['null'][key] for place in curve],
        mode='lines',
        line={'width': 0},
        fill='tonexty' if key == 'high' else None,
        fillcolor='rgba(0, 0, 0, 0.18)',
        showlegend=key == 'high',
        hovertext=[
          f'MaxMin with shuffled labels, {style.text(at)}<br>median '
          f'{place["null"]["median"]:.3f}, 95 % below '
          f'{place["null"]["high"]:.3f}'
          for at, place in zip(_places(curve), curve, strict=True)
        ],
        hoverinfo='text',
      )
    )


def _places(curve: Sequence[Mapping]) -> list[str]:
  return [f'{place["site"]}.{place["layer"]}' for place in curve]
