"""What `circuits` found, in tables; figures are in circuit_figures."""

from collections.abc import Mapping

from experiments.charts import Table
from experiments.latents import CLASSES

_MOST_ROWS = 25


def conditions(polarity: Mapping) -> Table:
  """What the model does without evidence, and without its latents."""
  rows = []
  for entry in polarity['conditions']:
    for label in CLASSES:
      if label not in entry['classes']:
        continue
      cell = entry['classes'][label]
      flips = cell['flips']
      rows.append(
        [
          entry['name'],
          label,
          str(cell['refused']['n']),
          _percent(cell['refused']),
          _percent(cell['change_refused'], sign=True),
          f'+{flips["gained"]} / -{flips["lost"]}',
          f'{flips["p"]:.2g}',
          _logits(cell['change_metric']),
        ]
      )
  for random in polarity['random']:
    for label, cell in random['classes'].items():
      rows.append(
        [
          f'{random["n"]} {random["kind"]}',
          label,
          '',
          f'mean {cell["refused"]:.1%}',
          '',
          '',
          '',
          f'{cell["low"]:+.3f} to {cell["high"]:+.3f}',
        ]
      )
  columns = 'condition|entities|n|decline|change|flips|p|metric changes by'
  return Table(columns=columns.split('|'), rows=rows)


def totals(cause: Mapping) -> Table:
  """The metric without the cause, what that does, and what random ones do."""
  random, amount = cause['random_latents'], cause['amount']
  rows = [
    ['metric without it', _logits(cause['clean'])],
    ['its effect, test questions', _logits(cause['total'])],
    ['its effect, validation questions', _logits(cause['validation_total'])],
  ]
  if random['n']:
    rows.append(
      [
        f'{random["n"]} random latents',
        f'{min(random["means"]):+.3f} to {max(random["means"]):+.3f}, '
        f'p = {random["p"]:.2g}',
      ]
    )
  if amount:
    rows.append(
      [
        'added',
        f'{amount["alpha"]:.4g} x norm {amount["direction_norm"]:.3g} = '
        f"{amount['dose']:.2f} times the stream's mean norm, "
        f'{amount["stream_norm"]["value"]:.4g}',
      ]
    )
  return Table(columns=['', 'logits'], rows=rows)


def verification(cause: Mapping) -> Table:
  """The circuit, its complement, and random sets."""
  check = cause['verification']
  rows = []
  for key, name in (
    ('left', 'the circuit held as unedited'),
    ('kept', 'all other components held'),
  ):
    random = check['random'][key]
    rows.append(
      [
        name,
        _logits(check[key]),
        _percent(check[f'share_{key}']),
        f'{random["mean"]:.1%} ({random["low"]:.1%} to {random["high"]:.1%})'
        if random['n']
        else '',
        f'{random["p"]:.2g}' if random['n'] else '',
      ]
    )
  columns = ['', 'effect', 'share of it', 'random sets as large', 'p']
  return Table(columns=columns, rows=rows)


def components(cause: Mapping) -> Table:
  """The circuit, and the first that are not in it."""
  rows = [
    [
      c['name'],
      'yes' if c['in_circuit'] else '',
      _logits(c['carried']),
      _logits(c['lost']),
      _logits(c['direct']) if c['direct'] else '',
      f'{c["p"]:.2g}',
    ]
    for i, c in enumerate(cause['components'])
    if c['in_circuit'] or i < _MOST_ROWS
  ]
  columns = 'component|in the circuit|carried|lost|direct|p, max-T'
  return Table(columns=columns.split('|'), rows=rows)


def edges(cause: Mapping) -> Table:
  """The largest edges."""
  largest = sorted(cause['edges'], key=lambda e: -abs(e['effect']['value']))
  rows = [
    [
      e['sender'],
      e['receiver'],
      _logits(e['effect']),
      f'{e["validation_effect"]:+.3f}',
      f'{e["p"]:.2g}',
      'yes' if e['verified'] else 'no',
    ]
    for e in largest[:_MOST_ROWS]
  ]
  columns = 'from|to|effect|on validation|p, max-T|verified'
  return Table(columns=columns.split('|'), rows=rows)


def projections(cause: Mapping) -> list[Table]:
  """A table per head: tokens that its output speaks for."""
  return [_projection(head) for head in cause['projections']]


def _projection(head: Mapping) -> Table:
  spelled = lambda tokens: ', '.join(
    f"'{token}' {value:+.2f}" for token, value in tokens
  )
  rows = [
    ['mean change: up', '', spelled(head['promoted'])],
    ['mean change: down', '', spelled(head['suppressed'])],
  ]
  for asked in head['questions']:
    said = f'{asked["question"]} ({asked["answer"]})'
    rows.append([said, 'unedited', spelled(asked['clean'])])
    rows.append(['', 'edited', spelled(asked['edited'])])
  return Table(columns=[head['name'], 'run', 'top tokens'], rows=rows)


def _logits(estimate: Mapping) -> str:
  said = f'{estimate["value"]:+.3f}'
  if estimate['low'] is not None:
    said += f' [{estimate["low"]:+.3f}, {estimate["high"]:+.3f}]'
  return said


def _percent(estimate: Mapping, sign: bool = False) -> str:
  form = '{:+.1%}' if sign else '{:.1%}'
  said = form.format(estimate['value'])
  if estimate['low'] is not None:
    low, high = (form.format(estimate[key]) for key in ('low', 'high'))
    said += f' [{low}, {high}]'
  return said
