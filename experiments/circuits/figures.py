"""Circuits from latents to refusals, from the results of `circuits`."""

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go

from experiments.charts import Section, heatmap, style
from experiments.charts.style import error_bars, headed
from experiments.circuits import tables
from experiments.circuits.components import GROUPS
from experiments.circuits.graph import NEGATIVE, POSITIVE, TOKENS, graph, signed
from experiments.latents import CLASSES
from experiments.latents.class_look import LABEL_COLOURS, TITLES


def sections(results: Mapping) -> list[Section]:
  """The report's sections: the default, then each cause."""
  return [
    _default(results['polarity'], results['metric']),
    *(_cause(cause) for cause in results['causes']),
  ]


def _default(polarity: Mapping, metric: Mapping) -> Section:
  share = metric['first_token_tells']
  spelled = lambda counts: ', '.join(f"'{token}'" for token in counts)
  return Section(
    title='Does it decline, or answer, by default?',
    text=[
      f'Measured: the {metric["what"]}. Its refusals begin with '
      f'{spelled(metric["refusals"])}; its answers with '
      f'{spelled(metric["answers"])}. By its first token alone '
      f'{share["value"]:.1%} of {share["n"]} of its own answers are told '
      'rightly.',
      'Entity cut: no later token sees the entity, in any layer; questions '
      'that differ only in a name, of as many tokens, are one computation '
      'then, and count once in n. Other cut: '
      'the same for as many tokens right before it. Circuit cut, rest cut: '
      'only heads of the circuits below lose sight of it at their tokens, or '
      'all but those. A latent ablated is 0 '
      "from the entity to the end, the SAE's error kept.",
    ],
    figures=[conditions(polarity)],
    tables=[tables.conditions(polarity)],
  )


def _cause(cause: Mapping) -> Section:
  title = f'{cause["name"]}, {TITLES[cause["entity_class"]]}'
  if not cause['traced']:
    return Section(
      title=title,
      text=['It moves the metric too little on validation questions to trace.'],
      tables=[tables.totals(cause)],
    )
  choice, gap = cause['choice'], cause['attribution']['largest_gap']
  return Section(
    title=title,
    text=[
      f'The latent is {cause["latent"]}, changed at {cause["positions"]}. '
      f'Of {cause["verification"]["candidates"]} components that this changes, '
      f'{cause["verification"]["size"]} were chosen on '
      f'{cause["validation_questions"]} validation questions: the fewest that '
      f'keep, and take away, {choice["goal"]:.0%} of the effect'
      + ('' if choice['reached'] else ', which none but all do')
      + f'. All else is of {cause["questions"]} test questions.',
      'The graph: solid edges were verified by patching them alone on test '
      'questions (max-T permutation, all edges together, p <= 0.05, and the '
      'sign of the validation questions); dotted ones were not.',
      'Direct attribution is of logits before the soft cap. Its parts add up '
      f'to the metric to {gap:.1g} logits.',
    ],
    figures=[graph(cause), components(cause), sizes(cause), attributed(cause)],
    tables=[
      tables.totals(cause),
      tables.verification(cause),
      tables.components(cause),
      tables.edges(cause),
      *tables.projections(cause),
    ],
  )


def conditions(polarity: Mapping) -> go.Figure:
  """Refusals by condition and class of entities."""
  names = [entry['name'] for entry in polarity['conditions']]
  figure = go.Figure()
  for label in CLASSES:
    cells = [
      entry['classes'][label]
      for entry in polarity['conditions']
      if label in entry['classes']
    ]
    if not cells:
      continue
    refused = [cell['refused'] for cell in cells]
    figure.add_trace(
      go.Bar(
        x=list(map(style.text, names)),
        y=[e['value'] for e in refused],
        error_y=error_bars(refused),
        name=TITLES[label],
        marker={'color': LABEL_COLOURS[label]},
        hovertext=[
          f'{style.text(name)}, {TITLES[label]}<br>'
          f'{e["value"]:.1%} [{e["low"]:.1%}, {e["high"]:.1%}] decline, '
          f'n = {e["n"]}<br>metric {signed(cell["metric"])}'
          for name, e, cell in zip(names, refused, cells, strict=True)
        ],
        hoverinfo='text',
      )
    )
  figure = style.styled(figure, x='', y='first tokens that decline')
  figure.update_yaxes(range=[-0.02, 1.05], tickformat='.0%')
  figure.update_layout(barmode='group', title={'text': 'Refusals'})
  return headed(figure)


def components(cause: Mapping) -> go.Figure:
  """Each component's part, by layer and tokens."""
  found = cause['components']
  units = sorted(
    {_unit(c) for c in found}, key=lambda unit: (unit == 'MLP', len(unit), unit)
  )
  layers = list(range(max(c['layer'] for c in found) + 1))
  layers = layers[min(c['layer'] for c in found) :]
  shape = (len(layers), len(units))
  panels = {}
  for group in GROUPS:
    mine = [c for c in found if c['tokens'] == group]
    if not mine:
      continue
    values, dots = np.full(shape, np.nan), np.zeros(shape, bool)
    hover = np.full(shape, '', object)
    for c in mine:
      at = layers.index(c['layer']), units.index(_unit(c))
      values[at], dots[at] = c['part']['value'], c['p'] <= 0.05
      hover[at] = (
        f'{c["name"]}{", in the circuit" if c["in_circuit"] else ""}\n'
        f'95 % [{c["part"]["low"]:+.3f}, {c["part"]["high"]:+.3f}], '
        f'n = {c["part"]["n"]}, p = {c["p"]:.2g}\n'
        f'carried {signed(c["carried"])}\nlost {signed(c["lost"])}'
      )
    panels[TOKENS[group]] = values, hover.tolist(), dots
  pick = lambda i: {title: part[i] for title, part in panels.items()}
  return heatmap(
    pick(0),
    x=units,
    y=[f'layer {layer}' for layer in layers],
    x_title='heads (z) and MLP (mlp_out)',
    y_title='',
    colour_title='part of the effect, logits',
    hover=pick(1),
    significant=pick(2),
  )


def sizes(cause: Mapping) -> go.Figure:
  """What sets keep and leave, by size."""
  curve, check = cause['choice']['curve'], cause['verification']
  figure = go.Figure()
  for key, name, colour in (
    ('kept', 'kept, all others held', POSITIVE),
    ('left', 'left, the set held', NEGATIVE),
  ):
    figure.add_trace(
      go.Scatter(
        x=[point['size'] for point in curve],
        y=[point[key] for point in curve],
        mode='lines+markers',
        line={'color': colour, 'width': 1.5},
        marker={'size': 5},
        name=f'{name} (validation)',
        hovertemplate=f'%{{x}} components: %{{y:.1%}} {name}<extra></extra>',
      )
    )
    e = check[f'share_{key}']
    figure.add_trace(
      go.Scatter(
        x=[check['size']],
        y=[e['value']],
        error_y=error_bars([e]),
        mode='markers',
        marker={'color': colour, 'size': 11, 'symbol': 'diamond'},
        name=f'{name} (test)',
        hovertext=f'test: {e["value"]:.1%} [{e["low"]:.1%}, {e["high"]:.1%}], '
        f'n = {e["n"]}',
        hoverinfo='text',
      )
    )
    random = check['random'][key]
    if random['n']:
      figure.add_trace(
        go.Scatter(
          x=[check['size']],
          y=[random['mean']],
          error_y=error_bars([random | {'value': random['mean']}]),
          mode='markers',
          marker={'color': '#888', 'size': 8, 'symbol': 'x'},
          name=f'{random["n"]} random sets, {key}',
          hovertext=f'{random["n"]} random sets: mean {random["mean"]:.1%}, '
          f'{random["low"]:.1%} to {random["high"]:.1%}',
          hoverinfo='text',
        )
      )
  figure = style.styled(
    figure, x='components in the set', y='share of the effect'
  )
  figure.update_yaxes(tickformat='.0%')
  figure.update_layout(title={'text': 'How many components it takes'})
  return headed(figure)


def attributed(cause: Mapping) -> go.Figure:
  """How each part of the logits changes."""
  parts = [
    part
    for part in cause['attribution']['parts']
    if part['change']['value'] or part['clean']['value']
  ]
  changes = [part['change'] for part in parts]
  figure = go.Figure(
    go.Bar(
      x=[part['name'] for part in parts],
      y=[e['value'] for e in changes],
      error_y=error_bars(changes),
      marker={
        'color': [POSITIVE if e['value'] > 0 else NEGATIVE for e in changes]
      },
      name='change',
      hovertext=[
        f'{style.text(part["name"])}, last token<br>change '
        f'{signed(part["change"])}<br>unedited {signed(part["clean"])}<br>'
        f'n = {part["change"]["n"]}'
        for part in parts
      ],
      hoverinfo='text',
    )
  )
  figure = style.styled(
    figure, x='', y='change of the part, logits before the soft cap'
  )
  figure.update_layout(
    showlegend=False, title={'text': 'Direct logit attribution'}
  )
  return headed(figure)


def _unit(component: Mapping) -> str:
  head = component['head']
  return 'MLP' if head is None else f'head {head}'
