"""Models without a direction, from the results of `weight_ablation`."""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from experiments.charts import Section, Table, style
from experiments.charts.style import error_bars, headed
from experiments.latents.class_look import TITLES
from experiments.steering import (
  ALL,
  OUTCOME_COLOURS,
  OUTCOMES,
  RANDOM_LATENT,
  REFUSAL,
  by_arm,
  classes_of,
  percent,
)

# Below this a cosine is rounding; the axis ends here.
_FLOOR = 1e-9


def sections(
  results: Mapping, examples: Sequence[Mapping], per_class: int = 4
) -> list[Section]:
  """The report's sections.

  Args:
    results: What `weight_ablation` writes to results.json.
    examples: All answers.
    per_class: Questions to list, of each class of entities.
  """
  steering, source = results['steering'], results['direction']
  made = [
    Section(
      title='What it answers',
      text=[
        f'Taken out: the {source["name"]}, of cosine '
        f'{source["cosine_with_latent"]:.3f} with the latent. Random latents '
        f'are taken out in the same way ({source["ways"][0]}).'
      ],
      figures=[outcomes(steering)],
      tables=[_effects(steering), _random(results['random'])],
    ),
    Section(
      title='What is left of the direction',
      text=[
        'The largest |cosine| of any token, of anything that sublayers add, '
        'of the stream and of the embedding (resid_pre.0), when reading the '
        'questions. Of saved models it is that of the files, read back.',
        'A checkpoint with one matrix for embedding and unembedding cannot '
        'leave the direction in one and not in the other; saved ones are '
        'untied.',
      ],
      figures=[written(results['layers'])],
      tables=[_written(results['written'])],
    ),
    Section(
      title='How far it is from the original',
      text=[
        "On answers: the mean of KL(original || edited) along the original's "
        'answer, in nats per token. On plain text: likewise along each '
        "document. 'Tied' has the direction taken out of the unembedding too, "
        'as a checkpoint with one matrix must.'
      ],
      tables=[_distances(results)],
    ),
    Section(
      title='Answers',
      tables=[_examples(steering, examples, per_class)],
    ),
  ]
  return made


def outcomes(steering: Mapping) -> go.Figure:
  """Shares of the four outcomes, of each arm that is not random."""
  classes = classes_of(steering)
  arms = [arm for arm in steering['arms'] if arm['kind'] != RANDOM_LATENT]
  figure = make_subplots(
    rows=1,
    cols=len(classes),
    shared_yaxes=True,
    horizontal_spacing=0.05,
    subplot_titles=[TITLES[name] for name in classes],
  )
  for column, name in enumerate(classes, start=1):
    for outcome in OUTCOMES:
      cells = [arm['counts'][name][ALL] for arm in arms]
      shares = [cell[outcome] for cell in cells]
      figure.add_trace(
        go.Bar(
          x=[style.text(arm['name']) for arm in arms],
          y=[e['value'] for e in shares],
          error_y=error_bars(shares),
          name=outcome,
          legendgroup=outcome,
          showlegend=column == 1,
          marker={'color': OUTCOME_COLOURS[outcome]},
          hovertext=[
            f'{style.text(arm["name"])}: {outcome}<br>{e["count"]} of '
            f'{cell["n"]}, {e["value"]:.1%} [{e["low"]:.1%}, {e["high"]:.1%}]'
            for arm, e, cell in zip(arms, shares, cells, strict=True)
          ],
          hoverinfo='text',
        ),
        row=1,
        col=column,
      )
  figure = style.styled(figure, x='', y='')
  figure.update_yaxes(range=[-0.02, 1.05], tickformat='.0%')
  figure.update_yaxes(title_text='share of answers', col=1)
  figure.update_layout(barmode='group')
  return headed(figure)


def written(layers: Mapping[str, Sequence[float]]) -> go.Figure:
  """The largest cosine by layer; a panel per arm, a line per site."""
  arms = list(dict.fromkeys(name.split('/')[0] for name in layers))
  sites = list(dict.fromkeys(name.split('/')[1] for name in layers))
  colours = style.colours(sites)
  figure = make_subplots(
    rows=1,
    cols=len(arms),
    shared_yaxes=True,
    horizontal_spacing=0.04,
    subplot_titles=[style.text(arm) for arm in arms],
  )
  for column, arm in enumerate(arms, start=1):
    for site in sites:
      values = np.maximum(layers[f'{arm}/{site}'], _FLOOR)
      figure.add_trace(
        go.Scatter(
          x=list(range(len(values))),
          y=values.tolist(),
          mode='lines+markers',
          line={'color': colours[site]},
          name=site,
          legendgroup=site,
          showlegend=column == 1,
          hovertemplate=f'{site}.%{{x}}: %{{y:.2g}}<extra></extra>',
        ),
        row=1,
        col=column,
      )
  figure = style.styled(figure, x='layer', y='')
  figure.update_yaxes(type='log', exponentformat='power')
  figure.update_yaxes(title_text='largest |cosine|', col=1)
  return headed(figure)


def _effects(steering: Mapping) -> Table:
  rows = []
  for arm in steering['arms']:
    for name, scopes in arm['effects'].items():
      for scope, effect in scopes.items():
        cell = arm['counts'][name][scope]
        rows.append(
          [
            arm['name'],
            name,
            scope,
            str(effect['n']),
            percent(cell[REFUSAL]['value']),
            _points(effect['differences'][REFUSAL]),
            f'+{effect["gained"]} / -{effect["lost"]}',
            f'{effect["p"]:.2g}',
            _points(effect['differences']['correct']),
            _points(effect['differences']['wrong']),
          ]
        )
  columns = 'weights|entities|type|n|decline|change in points|flips|p'
  return Table(columns=f'{columns}|correct|wrong'.split('|'), rows=rows)


def _random(random: Sequence[Mapping]) -> Table:
  rows = [
    [
      entry['arm'],
      entry['class'],
      f'{100 * entry["change"]:+.1f}',
      f'{100 * min(entry["random"]):+.1f} to {100 * max(entry["random"]):+.1f}',
      str(entry['n']),
      f'{entry["p"]:.2g}',
    ]
    for entry in random
  ]
  columns = 'weights|entities|refusals, points|random latents|how many|p'
  return Table(columns=columns.split('|'), rows=rows)


def _written(largest: Mapping) -> Table:
  sites = list(next(iter(largest.values())))
  rows = [
    [arm, *(f'{found[site]:.2g}' for site in sites)]
    for arm, found in largest.items()
  ]
  return Table(columns=['weights', *sites], rows=rows)


def _distances(results: Mapping) -> Table:
  rows = []
  for arm in results['steering']['arms'][1:]:
    for name, estimate in arm['kl'].items():
      rows.append([arm['name'], f'answers, {name} entities', _nats(estimate)])
  for name, cell in results['text'].items():
    rows.append([name, 'plain text', _nats(cell['kl'])])
    rows.append([name, 'plain text, loss gained', _nats(cell['more_loss'])])
  return Table(columns=['weights', 'on', 'nats per token'], rows=rows)


def _examples(steering, examples, per_class: int) -> Table:
  """Questions whose outcome the edits change come first."""
  names = [
    arm['name'] for arm in steering['arms'] if arm['kind'] != RANDOM_LATENT
  ]
  records, rows = by_arm(examples), []
  for entity_class in classes_of(steering):
    asked = [
      i for i, r in enumerate(records[names[0]]) if r['class'] == entity_class
    ]
    asked.sort(
      key=lambda i: -len({records[name][i]['outcome'] for name in names})
    )
    for i in asked[:per_class]:
      first = records[names[0]][i]
      said = f'{first["question"]} (correct: {first["correct_answer"]})'
      rows.append([f'{entity_class} {first["type"]}', '', said])
      rows += [
        [f'\u2003{name}', records[name][i]['outcome'], records[name][i]['text']]
        for name in names
      ]
  return Table(columns=['weights', 'outcome', 'answer'], rows=rows)


def _points(estimate: Mapping) -> str:
  """A difference in percentage points."""
  value, low, high = (100 * estimate[key] for key in ('value', 'low', 'high'))
  return f'{value:+.1f} [{low:+.0f}, {high:+.0f}]'


def _nats(estimate: Mapping) -> str:
  said = f'{estimate["value"]:.4f}'
  if estimate['low'] is not None:
    said += f' [{estimate["low"]:.4f}, {estimate["high"]:.4f}]'
  return said + f', n = {estimate["n"]}'
