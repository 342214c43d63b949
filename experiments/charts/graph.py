"""Nodes and the links between them, in lanes."""

from collections.abc import Iterable, Mapping, Sequence
import dataclasses

import plotly.graph_objects as go

from experiments.charts import style
from experiments.charts.details import hover_text
from experiments.charts.rows import Groups, group_colours

_HEIGHT = 520  # pixels


@dataclasses.dataclass(frozen=True, kw_only=True)
class Node:
  """Holds one node.

  Attributes:
    x: Place on the x axis.
    y: Place on the y axis, on which lanes are at 0, 1, ...
    label: What is written above it.
    hover: What the hover text says.
  """

  x: float
  y: float
  label: str
  hover: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Link:
  """Holds one link.

  Attributes:
    start: Name of the node that it starts from.
    end: Name of the node that it leads to.
    value: Weight of the link, of any sign; it sets the width.
    group: Name of its colour and dash in the legend.
    dash: True for a dotted line.
    hover: What the hover text says.
  """

  start: str
  end: str
  value: float
  group: str
  dash: bool
  hover: str


def graph(
  nodes: Mapping[str, Node],
  links: Sequence[Link],
  *,
  x_title: str,
  lanes: Mapping[int, str],
  groups: Groups | None = None,
  title: str = '',
) -> go.Figure:
  """Draws links, and nodes on top of them.

  Args:
    nodes: Name -> node.
    links: Links; those with the largest values are the widest and the darkest.
    x_title: What x is, with its unit.
    lanes: Place on the y axis -> what is there.
    groups: As in `rows.group_colours`.
    title: Title of the figure.
  """
  colours = group_colours((link.group for link in links), groups)
  largest = max((abs(link.value) for link in links), default=1.0) or 1.0
  middles = [_middle(nodes[link.start], nodes[link.end]) for link in links]
  figure, named = go.Figure(), set()
  for link, middle in zip(links, middles, strict=True):
    size = abs(link.value) / largest
    look = {
      'color': colours[link.group],
      'dash': 'dot' if link.dash else 'solid',
    }
    if link.group not in named:  # in the legend, as wide as any
      name = style.text(link.group)
      figure.add_scatter(x=[None], y=[None], mode='lines', line=look, name=name)
      named.add(link.group)
    start, end = nodes[link.start], nodes[link.end]
    figure.add_scatter(
      **_xy([(start.x, start.y), middle, (end.x, end.y)]),
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
    hovertext=[hover_text(link.hover) for link in links],
    **common,
  )
  figure.add_scatter(
    **_xy((node.x, node.y) for node in nodes.values()),
    mode='markers+text',
    marker={'size': 15, 'color': 'white', 'line': {'width': 2}},
    text=[style.text(node.label) for node in nodes.values()],
    textposition='top center',
    hovertext=[hover_text(node.hover) for node in nodes.values()],
    **common,
  )
  figure = style.styled(figure, x=x_title, y='', height=_HEIGHT)
  figure.update_yaxes(
    tickvals=sorted(lanes),
    ticktext=[style.text(lanes[y]) for y in sorted(lanes)],
    range=[min(lanes) - 0.6, max(lanes) + 1.2],
  )
  return figure.update_layout(
    title={'text': style.text(title)},
    margin={'t': 50, 'b': 110},
    legend={'yref': 'container', 'y': 0.01, 'yanchor': 'bottom'},
  )


def _middle(start: Node, end: Node) -> tuple[float, float]:
  """Returns a link's middle, bent past the nodes between its ends."""
  x, y = (start.x + end.x) / 2, (start.y + end.y) / 2
  return x, y + 0.1 * abs(end.x - start.x)


def _xy(places: Iterable[tuple[float, float]]) -> dict[str, list[float]]:
  xs, ys = zip(*places, strict=True) if (places := list(places)) else ((), ())
  return {'x': list(xs), 'y': list(ys)}
