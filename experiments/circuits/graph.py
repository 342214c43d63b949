"""A circuit as a graph: what is changed, what carries it on, the logits."""

from collections.abc import Mapping

import plotly.graph_objects as go

from experiments.charts import style
from experiments.charts.style import headed
from experiments.circuits.components import GROUPS

POSITIVE, NEGATIVE = '#0072B2', '#D55E00'
# Edges that are drawn; the table has all.
_MOST_EDGES = 60
TOKENS = {
  'before': 'tokens before the entity',
  'entity': 'tokens of the entity',
  'after': 'tokens after it',
  'last': 'last token',
}


def graph(cause: Mapping) -> go.Figure:
  """Latent, components and logits; edges by their effect on the metric."""
  places = _places(cause)
  edges = sorted(cause['edges'], key=lambda e: -abs(e['effect']['value']))
  edges = edges[:_MOST_EDGES]
  largest = max((abs(e['effect']['value']) for e in edges), default=1.0) or 1.0
  figure = go.Figure()
  for verified in (True, False):
    for positive in (True, False):
      _legend(figure, verified, positive)
  for edge in edges:
    ends = (
      places[edge['sender']],
      _middle(places, edge),
      places[edge['receiver']],
    )
    size = abs(edge['effect']['value']) / largest
    colour = POSITIVE if edge['effect']['value'] > 0 else NEGATIVE
    figure.add_trace(
      go.Scatter(
        x=[x for x, _ in ends],
        y=[y for _, y in ends],
        mode='lines',
        line={
          'color': colour,
          'width': 0.5 + 6 * size,
          'dash': 'solid' if edge['verified'] else 'dot',
          'shape': 'spline',
        },
        opacity=0.25 + 0.6 * size,
        hoverinfo='skip',
        showlegend=False,
      )
    )
  # A line has no hover text of its own: its middle has.
  middles = [_middle(places, edge) for edge in edges]
  figure.add_trace(
    go.Scatter(
      x=[x for x, _ in middles],
      y=[y for _, y in middles],
      mode='markers',
      marker={'size': 9, 'color': 'rgba(120,120,120,0.35)'},
      hovertext=[_said(edge) for edge in edges],
      hoverinfo='text',
      showlegend=False,
    )
  )
  details = {c['name']: c for c in cause['components']}
  figure.add_trace(
    go.Scatter(
      x=[x for x, _ in places.values()],
      y=[y for _, y in places.values()],
      mode='markers+text',
      marker={'size': 15, 'color': 'white', 'line': {'width': 2}},
      text=[_short(name, cause) for name in places],
      textposition='top center',
      hovertext=[_node(name, details.get(name), cause) for name in places],
      hoverinfo='text',
      showlegend=False,
    )
  )
  figure = style.styled(figure, x='layer', y='', height=520)
  lanes = {'entity', 'last', *(c['tokens'] for c in cause['components'])}
  present = sorted(map(GROUPS.index, lanes))
  figure.update_yaxes(
    tickvals=present,
    ticktext=[TOKENS[GROUPS[y]] for y in present],
    range=[present[0] - 0.6, present[-1] + 1.2],
  )
  figure.update_layout(title={'text': 'Circuit'})
  return headed(figure)


def _places(cause: Mapping) -> dict[str, tuple[float, float]]:
  """Where the nodes of the edges stand: by layer, and by tokens."""
  named = {c['name']: c for c in cause['components']}
  ends = [e[end] for e in cause['edges'] for end in ('sender', 'receiver')]
  inside = [named[name] for name in dict.fromkeys(ends) if name in named]
  edited = int(cause['latent'].split('/')[0].rpartition('.')[2])
  last = max([c['layer'] for c in inside], default=edited)
  places = {'latent': (edited + 0.4, GROUPS.index('entity'))}
  heads = {}  # of a layer, at a lane
  for c in sorted(inside, key=lambda c: c['head'] or 0):
    lane = GROUPS.index(c['tokens'])
    if c['head'] is None:
      places[c['name']] = c['layer'] + 0.3, lane - 0.3
    else:  # one above the other, so that none hides another
      number = heads[c['layer'], lane] = heads.get((c['layer'], lane), -1) + 1
      places[c['name']] = c['layer'] - 0.2, lane + 0.15 + 0.3 * number
  places['logits'] = last + 1.0, GROUPS.index('last')
  return places


def _middle(places, edge) -> tuple[float, float]:
  """Of an edge, bent so that it passes by the nodes between its ends."""
  (x0, y0), (x1, y1) = (places[edge[end]] for end in ('sender', 'receiver'))
  return (x0 + x1) / 2, (y0 + y1) / 2 + 0.1 * abs(x1 - x0)


def _legend(figure, verified: bool, positive: bool):
  figure.add_trace(
    go.Scatter(
      x=[None],
      y=[None],
      mode='lines',
      line={
        'color': POSITIVE if positive else NEGATIVE,
        'dash': 'solid' if verified else 'dot',
      },
      name=f'{"towards" if positive else "against"} refusal, '
      f'{"" if verified else "not "}verified',
    )
  )


def _said(edge: Mapping) -> str:
  return (
    f'{style.text(edge["sender"])} → {style.text(edge["receiver"])}<br>'
    f'{signed(edge["effect"])}, n = {edge["effect"]["n"]}, '
    f'p = {edge["p"]:.2g}<br>validation {edge["validation_effect"]:+.3f}<br>'
    f'{"verified" if edge["verified"] else "not verified"}'
  )


def _node(name: str, component: Mapping | None, cause: Mapping) -> str:
  if component is None:
    return style.text(_short(name, cause))
  said = (
    f'{style.text(name)}<br>carried {signed(component["carried"])}<br>'
    f'lost {signed(component["lost"])}'
  )
  if component['direct'] is not None:
    said += f'<br>direct {signed(component["direct"])}'
  return said


def _short(name: str, cause: Mapping) -> str:
  """What stands at a node: its lane says at which tokens it is."""
  if name == 'latent':
    return style.text(cause['latent'])
  return style.text(name.split(' ')[0])


def signed(estimate: Mapping) -> str:
  """'+1.20 [+0.80, +1.60]'."""
  if estimate['low'] is None:
    return f'{estimate["value"]:+.3f}'
  return (
    f'{estimate["value"]:+.3f} '
    f'[{estimate["low"]:+.3f}, {estimate["high"]:+.3f}]'
  )
