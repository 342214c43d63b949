"""Links lead from node to node, as wide as their values are large."""

import pytest

from experiments.charts import Link, Node, graph
from tests.experiments.charts.markup import HOSTILE, markup

NODES = {
  name: Node(x=x, y=y, label=name, hover=f'about {name}')
  for name, x, y in (('a', 0, 0), ('b', 2, 1), ('c', 4, 0))
}


def link(start, end, value, group='for', **more):
  given = {'dash': False, 'hover': f'{start} to {end}'} | more
  return Link(start=start, end=end, value=value, group=group, **given)


def drawn(nodes=NODES, links=(), **more):
  given = {'x_title': 'layer', 'lanes': {0: 'low', 1: 'high'}} | more
  return graph(nodes, links, **given)


def test_links_nodes_and_legend():
  links = [
    link('a', 'b', -2.0),
    link('b', 'c', 1.0, 'against', dash=True),
    link('a', 'c', 0.5),
  ]
  figure = drawn(
    links=links, groups={'for': '#ff0000', 'against': '#0000ff'}, title='T'
  )
  named = [t for t in figure.data if t.name]
  assert [(t.name, t.line.color, t.line.dash) for t in named] == [
    ('for', '#ff0000', 'solid'),
    ('against', '#0000ff', 'dot'),
  ]
  lines = [t for t in figure.data if t.mode == 'lines' and not t.name]
  assert [t.line.width for t in lines] == [6.5, 3.5, 2.0]
  assert (lines[0].x, lines[0].y) == ((0, 1, 2), (0, 0.7, 1))
  middles, nodes = figure.data[-2:]
  assert middles.hovertext == ('a to b', 'b to c', 'a to c')
  assert middles.x == (1, 3, 2)
  assert nodes.text == ('a', 'b', 'c') and nodes.hovertext[0] == 'about a'
  assert figure.layout.yaxis.ticktext == ('low', 'high')
  assert figure.layout.title.text == 'T'


def test_nothing_leads_anywhere():
  figure = drawn()
  assert len(figure.data) == 2 and figure.data[1].text == ('a', 'b', 'c')


def test_what_cannot_be_drawn():
  with pytest.raises(ValueError, match="rows of .'for'.; groups are"):
    drawn(links=[link('a', 'b', 1.0)], groups=['against'])
  with pytest.raises(KeyError, match='nowhere'):
    drawn(links=[link('a', 'nowhere', 1.0)])


def test_text_is_shown_as_it_is():
  nodes = {'a': Node(x=0, y=0, label=HOSTILE, hover=HOSTILE)}
  links = [link('a', 'a', 1.0, HOSTILE, hover=HOSTILE)]
  named = {'x_title': HOSTILE, 'lanes': {0: HOSTILE}, 'title': HOSTILE}
  assert not markup(drawn(nodes, links, **named))
