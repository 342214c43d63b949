"""The study's figures and tables: results in, charts out."""

from collections.abc import Mapping

import plotly.graph_objects as go

from experiments import charts
from experiments.charts.table import spelled
from experiments.circuits.circuit_graph import NEGATIVE, POSITIVE, TOKENS, graph
from experiments.circuits.components import GROUPS
from experiments.latents import CLASSES
from experiments.latents.class_look import LABEL_COLOURS, TITLES

_MOST_ROWS = 25
_SIGNS = {'towards refusal': POSITIVE, 'against refusal': NEGATIVE}


def sections(results: Mapping) -> list[charts.Section]:
  """Returns the report's sections: the default, then each edit."""
  return [
    _default(results['polarity'], results['metric']),
    *map(_edit, results['causes']),
  ]


def _default(polarity: Mapping, metric: Mapping) -> charts.Section:
  share = metric['first_token_tells']
  quoted = lambda counts: ', '.join(f"'{token}'" for token in counts)
  return charts.Section(
    title='Does it decline, or answer, by default?',
    text=[
      f'Measured: the {metric["what"]}. Its refusals begin with '
      f'{quoted(metric["refusals"])}; its answers with '
      f'{quoted(metric["answers"])}. By its first token alone '
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
    figures=[refusals(polarity)],
    tables=[_conditions_table(polarity)],
  )


def _edit(edit: Mapping) -> charts.Section:
  title = f'{edit["name"]}, {TITLES[edit["entity_class"]]}'
  if not edit['traced']:
    return charts.Section(
      title=title,
      text=['It moves the metric too little on validation questions to trace.'],
      tables=[_totals_table(edit)],
    )
  choice, gap = edit['choice'], edit['attribution']['largest_gap']
  return charts.Section(
    title=title,
    text=[
      f'The latent is {edit["latent"]}, changed at {edit["positions"]}. '
      f'Of {edit["verification"]["candidates"]} components that this changes, '
      f'{edit["verification"]["size"]} were chosen on '
      f'{edit["validation_questions"]} validation questions: the fewest that '
      f'keep, and take away, {choice["goal"]:.0%} of the effect'
      + ('' if choice['reached'] else ', which none but all do')
      + f'. All else is of {edit["questions"]} test questions.',
      'The graph: solid edges were verified by patching them alone on test '
      'questions (max-T permutation, all edges together, p <= 0.05, and the '
      'sign of the validation questions); dotted ones were not.',
      'Direct attribution is of logits before the soft cap. Its parts add up '
      f'to the metric to {gap:.1g} logits.',
    ],
    figures=[graph(edit), component_map(edit), sizes(edit), attributed(edit)],
    tables=[
      _totals_table(edit),
      _verification_table(edit['verification']),
      _components_table(edit['components']),
      *_edges_tables(edit['edges']),
      *map(_projection_table, edit['projections']),
    ],
  )


def refusals(polarity: Mapping) -> go.Figure:
  """Shows how often first tokens decline, by condition and class."""
  return charts.bars(
    [
      charts.Bar.of(
        entry['name'],
        cell['refused'],
        group=TITLES[label],
        hover=f'metric {spelled(cell["metric"])}',
      )
      for entry in polarity['conditions']
      for label, cell in entry['classes'].items()
    ],
    value_title='first tokens that decline',
    groups={TITLES[label]: LABEL_COLOURS[label] for label in CLASSES},
    percent=True,
    range=(0, 1.05),
    title='Refusals',
  )


def component_map(edit: Mapping) -> go.Figure:
  """Shows each component's part, by layer and tokens."""
  found = edit['components']
  layers, heads = ({c[key] for c in found} for key in ('layer', 'head'))
  units = {head: f'head {head}' for head in sorted(heads - {None})}
  by_group = {g: [c for c in found if c['tokens'] == g] for g in GROUPS}
  return charts.entry_map(
    {TOKENS[group]: mine for group, mine in by_group.items() if mine},
    row='layer',
    column='head',
    y={i: f'layer {i}' for i in range(min(layers), max(layers) + 1)},
    x=units | ({None: 'MLP'} if None in heads else {}),
    value=lambda c: c['part']['value'],
    p='p',
    said=lambda c: (
      f'{c["name"]}{", in the circuit" if c["in_circuit"] else ""}\n'
      f'{spelled(c["part"])}, n = {c["part"]["n"]}, p = {c["p"]:.2g}\n'
      f'carried {spelled(c["carried"])}\nlost {spelled(c["lost"])}'
    ),
    x_title='heads (z) and MLP (mlp_out)',
    y_title='',
    colour_title='part of the effect, logits',
  )


def sizes(edit: Mapping) -> go.Figure:
  """Shows what sets keep and leave of the effect, by size."""
  curve, check = edit['choice']['curve'], edit['verification']
  size, series = [check['size']], []
  for key, name in (
    ('kept', 'kept, all others held'),
    ('left', 'left, the set held'),
  ):
    random, tested = check['random'][key], check[f'share_{key}']
    series += [
      charts.Line(
        f'{name} (validation)',
        [point['size'] for point in curve],
        [point[key] for point in curve],
        group=key,
      ),
      charts.Line.of(
        f'{name} (test)', size, [tested], group=key, labels=['test']
      ),
    ]
    if random['n']:
      name = f'{random["n"]} random sets, {key}'
      spread = [[random[each]] for each in ('mean', 'low', 'high')]
      series.append(charts.Line(name, size, *spread, group='random'))
  return charts.lines(
    series,
    x_title='components in the set',
    y_title='share of the effect',
    groups={'kept': POSITIVE, 'left': NEGATIVE, 'random': '#888888'},
    percent=True,
    title='How many components it takes',
  )


def attributed(edit: Mapping) -> go.Figure:
  """Shows how each part of the logits changes."""
  towards, against = _SIGNS
  return charts.bars(
    [
      charts.Bar.of(
        part['name'],
        part['change'],
        group=towards if part['change']['value'] > 0 else against,
        hover=f'last token\nunedited {spelled(part["clean"])}',
      )
      for part in edit['attribution']['parts']
      if part['change']['value'] or part['clean']['value']
    ],
    value_title='change of the part, logits',
    groups=_SIGNS,
    title='Direct logit attribution',
  )


def _conditions_table(polarity: Mapping) -> charts.Table:
  rows = [
    [
      entry['name'],
      label,
      cell['refused']['n'],
      cell['refused'],
      cell['change_refused'],
      f'+{cell["flips"]["gained"]} / -{cell["flips"]["lost"]}',
      cell['flips']['p'],
      cell['change_metric'],
    ]
    for entry in polarity['conditions']
    for label, cell in entry['classes'].items()
  ]
  rows += [
    [
      f'{random["n"]} {random["kind"]}',
      label,
      '',
      f'mean {cell["refused"]:.1%}',
      *[''] * 3,
      f'{cell["low"]:+.3f} to {cell["high"]:+.3f}',
    ]
    for random in polarity['random']
    for label, cell in random['classes'].items()
  ]
  columns = 'condition|entities|n|decline|change|flips|p|metric changes by'
  return charts.table(columns.split('|'), rows, percent=('decline', 'change'))


def _totals_table(edit: Mapping) -> charts.Table:
  """Returns what the edit does to the metric, and what random ones do."""
  random, amount = edit['random_latents'], edit['amount']
  rows = [
    ['metric without it', edit['clean']],
    ['its effect, test questions', edit['total']],
    ['its effect, validation questions', edit['validation_total']],
  ]
  if random['n']:
    means = random['means']
    said = f'{min(means):+.3f} to {max(means):+.3f}, p = {random["p"]:.2g}'
    rows.append([f'{random["n"]} random latents', said])
  if amount:
    said = (
      f'{amount["alpha"]:.4g} x norm {amount["direction_norm"]:.3g} = '
      f"{amount['dose']:.2f} times the stream's mean norm, "
      f'{amount["stream_norm"]["value"]:.4g}'
    )
    rows.append(['added', said])
  return charts.table(['', 'logits'], rows)


def _verification_table(check: Mapping) -> charts.Table:
  """Returns what the circuit does, its complement, and random sets."""
  rows = []
  for key, name in (
    ('left', 'the circuit held as unedited'),
    ('kept', 'all other components held'),
  ):
    random, compared = check['random'][key], ['', '']
    if random['n']:
      spread = f'{random["low"]:.1%} to {random["high"]:.1%}'
      compared = [f'{random["mean"]:.1%} ({spread})', random['p']]
    rows.append([name, check[key], check[f'share_{key}'], *compared])
  columns = ['', 'effect', 'share of it', 'random sets as large', 'p']
  return charts.table(columns, rows, percent=['share of it'])


def _components_table(components: list[Mapping]) -> charts.Table:
  """Returns the circuit, and the first components that are not in it."""
  return charts.table(
    'component|in the circuit|carried|lost|direct|p, max-T'.split('|'),
    [
      [
        c['name'],
        'yes' if c['in_circuit'] else '',
        c['carried'],
        c['lost'],
        c['direct'] or '',
        c['p'],
      ]
      for i, c in enumerate(components)
      if c['in_circuit'] or i < _MOST_ROWS
    ],
  )


def _edges_tables(edges: list[Mapping]) -> list[charts.Table]:
  """Returns a table of the largest edges, if there are any."""
  largest = sorted(edges, key=lambda e: -abs(e['effect']['value']))
  rows = [
    [
      e['sender'],
      e['receiver'],
      e['effect'],
      e['validation_effect'],
      e['p'],
      e['verified'],
    ]
    for e in largest[:_MOST_ROWS]
  ]
  columns = 'from|to|effect|on validation|p, max-T|verified'
  return [charts.table(columns.split('|'), rows)] if rows else []


def _projection_table(head: Mapping) -> charts.Table:
  """Returns the tokens that a head's output speaks for."""
  listed = lambda tokens: ', '.join(
    f"'{token}' {value:+.2f}" for token, value in tokens
  )
  rows = [
    ['mean change: up', '', listed(head['promoted'])],
    ['mean change: down', '', listed(head['suppressed'])],
  ]
  for asked in head['questions']:
    said = f'{asked["question"]} ({asked["answer"]})'
    rows.append([said, 'unedited', listed(asked['clean'])])
    rows.append(['', 'edited', listed(asked['edited'])])
  return charts.table([head['name'], 'run', 'top tokens'], rows)
