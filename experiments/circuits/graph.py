"""A circuit as a graph, which is none of the charts: latent, parts, logits."""

from collections.abc import Iterable, Mapping

import plotly.graph_objects as go

from experiments.charts import style
from experiments.charts.details import hover_text
from experiments.charts.table import spelled
from experiments.circuits.components import GROUPS
from experiments.circuits.effects import LATENT, LOGITS

POSITIVE, NEGATIVE = '#0072B2', '#D55E00'
# Edges that are drawn; the table has more of what is said of each.
_MOST_EDGES = 60
TOKENS = {
  'before': 'tokens before the entity',
  'entity': 'tokens of the entity',
  'after': 'tokens after it',
  'last': 'last token',
}


def graph(edit: Mapping) -> go.Figure:
  """Shows latent, components and logits; edges by their effect."""
  places = _places(edit)
  edges = sorted(edit['edges'], key=lambda e: -abs(e['effect']['value']))
  edges = edges[:_MOST_EDGES]
  largest = max((abs(e['effect']['value']) for e in edges), default=1.0) or 1.0
  middles = [_middle(places, edge) for edge in edges]
  figure, named = go.Figure(), set()
  for edge, middle in zip(edges, middles, strict=True):
    ends = places[edge['sender']], middle, places[edge['receiver']]
    size = abs(edge['effect']['value']) / largest
    towards, verified = edge['effect']['value'] > 0, edge['verified']
    name = (
      f'{"towards" if towards else "against"} refusal, '
      f'{"" if verified else "not "}verified'
    )
    look = {
      'color': POSITIVE if towards else NEGATIVE,
      'dash': 'solid' if verified else 'dot',
    }
    if name not in named:  # in the legend, as wide as any
      figure.add_scatter(x=[None], y=[None], mode='lines', line=look, name=name)
      named.add(name)
    figure.add_scatter(
      **_xy(ends),
      mode='lines',
      line={**look, 'width': 0.5 + 6 * size, 'shape': 'spline'},
      opacity=0.25 + 0.6 * size,
      hoverinfo='skip',
      showlegend=False,
    )
  common = {'hoverinfo': 'text', 'showlegend': False}
  # A line has no hover text of its own: its middle has.
  figure.add_scatter(
    **_xy(middles),
    mode='markers',
    marker={'size': 9, 'color': 'rgba(120,120,120,0.35)'},
    hovertext=list(map(_edge_text, edges)),
    **common,
  )
  # Its lane says at which tokens a component is.
  titles = [
    edit['latent'] if name == LATENT else name.split(' ')[0] for name in places
  ]
  details = {c['name']: c for c in edit['components']}
  figure.add_scatter(
    **_xy(places.values()),
    mode='markers+text',
    marker={'size': 15, 'color': 'white', 'line': {'width': 2}},
    text=list(map(style.text, titles)),
    textposition='top center',
    hovertext=[
      _component_text(details[name]) if name in details else style.text(title)
      for name, title in zip(places, titles, strict=True)
    ],
    **common,
  )
  figure = style.styled(figure, x='layer', y='', height=520)
  lanes = {'entity', 'last', *(c['tokens'] for c in edit['components'])}
  present = sorted(map(GROUPS.index, lanes))
  figure.update_yaxes(
    tickvals=present,
    ticktext=[TOKENS[GROUPS[y]] for y in present],
    range=[present[0] - 0.6, present[-1] + 1.2],
  )
  return figure.update_layout(
    title={'text': 'Circuit'},
    margin={'t': 50, 'b': 110},
    legend={'yref': 'container', 'y': 0.01, 'yanchor': 'bottom'},
  )


def _places(edit: Mapping) -> dict[str, tuple[float, float]]:
  """Returns where the ends of edges stand: by layer, and by tokens."""
  components = {c['name']: c for c in edit['components']}
  ends = [e[end] for e in edit['edges'] for end in ('sender', 'receiver')]
  inside = [
    components[name] for name in dict.fromkeys(ends) if name in components
  ]
  edited = int(edit['latent'].split('/')[0].rpartition('.')[2])
  last = max([c['layer'] for c in inside], default=edited)
  places = {LATENT: (edited + 0.4, GROUPS.index('entity'))}
  heads = {}  # of a layer, at a lane
  for c in sorted(inside, key=lambda c: c['head'] or 0):
    lane = GROUPS.index(c['tokens'])
    if c['head'] is None:
      places[c['name']] = c['layer'] + 0.3, lane - 0.3
    else:  # one above the other, so that none hides another
      number = heads[c['layer'], lane] = heads.get((c['layer'], lane), -1) + 1
      places[c['name']] = c['layer'] - 0.2, lane + 0.15 + 0.3 * number
  places[LOGITS] = last + 1.0, GROUPS.index('last')
  return places


def _middle(places, edge) -> tuple[float, float]:
  """Returns an edge's middle, bent past the nodes between its ends."""
  (x0, y0), (x1, y1) = (places[edge[end]] for end in ('sender', 'receiver'))
  return (x0 + x1) / 2, (y0 + y1) / 2 + 0.1 * abs(x1 - x0)


def _xy(places: Iterable[tuple[float, float]]) -> dict[str, list[float]]:
  places = list(places)
  return {'x': [x for x, _ in places], 'y': [y for _, y in places]}


def _edge_text(edge: Mapping) -> str:
  effect = edge['effect']
  return hover_text(
    f'{edge["sender"]} → {edge["receiver"]}',
    f'{spelled(effect)}, n = {effect["n"]}, p = {edge["p"]:.2g}',
    f'validation {edge["validation_effect"]:+.3f}',
    'verified' if edge['verified'] else 'not verified',
  )


def _component_text(component: Mapping) -> str:
  kinds = [k for k in ('carried', 'lost', 'direct') if component[k] is not None]
  return hover_text(
    component['name'], *(f'{kind} {spelled(component[kind])}' for kind in kinds)
  )
