"""The study's figures: results in, charts out."""

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from experiments import charts
from experiments.knowledge_probing.probe_records import CATEGORIES, DECISIONS
from experiments.knowledge_probing.summary import ALL

_SAID = {
  'right': 'right',
  'hallucinated': 'informative and wrong',
  'declined': 'declines',
}


def answers(results: Mapping) -> go.Figure:
  """Shows what greedy answers are, by relation."""
  rows = [
    charts.Bar.of(name, found[key], group=said)
    for name, found in results['answers'].items()
    for key, said in _SAID.items()
  ]
  return charts.bars(
    rows,
    value_title='share of greedy answers',
    label_title='relation',
    horizontal=True,
    percent=True,
    range=(0, 1),
  )


def categories(results: Mapping) -> go.Figure:
  """Shows SliCK's categories, by relation."""
  return _shares(results['categories'], CATEGORIES, 'share of questions')


def decisions(results: Mapping) -> go.Figure:
  """Shows what every rule makes of all questions."""
  found = {
    rule: by_relation[ALL] for rule, by_relation in results['decisions'].items()
  }
  return _shares(found, DECISIONS, 'share of questions')


def _shares(
  counts: Mapping[str, Mapping[str, int]], order: Sequence[str], title: str
) -> go.Figure:
  rows = []
  for name, mine in counts.items():
    n = sum(mine.values())
    rows += [
      charts.Bar(
        name,
        mine.get(key, 0) / n,
        group=key,
        hover=f'{mine.get(key, 0)} of {n}',
      )
      for key in order
    ]
  return charts.bars(
    rows,
    value_title=title,
    groups=list(order),
    horizontal=True,
    percent=True,
    range=(0, 1),
  )


def detectors(results: Mapping) -> go.Figure:
  """Shows how well every detector tells right answers, on test questions."""
  rows = [
    charts.Dot.of(each['name'], each['auroc'], group=each['kind'])
    for each in results['detectors']
  ]
  return charts.dots(
    rows,
    x_title='AUROC for a right greedy answer, test questions',
    reference=0.5,
    range=(0.3, 1),
  )


def fewer_samples(results: Mapping) -> go.Figure:
  """Shows how many questions seem unknown, by the number of samples."""
  found = results['unknown_by_samples']
  x = [each['samples'] for each in found]
  return charts.lines(
    [
      charts.Line('no sample is right', x, [each['unknown'] for each in found]),
      charts.Line(
        'what no right sample leaves possible (95 %)',
        x,
        [each['resolution'] for each in found],
        dash=True,
      ),
    ],
    x_title='samples',
    y_title='share of questions; probability of a right answer',
  )


def agreement(results: Mapping) -> go.Figure:
  """Shows on how many answers each two judges agree."""
  found = results['judges']['agreement']
  names = list(found)
  return charts.heatmap(
    [[found[one][other] for other in names] for one in names],
    x=names,
    y=names,
    x_title='judge',
    y_title='judge',
    colour_title='share of answers',
  )
