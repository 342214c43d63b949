"""The study's figures: results in, charts out."""

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from experiments import charts
from experiments.refusal_tuning.answer_metrics import OUTCOMES
from experiments.refusal_tuning.settings import HELD_OUT, REAL, TEST

TEST_REAL = TEST + REAL
SPLITS = {
  TEST: 'held-out entities',
  TEST_REAL: 'held-out entities, made-up ones left out',
  HELD_OUT: 'held-out relation',
  HELD_OUT + REAL: 'held-out relation, likewise',
}


def outcomes(results: Mapping) -> go.Figure:
  """Shows what every arm's answers are."""
  names = dict(
    zip(OUTCOMES, ('accuracy', 'incorrect', 'refusal_rate'), strict=True)
  )
  panels = {
    title: [
      charts.Bar.of(
        arm['arm'], arm[split]['metrics'][metric]['after'], group=outcome
      )
      for arm in results['arms']
      for outcome, metric in names.items()
    ]
    for split, title in SPLITS.items()
    if split in results['arms'][0]
  }
  return charts.bars(
    panels,
    value_title='share of questions',
    groups=list(OUTCOMES),
    horizontal=True,
    percent=True,
    range=(0, 1),
  )


def known_metrics(arm: Mapping) -> Mapping:
  """Metrics of what is known: by the truth where that is known of all.

  Else by what was answered right before, of real entities alone.
  """
  truth = arm[TEST]['by_truth']
  if truth and truth['over_conservativeness']['after']['value'] is not None:
    return truth
  return arm.get(TEST_REAL, arm[TEST])['metrics']


def costs(results: Mapping) -> go.Figure:
  """Shows refusals of the unknown against refusals of the known."""
  rows = []
  for arm in results['arms'][1:]:
    metrics = known_metrics(arm)
    for name, said in (
      ('prudence', 'unknown and not answered right: declined'),
      ('over_conservativeness', 'known: declined'),
    ):
      rows.append(charts.Dot.of(arm['arm'], metrics[name]['after'], group=said))
  return charts.dots(
    rows,
    x_title='share declined, held-out entities',
    percent=True,
    range=(0, 1),
  )


def certainty(results: Mapping) -> go.Figure:
  """Shows which errors and which right answers are given up."""
  rows = {}
  for name, title in (
    ('errors', 'answered wrong before'),
    ('known', 'answered right before'),
  ):
    rows[title] = [
      charts.Bar.of(arm['arm'], arm[TEST]['certainty'][name][kind], group=kind)
      for arm in results['arms'][1:]
      for kind in ('certain', 'uncertain')
    ]
  return charts.bars(
    rows,
    value_title='share declined after',
    horizontal=True,
    percent=True,
    range=(0, 1),
  )


def training(results: Mapping) -> go.Figure:
  """Shows every arm's loss on its rows."""
  lines = []
  for arm in results['arms']:
    if 'training' in arm:
      records = arm['training']['records']
      lines.append(
        charts.Line(
          arm['arm'],
          [each['step'] for each in records],
          [each['loss'] for each in records],
        )
      )
  return charts.lines(lines, x_title='update', y_title='loss, nats')


def detectors(inside: Mapping) -> go.Figure:
  """Shows how well detectors tell the unknown, before and after."""
  found = [*(inside['latents'] or {}).get('latents', ()), *inside['directions']]
  rows = [
    charts.Dot.of(each['name'], each['auroc'][side], group=side)
    for each in found
    for side in ('before', 'after')
  ]
  return charts.dots(
    rows,
    x_title='AUROC, known against unknown entities',
    reference=0.5,
    range=(0, 1),
  )


def steering(inside: Mapping) -> go.Figure:
  """Shows what adding the unknown latent does, beside random ones."""
  found = inside['steering']['doses']
  panels = {}
  for side in ('before', 'after'):
    mine = [each[side]['refusal'] for each in found]
    panels[f'{side} tuning'] = [
      _line(name, found, [each[key] for each in mine], dash)
      for name, key, dash in (
        (inside['steering']['target'], 'change', False),
        ('random ones at the same divergence', 'random_change', True),
      )
    ]
  return charts.lines(
    panels,
    x_title='dose, in norms of the stream',
    y_title='change of P(refusal begins)',
  )


def _line(name, found, estimates: Sequence[Mapping], dash) -> charts.Line:
  return charts.Line(
    name,
    [each['dose'] for each in found],
    [each['value'] for each in estimates],
    [each['low'] for each in estimates],
    [each['high'] for each in estimates],
    dash=dash,
  )


def cosines(inside: Mapping) -> go.Figure:
  """Shows how far detector and controller agree, layer by layer."""
  rows, null = [], []
  for layer in inside['controllers']['layers']:
    for pair in layer['cosines']:
      if pair['b'] == 'controller.after' and pair['a'] != 'controller.before':
        rows.append(
          charts.Dot.of(
            f'resid_post.{layer["layer"]}',
            pair['cosine'],
            group=pair['a'],
            hover=f'random: {pair["null"]:.2f} at most (95 %)',
          )
        )
        null.append(pair['null'])
  bound = max(null)
  return charts.dots(
    rows,
    x_title='cosine with the controller of the tuned model',
    reference={'random, 95 %': (-bound, bound)},
    range=(-1, 1),
  )


def patched(inside: Mapping, group: str) -> go.Figure:
  """Shows what each tuned component does in the untuned model."""
  rows = [
    charts.Bar.of(each['name'], each['into'][group]['share'])
    for each in inside['weights']['components']
    if group in each['into'] and each['kind'] != 'head'
  ]
  return charts.bars(
    rows,
    value_title='share of the change of refusal log-odds',
    label_title='tuned component',
    horizontal=True,
    percent=True,
    title={
      'known': 'known entities',
      'unknown': 'unknown entities',
      'apart': 'unknown less known',
    }[group],
  )
