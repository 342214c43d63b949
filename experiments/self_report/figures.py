"""What a model says of its own knowledge, from the results of `self_report`."""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from experiments.charts import Section, style
from experiments.charts.style import error_bars, headed
from experiments.latents.class_look import LABEL_COLOURS, TITLES
from experiments.self_report import tables
from experiments.self_report.tables import OTHER, SHOWN
from experiments.steering import (
  LINES,
  ORIGINAL_COLOUR,
  RANDOM_LATENT,
  STEERED,
  SWEEP_KINDS,
)

ALL = 'all'
_SYMBOLS = dict(zip(SHOWN, ('circle', 'diamond', 'x'), strict=True))


def sections(
  results: Mapping, examples: Sequence[Mapping], per_class: int = 5
) -> list[Section]:
  """The report's sections.

  Args:
    results: What `self_report` writes to results.json.
    examples: Its records, a question each.
    per_class: How many questions to list.
  """
  wording = results['wording']
  asked = (
    f'The user says "{wording["question"]}", '
    + (
      f'the answer is begun with "{wording["prefix"]}"'
      if wording['prefix']
      else "the model's turn is opened"
    )
    + f', and what counts is {_axis(results)}.'
  )
  made = [
    Section(
      title='What is said of known and of unknown entities',
      text=[asked, _WORDS],
      figures=[conditions(results, examples)],
    )
  ]
  if results['controls']:
    made.append(
      Section(
        title='What latents change, and what random latents change',
        text=[_EFFECT_WORDS],
        figures=[effects(results)],
        tables=[tables.effect_table(results)],
      )
    )
  if any(a['kind'] in SWEEP_KINDS for a in results['arms']):
    made.append(
      Section(
        title='Dose and response', text=[_DOSE_WORDS], figures=[dose(results)]
      )
    )
  made.append(
    Section(
      title='Questions',
      text=['The ones that steering moves most come first.'],
      tables=[tables.example_table(results, examples, per_class)],
    )
  )
  return made


_WORDS = (
  'A violin per condition and entity type: the original, and the latent of the '
  'other class added at the last token of the name. Points are questions; the '
  'line across is the mean.'
)
_EFFECT_WORDS = (
  'The change to the original, question by question, with 95 % intervals '
  '(Student; all questions about an entity count as one observation). Small '
  'faint dots are random latents of the same layer, as the run drew them, '
  'added at the same norm: an effect of its own lies outside them. q is the '
  'p-value of the paired t-test, adjusted by Benjamini and Hochberg over '
  'single types.'
)
_DOSE_WORDS = (
  'The dose is the norm of what is added over the mean norm of the stream it '
  'is added to; negative is the opposite direction, 0 the original. All types; '
  'the band is the range of random latents.'
)


def conditions(results: Mapping, examples: Sequence[Mapping]) -> go.Figure:
  """Distributions of the self-report, original and steered."""
  metric = results['metric']
  steered = {
    arm['target']: arm['name']
    for arm in results['arms']
    if arm['kind'] == STEERED
  }
  original = results['arms'][0]['name']
  classes = [name for name in TITLES if name in results['asked']]
  figure = make_subplots(
    rows=1,
    cols=len(classes),
    shared_yaxes=True,
    horizontal_spacing=0.04,
    subplot_titles=[TITLES[name] for name in classes],
  )
  shown = set()
  for column, name in enumerate(classes, start=1):
    mine = [e for e in examples if e['class'] == name]
    arms = [(original, ORIGINAL_COLOUR)]
    if OTHER[name] in steered:
      arms.append((steered[OTHER[name]], LABEL_COLOURS[OTHER[name]]))
    for arm, colour in arms:
      figure.add_trace(
        go.Violin(
          name=style.text(arm),
          legendgroup=arm,
          showlegend=arm not in shown,
          x=[style.text(e['type']) for e in mine],
          y=[e['arms'][arm][metric] for e in mine],
          line={'color': colour, 'width': 1},
          points='all' if len(mine) <= 400 else False,
          pointpos=0,
          jitter=0.4,
          marker={'size': 3, 'opacity': 0.5},
          meanline={'visible': True},
          spanmode='hard',
          hovertext=[style.text(e['entity']) for e in mine],
          hoveron='points',
        ),
        row=1,
        col=column,
      )
      shown.add(arm)
  figure = style.styled(figure, x='', y='', height=460)
  figure.update_yaxes(title_text=style.text(_axis(results)), col=1)
  figure.update_layout(violinmode='group')
  return headed(figure)


def effects(results: Mapping) -> go.Figure:
  """Changes under the arms, by class and type, with random latents."""
  metric = results['metric']
  classes = [name for name in TITLES if name in results['asked']]
  figure = make_subplots(
    rows=len(classes),
    cols=1,
    shared_xaxes=True,
    vertical_spacing=0.12,
    subplot_titles=[TITLES[name] for name in classes],
  )
  arms = [
    arm
    for kind in SHOWN
    for arm in results['arms']
    if arm['kind'] == kind and arm['coefficient']
  ]
  controls = {
    entry['target']: entry
    for entry in results['controls']
    if entry['kind'] == RANDOM_LATENT
  }
  width = 0.8 / max(1, len(arms))
  for row, name in enumerate(classes, start=1):
    scopes = list(results['asked'][name])
    for j, arm in enumerate(arms):
      at = np.arange(len(scopes)) + (j - (len(arms) - 1) / 2) * width
      found = [arm['classes'][name][s][metric]['effect'] for s in scopes]
      colour = LABEL_COLOURS[arm['target']]
      if arm['kind'] == STEERED and arm['target'] in controls:
        figure.add_trace(
          _dots(controls[arm['target']], name, scopes, at, width, metric, row),
          row=row,
          col=1,
        )
      figure.add_trace(
        go.Scatter(
          name=style.text(arm['name']),
          legendgroup=arm['name'],
          showlegend=row == 1,
          x=at,
          y=[e['value'] for e in found],
          mode='markers',
          marker={'color': colour, 'symbol': _SYMBOLS[arm['kind']], 'size': 9},
          error_y=error_bars([_whole(e) for e in found]),
          hovertext=[style.text(_said(arm['name'], e)) for e in found],
          hoverinfo='text',
        ),
        row=row,
        col=1,
      )
    figure.add_hline(y=0, line={'color': 'black', 'width': 1}, row=row, col=1)
    figure.update_xaxes(
      tickvals=list(range(len(scopes))),
      ticktext=[
        style.text(f'{s} (n = {results["asked"][name][s]})') for s in scopes
      ],
      showticklabels=True,
      row=row,
      col=1,
    )
  figure = style.styled(
    figure, x='', y='change to the original', height=330 * len(classes)
  )
  return headed(figure)


def _dots(control, name, scopes, at, width, metric, row) -> go.Scatter:
  """All random latents of a target, spread over its column."""
  x, y, said = [], [], []
  for place, scope in zip(at, scopes, strict=True):
    found = control['classes'][name][scope][metric]['effects']
    spread = np.linspace(-0.35, 0.35, len(found)) if len(found) > 1 else [0]
    x += [place + width * s for s in spread]
    y += found.values()
    said += [style.text(f'{n}: {e:.3g}') for n, e in found.items()]
  return go.Scatter(
    name=style.text(f'random latents for {control["target"]}'),
    legendgroup=f'random {control["target"]}',
    showlegend=row == 1,
    x=x,
    y=y,
    mode='markers',
    marker={
      'color': LABEL_COLOURS[control['target']],
      'opacity': 0.35,
      'size': 4,
    },
    hovertext=said,
    hoverinfo='text',
  )


def dose(results: Mapping) -> go.Figure:
  """The self-report over doses, one panel per class of entities."""
  metric = results['metric']
  classes = [name for name in TITLES if name in results['asked']]
  figure = make_subplots(
    rows=1,
    cols=len(classes),
    shared_yaxes=True,
    horizontal_spacing=0.04,
    subplot_titles=[TITLES[name] for name in classes],
  )
  # The wrong sign continues the latent's line below 0.
  lines = {
    'latent': LINES['latent'] + LINES['wrong sign'],
    'mean difference': LINES['mean difference'],
  }
  targets = list(
    dict.fromkeys(a['target'] for a in results['arms'] if a['target'])
  )
  for column, name in enumerate(classes, start=1):
    value = lambda arm, name=name: arm['classes'][name][ALL][metric]['mean']
    for target in targets:
      mine = [a for a in results['arms'] if a['target'] == target]
      kinds = LINES['random latents']
      band = {0.0: [value(results['arms'][0])['value']]}
      for arm in mine:
        if arm['kind'] in kinds:
          band.setdefault(arm['dose'], []).append(value(arm)['value'])
      if len(band) > 1:
        at = sorted(band)
        figure.add_trace(
          go.Scatter(
            name=f'random latents for {target}',
            legendgroup=f'random {target}',
            showlegend=column == 1,
            x=at + at[::-1],
            y=[max(band[d]) for d in at] + [min(band[d]) for d in at[::-1]],
            fill='toself',
            mode='lines',
            line={'width': 0},
            fillcolor=LABEL_COLOURS[target],
            opacity=0.18,
            hoverinfo='skip',
          ),
          row=1,
          col=column,
        )
      for line, kinds in lines.items():
        swept = [a for a in mine if a['kind'] in kinds]
        if not swept:
          continue
        points = [(0.0, value(results['arms'][0]))]
        points = sorted(
          points + [(a['dose'], value(a)) for a in swept],
          key=lambda point: point[0],
        )
        title = f'{line} for {target}'
        figure.add_trace(
          go.Scatter(
            name=title,
            legendgroup=title,
            showlegend=column == 1,
            x=[x for x, _ in points],
            y=[e['value'] for _, e in points],
            mode='lines+markers',
            line={
              'color': LABEL_COLOURS[target],
              'dash': 'solid' if line == 'latent' else 'dot',
            },
            error_y=error_bars([_whole(e) for _, e in points]),
            hovertext=[
              style.text(_said(f'{title}, dose {x:.3g}', e)) for x, e in points
            ],
            hoverinfo='text',
          ),
          row=1,
          col=column,
        )
  figure = style.styled(figure, x='dose', y='', height=440)
  figure.update_yaxes(title_text=style.text(_axis(results)), col=1)
  return headed(figure)


def _axis(results) -> str:
  yes, no = (repr(results['wording'][word]) for word in ('yes', 'no'))
  if results['metric'] == 'prob':
    return f'p({yes}) - p({no})'
  return f'logit({yes}) - logit({no})'


def _whole(found: Mapping) -> Mapping:
  """With an interval of no width where there is none."""
  return found | {
    end: found['value'] if found[end] is None else found[end]
    for end in ('low', 'high')
  }


def _said(name, found) -> str:
  return (
    f'{name}: {style.number(found["value"])} '
    f'[{style.number(found["low"])}, {style.number(found["high"])}], '
    f'n = {found["n"]}'
  )
