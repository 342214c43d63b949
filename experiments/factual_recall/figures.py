"""The study's figures: results in, charts out."""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from experiments import charts
from experiments.factual_recall.dissection import GROUPS, SAID
from experiments.factual_recall.movers import SOURCES

_ARMS = {
  'none': 'as it is',
  'mask': 'last layer masked',
  'intercept': 'intercept taken out',
  'both': 'both',
  'both_frozen': 'both, final norm held',
  'both_in_sample': 'both, fitted on the same subjects',
  'mean': "control: the MLP's mean output taken out",
  'random': 'control: a random vector of that size',
}


def label(run: Mapping) -> str:
  """Names a task with its number of demonstrations."""
  return f'{run["task"]}, {run["shots"]}-shot'


def sender_maps(runs: Sequence[Mapping], which: str = 'total') -> go.Figure:
  """Shows the effect of every head and MLP, layer by layer, for each run."""
  values = {label(run): np.array(run['maps'][which]) for run in runs}
  L, S = next(iter(values.values())).shape
  return charts.heatmap(
    values,
    x=[*map(str, range(S - 1)), 'MLP'],
    y=list(map(str, range(L))),
    x_title='head, and the MLP',
    y_title='layer',
    colour_title='change of pi(Y), %',
  )


def receiver_maps(runs: Sequence[Mapping]) -> list[go.Figure]:
  """Shows every sender's effect through one later component alone.

  Returns:
    A figure per task and receiver of --receivers.
  """
  found = []
  for run in runs:
    for name, values in run['maps'].items():
      if name.startswith('through.'):
        values = np.array(values)
        layers, S = values.shape
        found.append(
          charts.heatmap(
            {f'{label(run)}: through {name.removeprefix("through.")}': values},
            x=[*map(str, range(S - 1)), 'MLP'],
            y=list(map(str, range(layers))),
            x_title='head, and the MLP',
            y_title='layer',
            colour_title='change of pi(Y), %',
          )
        )
  return found


def attention_map(runs: Sequence[Mapping]) -> go.Figure:
  """Shows every head's attention to the subject."""
  values = {label(run): np.array(run['maps']['attention']) for run in runs}
  L, N = next(iter(values.values())).shape
  return charts.heatmap(
    values,
    x=list(map(str, range(N))),
    y=list(map(str, range(L))),
    x_title='head',
    y_title='layer',
    colour_title='attention from the last token to the subject',
  )


def strongest(run: Mapping) -> go.Figure:
  """Shows total and direct effects of the strongest senders."""
  rows = [
    charts.Dot.of(
      sender['name'],
      sender[kind],
      group=kind,
      hover=f'P(answer) {sender["p_answer"]:.3f}, top-1 {sender["top1"]:.1%}',
    )
    for sender in run['patching']['listed']
    for kind in ('total', 'direct')
  ]
  return charts.dots(
    rows,
    x_title='change of pi(Y) when it is replaced, %',
    reference=0,
    title=label(run),
  )


def sources(run: Mapping) -> go.Figure:
  """Shows from which tokens the argument heads take what they write."""
  rows = [
    charts.Bar.of(head['name'], head['sources'][name], group=name)
    for head in run['movers']['heads']
    for name in SOURCES
  ]
  return charts.bars(
    rows,
    value_title='direct contribution to pi(Y)',
    label_title='head',
    title=label(run),
  )


def explained(runs: Sequence[Mapping]) -> go.Figure:
  """Shows how much of each MLP's output the regression explains."""
  panels = {}
  for run in runs:
    layers = run['regression']
    panels[label(run)] = [
      _line(said, [each[key] for each in layers])
      for key, said in (
        ('r2', 'in sample'),
        ('r2_held_out', 'held-out subjects'),
        ('r2_control', "with subjects' intercepts"),
      )
    ]
  # R2 of unseen subjects may be far below 0, where nothing is to be read.
  return charts.lines(
    panels, x_title='layer of the MLP', y_title='R2', y_range=(-1, 1.05)
  )


def gains(run: Mapping) -> go.Figure:
  """Shows each head's net gain in the MLPs that were looked at closely."""
  panels = {
    f'MLP {each["layer"]}': [
      charts.Dot.of(
        row['name'].split('H')[-1], row['gain'], group=row['verdict']
      )
      for row in each['regressors']
      if row['name'] != 'other'
    ]
    for each in run['regression']
    if 'function' in each
  }
  return charts.dots(
    panels,
    x_title='net gain 1 + alpha',
    y_title='head of the same layer',
    groups=('erases', 'neither', 'amplifies'),
    reference={'as written': 1.0},
    title=label(run),
  )


def intercepts_alike(results: Mapping) -> go.Figure:
  """Shows how alike the constant parts of an MLP are across tasks."""
  panels = {
    f'{shots}-shot': [
      charts.Line(f'{one} and {two}', list(range(len(cosines))), cosines)
      for one, others in pairs.items()
      for two, cosines in others.items()
    ]
    for shots, pairs in results['intercepts_alike'].items()
  }
  return charts.lines(
    panels,
    x_title='layer of the MLP',
    y_title='cosine of the intercepts of two tasks',
    y_range=(-1.05, 1.05),
  )


def function_effects(run: Mapping) -> go.Figure:
  """Shows what taking out the intercepts does to answer and subject."""
  rows = [
    charts.Bar.of(
      f'MLP {each["layer"]}, {said}',
      each['function']['effects'][kind]['removed'][what],
      group={'answer': 'pi(Y)', 'name': 'pi(N)'}[what],
    )
    for each in run['regression']
    if 'function' in each
    for kind, said in (
      ('intercept', 'constant'),
      ('control intercept', 'constant beside subjects'),
      ('subject', "subjects' own"),
    )
    for what in ('answer', 'name')
  ]
  return charts.bars(
    rows,
    value_title='change when it is taken out',
    reference=0,
    title=label(run),
  )


def trajectories(runs: Sequence[Mapping]) -> go.Figure:
  """Shows pi of answer and subject on their way through the layers."""
  panels = {}
  for run in runs:
    found = run['trajectory']
    panels[label(run)] = [
      _line(said, found[key], found['places'])
      for key, said in (('pi', 'pi(Y), answer'), ('pi_name', 'pi(N), subject'))
    ]
  return charts.lines(panels, x_title='place', y_title='logit less the mean')


def block_changes(runs: Sequence[Mapping]) -> go.Figure:
  """Shows what every block does to log P(answer)."""
  panels = {
    label(run): [
      _line(
        said, [each['log_prob'][part] for each in run['trajectory']['blocks']]
      )
      for part, said in (('attn', 'attention'), ('mlp', 'MLP'))
    ]
    for run in runs
  }
  return charts.lines(
    panels, x_title='layer', y_title='change of log P(answer)', reference=0
  )


def frequencies(runs: Sequence[Mapping]) -> go.Figure:
  """Shows how what layers write goes with how common tokens are."""
  panels = {
    label(run): [
      _line(
        said,
        [each['frequency'][part] for each in run['last_writes']['layers']],
      )
      for part, said in (
        ('attn', 'attention'),
        ('mlp', 'MLP'),
        ('intercept', 'intercept of the MLP'),
      )
    ]
    for run in runs
  }
  return charts.lines(
    panels,
    x_title='layer',
    y_title="Spearman's rho with log frequency",
    reference=0,
  )


def mitigations(runs: Sequence[Mapping]) -> go.Figure:
  """Shows P(answer) with the last layer's restraint undone."""
  rows = [
    charts.Bar.of(
      label(run), run['mitigation']['arms'][arm]['mean']['prob'], group=said
    )
    for run in runs
    for arm, said in _ARMS.items()
  ]
  return charts.bars(
    rows,
    value_title='mean P(answer)',
    percent=True,
    groups=list(_ARMS.values()),
  )


def before_and_after(run: Mapping, most: int = 40) -> go.Figure:
  """Shows P(answer) of each subject before and after both mitigations."""
  rows = [
    charts.Dot(subject, float(value), group=said)
    for subject, *values in list(
      zip(
        run['subjects'],
        run['maps']['prob_before'],
        run['maps']['prob_after'],
        strict=True,
      )
    )[:most]
    for said, value in zip(('before', 'after'), values, strict=True)
  ]
  return charts.dots(rows, x_title='P(answer)', percent=True, title=label(run))


def knockouts(runs: Sequence[Mapping]) -> go.Figure:
  """Shows what cutting the last token's view of each group does."""
  panels = {
    label(run): [
      _line(group, run['inside']['knockout']['groups'][group][SAID]['change'])
      for group in GROUPS
    ]
    for run in runs
  }
  width = runs[0]['inside']['knockout']['width']
  return charts.lines(
    panels,
    x_title=f'centre of {width} layers',
    y_title='change of P of what it says, %',
    reference=0,
  )


def extractions(runs: Sequence[Mapping]) -> go.Figure:
  """Shows in which layers attention and MLPs extract the answer."""
  panels = {}
  for run in runs:
    rates = run['inside']['extraction']['rates']
    panels[label(run)] = [
      _line(name, found['raw'][SAID]['layers'], dash='without' in name)
      for name, found in rates.items()
    ]
  return charts.lines(panels, x_title='layer', y_title='extraction rate')


def known_and_unknown(runs: Sequence[Mapping]) -> go.Figure:
  """Shows how well each signal tells known from unknown subjects."""
  panels = {
    label(run): [
      charts.Dot.of(
        row['name'],
        row['auroc'],
        group='detector' if row['detector'] else 'recall',
        hover=f'known {row["known"]:.3g}, unknown {row["unknown"]:.3g}',
      )
      for row in run['inside']['known_and_unknown']['signals']
    ]
    for run in runs
  }
  return charts.dots(
    panels,
    x_title='AUROC, known above unknown',
    reference={'chance': 0.5},
    range=(0, 1),
  )


def _line(name, estimates, x=None, dash=False) -> charts.Line:
  """Returns a line of estimates' dicts."""
  bound = lambda key: [each[key] for each in estimates]
  return charts.Line(
    name,
    list(range(len(estimates))) if x is None else list(x),
    bound('value'),
    low=bound('low'),
    high=bound('high'),
    dash=dash,
  )
