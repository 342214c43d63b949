"""Directions compared at matched KL, as a figure and a table."""

from collections.abc import Iterator, Mapping

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from experiments.charts import Table, style
from experiments.charts.style import error_bars, headed
from experiments.latents.class_look import LABEL_COLOURS, TITLES
from experiments.steering.arms import LINES
from experiments.steering.kl_matched import LEVELS
from experiments.steering.outcome_look import classes_of
from experiments.steering.tables import signed

# Those that are not the target's are grey.
_DASHES = dict(
  zip(LINES, ('solid', 'dot', 'dash', 'solid', 'dash'), strict=True)
)
_SYMBOLS = dict(
  zip(LINES, ('circle', 'circle-open', 'square', 'diamond', 'x'), strict=True)
)
_GREYS = {'random latents': '#555', 'random directions': '#aaa'}


def matched_figure(results: Mapping, *, off_target: bool = False) -> go.Figure:
  """Change of refusals against KL, a line per direction.

  A column per target, a row per class.

  Args:
    results: Of `experiments.steering`.
    off_target: Whether KL is that of questions about the other class, and not
      of the same questions.
  """
  found = [
    one
    for one in results['matched_kl']
    if (one['class'] != one['matched_on']) == off_target
  ]
  targets = list(dict.fromkeys(one['target'] for one in found))
  classes = classes_of(results)
  figure = make_subplots(
    rows=len(classes),
    cols=len(targets),
    shared_xaxes=True,
    shared_yaxes=True,
    horizontal_spacing=0.06,
    vertical_spacing=0.1,
    subplot_titles=[
      f'{target} latent, {TITLES[name]}'
      for name in classes
      for target in targets
    ],
  )
  for one in found:
    row = classes.index(one['class']) + 1
    column = targets.index(one['target']) + 1
    for trace in _traces(one, row == column == 1):
      figure.add_trace(trace, row=row, col=column)
    figure.add_hline(y=0, line={'color': '#ccc'}, row=row, col=column)
  figure = style.styled(figure, x='', y='', height=320 * len(classes) + 60)
  figure.update_xaxes(type='log', dtick=1, exponentformat='power')
  on = 'questions of the other class' if off_target else 'the same questions'
  figure.update_xaxes(title_text=f'KL on {on}, nats/token', row=len(classes))
  figure.update_yaxes(range=[-1.05, 1.05], tickformat='+.0%')
  figure.update_yaxes(title_text='change of refusals', col=1)
  return headed(figure)


def matched_table(results: Mapping) -> Table:
  """Each line at each level that a line of its panel reaches."""
  return Table(
    columns=[
      'target',
      'entities',
      'KL of',
      'nats/token',
      'direction',
      'change in points',
      'latent minus it',
      'single arms',
    ],
    rows=list(_rows(results)),
  )


def _rows(results) -> Iterator[list[str]]:
  for one in results['matched_kl']:
    same = one['class'] == one['matched_on']
    matched = 'the same' if same else f'{one["matched_on"]} entities'
    for i, level in enumerate(LEVELS):
      cells = [(line, line['levels'][i]) for line in one['lines']]
      if all(cell['change']['value'] is None for _, cell in cells):
        continue
      for line, cell in cells:
        yield [
          one['target'],
          one['class'],
          matched,
          f'{level:g}',
          line['line'],
          _change(line, cell),
          _difference(line, cell),
          _spread(cell['spread']),
        ]


def _change(line, cell) -> str:
  if cell['change']['value'] is None:
    return f'not reached: KL is at most {line["largest_kl"]:.2g}'
  return signed(cell['change'])


def _difference(line, cell) -> str:
  none = line['line'] == 'latent' or cell['latent_minus']['value'] is None
  return '' if none else signed(cell['latent_minus'])


def _spread(spread) -> str:
  """The range of single random arms; nothing of a line that is one arm."""
  if spread['arms'] == 1 or not spread['reaching']:
    return ''
  return (
    f'{100 * spread["low"]:+.0f} to {100 * spread["high"]:+.0f} '
    f'({spread["reaching"]} of {spread["arms"]})'
  )


def _traces(one, first) -> Iterator[go.Scatter]:
  for line in one['lines']:
    name = line['line']
    colour = _GREYS.get(name, LABEL_COLOURS[one['target']])
    # The original, at 0, is left of any logarithm.
    points = [p for p in line['points'] if p['kl']['value'] > 0]
    changes, divergences = (
      [point[key] for point in points] for key in ('change', 'kl')
    )
    yield go.Scatter(
      x=[e['value'] for e in divergences],
      y=[e['value'] for e in changes],
      error_x=error_bars(divergences) | {'color': colour},
      error_y=error_bars(changes) | {'color': colour},
      mode='lines+markers',
      line={'color': colour, 'dash': _DASHES[name], 'width': 1.5},
      marker={'color': colour, 'size': 7, 'symbol': _SYMBOLS[name]},
      name=name,
      legendgroup=name,
      showlegend=first,
      hovertext=[
        style.text(
          f'{name}, dose {p["dose"]:.2f}'
          + (f', mean of {p["arms"]}' if p['arms'] > 1 else '')
        )
        + f'<br>KL {p["kl"]["value"]:.3g} nats/token<br>refusals '
        f'{signed(p["change"])} points '
        f'(n = {p["change"]["n"]})'
        for p in points
      ],
      hoverinfo='text',
    )
