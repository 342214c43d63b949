"""A circuit as a graph: the latent, components by layer and token, logits."""

from collections.abc import Mapping

from experiments import charts
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


def graph(edit: Mapping):
  """Shows latent, components and logits; edges by their effect."""
  edges = sorted(edit['edges'], key=lambda e: -abs(e['effect']['value']))
  links = [_link(edge) for edge in edges[:_MOST_EDGES]]
  details = {c['name']: c for c in edit['components']}
  nodes = {}
  for name, (x, y) in _places(edit).items():
    # The lane of a component says at which tokens it is.
    label = edit['latent'] if name == LATENT else name.split(' ')[0]
    said = _component_text(details[name]) if name in details else label
    nodes[name] = charts.Node(x=x, y=y, label=label, hover=said)
  lanes = {'entity', 'last', *(c['tokens'] for c in edit['components'])}
  return charts.graph(
    nodes,
    links,
    x_title='layer',
    lanes={GROUPS.index(lane): TOKENS[lane] for lane in lanes},
    groups={
      link.group: POSITIVE if link.value > 0 else NEGATIVE for link in links
    },
    title='Circuit',
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


def _link(edge: Mapping) -> charts.Link:
  effect = edge['effect']
  verified = 'verified' if edge['verified'] else 'not verified'
  return charts.Link(
    start=edge['sender'],
    end=edge['receiver'],
    value=effect['value'],
    group=f'{"towards" if effect["value"] > 0 else "against"} refusal, '
    f'{verified}',
    dash=not edge['verified'],
    hover=f'{edge["sender"]} → {edge["receiver"]}\n'
    f'{spelled(effect)}, n = {effect["n"]}, p = {edge["p"]:.2g}\n'
    f'validation {edge["validation_effect"]:+.3f}\n{verified}',
  )


def _component_text(component: Mapping) -> str:
  kinds = [k for k in ('carried', 'lost', 'direct') if component[k] is not None]
  said = (f'{kind} {spelled(component[kind])}' for kind in kinds)
  return '\n'.join([component['name'], *said])
