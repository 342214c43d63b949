"""Refusals against dose, from the results of `experiments.steering`."""

from collections.abc import Iterator, Mapping

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from experiments.report import figures
from experiments.report.steering_look import (
  LABEL_COLOURS,
  OUTCOME_COLOURS,
  TITLES,
  classes_of,
  error_bars,
  headed,
)
from experiments.steering.outcomes import REFUSAL
from experiments.steering.summary import ALL


def dose_response(results: Mapping) -> go.Figure:
  """Refusals against dose; a column per target, a row per class."""
  responses, classes = results['dose_response'], classes_of(results)
  figure = make_subplots(
    rows=len(classes),
    cols=len(responses),
    shared_xaxes=True,
    shared_yaxes=True,
    horizontal_spacing=0.06,
    vertical_spacing=0.1,
    subplot_titles=[
      f'{r["target"]} latent, {TITLES[name]}'
      for name in classes
      for r in responses
    ],
  )
  for column, response in enumerate(responses, start=1):
    for row, name in enumerate(classes, start=1):
      place = {'row': row, 'col': column}
      first = row == column == 1
      for trace in _response_traces(response, name, first):
        figure.add_trace(trace, **place)
      figure.add_vline(
        x=response['dose'], line={'dash': 'dot', 'color': '#888'}, **place
      )
    figure.update_xaxes(
      title_text='dose, in mean norms of the stream',
      row=len(classes),
      col=column,
    )
  height = 300 * len(classes) + 60
  titles = [axis.title.text for axis in figure.select_xaxes()]
  figure = figures.styled(figure, x='', y='', height=height)
  for axis, title in zip(figure.select_xaxes(), titles, strict=True):
    axis.title.text = title
  figure.update_yaxes(range=[-0.02, 1.04], tickformat='.0%')
  figure.update_yaxes(title_text='refused', col=1)
  return headed(figure)


def _response_traces(response, name, first) -> Iterator[go.Scatter]:
  colour = LABEL_COLOURS[response['target']]
  random = [(r['dose'], r['classes'][name][ALL]) for r in response['random']]
  if random:
    rate = next(
      point['counts'][name][ALL][REFUSAL]['value']
      for point in response['points']
      if point['dose'] == 0
    )
    original = {'mean': rate, 'low': rate, 'high': rate}
    doses, cells = zip((0.0, original), *random, strict=True)
    grey = {'color': '#888', 'width': 1.5}
    yield go.Scatter(
      x=[*doses, *reversed(doses)],
      y=[c['high'] for c in cells] + [c['low'] for c in reversed(cells)],
      fill='toself',
      fillcolor='rgba(120,120,120,0.2)',
      mode='lines',
      line={'width': 0},
      name='range of random latents',
      legendgroup='range',
      showlegend=first,
      hoverinfo='skip',
    )
    yield go.Scatter(
      x=doses,
      y=[c['mean'] for c in cells],
      mode='lines+markers',
      line=grey,
      marker={'size': 4, 'color': '#888'},
      name='mean of random latents',
      legendgroup='random',
      showlegend=first,
      hovertemplate='random, dose %{x:.2f}<br>%{y:.1%}<extra></extra>',
    )
  for line, dash in (('latent', 'solid'), ('mean difference', 'dash')):
    points = [p for p in response['points'] if p['line'] == line]
    if not points:
      continue
    e = [p['counts'][name][ALL][REFUSAL] for p in points]
    yield go.Scatter(
      x=[p['dose'] for p in points],
      y=[each['value'] for each in e],
      error_y=error_bars(e),
      mode='lines+markers',
      line={'color': colour, 'dash': dash},
      marker={'color': colour, 'size': 6},
      name=line,
      legendgroup=line,
      showlegend=first,
      hovertext=[
        f'{line}, dose {p["dose"]:.2f}, alpha {p["alpha"]:.4g}<br>'
        f'{each["count"]} of {each["n"]} refused'
        for p, each in zip(points, e, strict=True)
      ],
      hoverinfo='text',
    )
    yield go.Scatter(
      x=[p['dose'] for p in points],
      y=[p['counts'][name][ALL]['other']['value'] for p in points],
      mode='lines',
      line={'color': OUTCOME_COLOURS['other'], 'dash': 'dot', 'width': 1.5},
      name='no answer (other)',
      legendgroup='other',
      showlegend=first and line == 'latent',
      hoverinfo='skip',
    )
