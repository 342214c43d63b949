"""Refusals and divergence against dose, as `experiments.steering` has them."""

from collections.abc import Iterator, Mapping
import math

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from experiments.charts import style
from experiments.charts.style import error_bars, headed
from experiments.latents.class_look import LABEL_COLOURS, TITLES
from experiments.steering.outcome_look import OUTCOME_COLOURS, classes_of
from experiments.steering.outcomes import REFUSAL
from experiments.steering.summary import ALL

_KL = 'KL'  # what traces of divergence are marked with
_DASHES = {'latent': 'solid', 'mean difference': 'dash'}


def dose_response(results: Mapping) -> go.Figure:
  """Refusals against dose, and under them divergence.

  A column per target; per class of entities a row of refusals and one of KL.
  """
  responses, classes = results['dose_response'], classes_of(results)
  rows = 2 * len(classes)
  figure = make_subplots(
    rows=rows,
    cols=len(responses),
    shared_xaxes=True,
    shared_yaxes=True,
    horizontal_spacing=0.06,
    vertical_spacing=0.06,
    row_heights=[0.62, 0.38] * len(classes),
    subplot_titles=[
      title
      for name in classes
      for title in (
        *(f'{r["target"]} latent, {TITLES[name]}' for r in responses),
        *[''] * len(responses),
      )
    ],
  )
  for column, response in enumerate(responses, start=1):
    for i, name in enumerate(classes):
      first = column == 1 and i == 0
      for row, traces in (
        (2 * i + 1, _response_traces(response, name, first)),
        (2 * i + 2, _divergence_traces(response, name)),
      ):
        for trace in traces:
          figure.add_trace(trace, row=row, col=column)
        figure.add_vline(
          x=response['dose'],
          line={'dash': 'dot', 'color': '#888'},
          row=row,
          col=column,
        )
  figure = style.styled(figure, x='', y='', height=420 * len(classes) + 60)
  figure.update_xaxes(title_text='dose, in mean norms of the stream', row=rows)
  shown = _range([t.y for t in figure.select_traces() if t.meta == _KL])
  for row in range(1, rows + 1, 2):
    figure.update_yaxes(range=[-0.02, 1.04], tickformat='.0%', row=row)
    figure.update_yaxes(title_text='refused', row=row, col=1)
    figure.update_yaxes(
      type='log', dtick=1, exponentformat='power', range=shown, row=row + 1
    )
    figure.update_yaxes(title_text='KL, nats/token', row=row + 1, col=1)
  return headed(figure)


def _range(values) -> list[float]:
  """Of a logarithmic axis on which all values are shown, one for all panels."""
  every = [each for some in values for each in some]
  if not every:
    return [-3, 1]
  return [math.log10(min(every)) - 0.3, math.log10(max(every)) + 0.3]


def _divergence_traces(response, name) -> Iterator[go.Scatter]:
  """KL against dose; 0 at dose 0, which a logarithm does not show."""
  colour = LABEL_COLOURS[response['target']]
  common = {'showlegend': False, 'mode': 'lines+markers', 'meta': _KL}
  random = [r for r in response['random'] if r['kl'][name] > 0]
  if random:
    yield go.Scatter(
      **common,
      x=[r['dose'] for r in random],
      y=[r['kl'][name] for r in random],
      line={'color': '#888', 'width': 1.5},
      marker={'size': 4, 'color': '#888'},
      legendgroup='random',
      hovertemplate='random, dose %{x:.2f}<br>KL %{y:.3g}<extra></extra>',
    )
  for line, dash in _DASHES.items():
    of_line = [p for p in response['points'] if p['line'] == line]
    # One line per side: they do not meet.
    for side in (-1, 1):
      points = [
        p
        for p in of_line
        if p['dose'] * side > 0 and p['kl'][name]['value'] > 0
      ]
      if not points:
        continue
      e = [p['kl'][name] for p in points]
      yield go.Scatter(
        **common,
        x=[p['dose'] for p in points],
        y=[each['value'] for each in e],
        error_y=error_bars(e),
        line={'color': colour, 'dash': dash},
        marker={'color': colour, 'size': 6},
        legendgroup=line,
        hovertext=[
          f'{line}, dose {p["dose"]:.2f}<br>KL {each["value"]:.3g} nats/token '
          f'(n = {each["n"]})'
          for p, each in zip(points, e, strict=True)
        ],
        hoverinfo='text',
      )


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
  for line, dash in _DASHES.items():
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
