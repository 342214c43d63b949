"""Models without a direction: results in, report out."""

from collections.abc import Mapping, Sequence

import numpy as np

from experiments import charts
from experiments.latents.class_look import TITLES
from experiments.steering import (
  ALL,
  OUTCOME_COLOURS,
  RANDOM_LATENT,
  REFUSAL,
  by_arm,
  classes_of,
)

# Below this a cosine is rounding; the axis ends here.
_FLOOR = 1e-9
_LISTED = 4  # questions of each class of entities


def sections(
  results: Mapping, examples: Sequence[Mapping]
) -> list[charts.Section]:
  """Returns the report's sections.

  Args:
    results: What `weight_ablation` writes to results.json.
    examples: All answers.
  """
  steering, source = results['steering'], results['direction']
  random = [_random_table(results['random'])] if results['random'] else []
  return [
    charts.Section(
      title='What it answers',
      text=[
        f'Taken out: the {source["name"]}, of cosine '
        f'{source["cosine_with_latent"]:.3f} with the latent. Random latents '
        f'are taken out in the same way ({source["ways"][0]}).'
      ],
      figures=[outcomes(steering)],
      tables=[_effect_table(steering), *random],
    ),
    charts.Section(
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
      tables=[_written_table(results['written'])],
    ),
    charts.Section(
      title='How far it is from the original',
      text=[
        "On answers: the mean of KL(original || edited) along the original's "
        'answer, in nats per token. On plain text: likewise along each '
        "document. 'Tied' has the direction taken out of the unembedding too, "
        'as a checkpoint with one matrix must.'
      ],
      tables=[_distance_table(results)],
    ),
    charts.Section(
      title='Answers',
      tables=[_example_table(steering, examples)],
    ),
  ]


def outcomes(steering: Mapping):
  """Shows the shares of all outcomes, of each arm that is not random."""
  panels = {
    TITLES[name]: [
      charts.Bar.of(
        arm['name'],
        arm['counts'][name][ALL][outcome],
        group=outcome,
        hover=f'{arm["counts"][name][ALL][outcome]["count"]} answers',
      )
      for arm in steering['arms']
      if arm['kind'] != RANDOM_LATENT
      for outcome in OUTCOME_COLOURS
    ]
    for name in classes_of(steering)
  }
  return charts.bars(
    panels,
    value_title='share of answers',
    groups=OUTCOME_COLOURS,
    percent=True,
    range=(0, 1),
  )


def written(layers: Mapping[str, Sequence[float]]):
  """Shows the largest cosine by layer; a panel per arm, a line per site."""
  panels = {}
  for name, values in layers.items():
    arm, site = name.split('/')
    panels.setdefault(arm, []).append(
      charts.Line(
        site, list(range(len(values))), np.maximum(values, _FLOOR).tolist()
      )
    )
  return charts.lines(
    panels, x_title='layer', y_title='largest |cosine|', y_log=True
  )


def _effect_table(steering: Mapping) -> charts.Table:
  columns = ['weights', 'entities', 'type', 'n', 'flips', 'p']
  shares = ['decline', 'more decline', 'more correct', 'more hallucinated']
  return charts.table(
    [*columns, *shares],
    [
      [
        *(arm['name'], name, scope, effect['n']),
        f'+{effect["gained"]} / -{effect["lost"]}',
        effect['p'],
        arm['counts'][name][scope][REFUSAL]['value'],
        *(
          effect['differences'][each]
          for each in (REFUSAL, 'correct', 'hallucination')
        ),
      ]
      for arm in steering['arms']
      for name, scopes in arm['effects'].items()
      for scope, effect in scopes.items()
    ],
    percent=shares,
  )


def _random_table(random: Sequence[Mapping]) -> charts.Table:
  points = lambda change: f'{100 * change:+.1f}'
  return charts.table(
    'weights|entities|refusals, points|random latents|how many|p'.split('|'),
    [
      [
        *(entry['arm'], entry['class'], points(entry['change'])),
        f'{points(min(entry["random"]))} to {points(max(entry["random"]))}',
        *(entry['n'], entry['p']),
      ]
      for entry in random
    ],
  )


def _written_table(largest: Mapping) -> charts.Table:
  sites = list(next(iter(largest.values())))
  rows = [
    [arm, *(f'{found[site]:.2g}' for site in sites)]
    for arm, found in largest.items()
  ]
  return charts.table(['weights', *sites], rows)


def _distance_table(results: Mapping) -> charts.Table:
  rows = []
  for arm in results['steering']['arms'][1:]:
    for name, kl in arm['kl'].items():
      rows.append([arm['name'], f'answers, {name} entities', kl, kl['n']])
  for name, cell in results['text'].items():
    for on, found in (
      ('plain text', cell['kl']),
      ('plain text, loss gained', cell['more_loss']),
    ):
      rows.append([name, on, found, found['n']])
  return charts.table(['weights', 'on', 'nats per token', 'n'], rows)


def _example_table(
  steering: Mapping, examples: Sequence[Mapping]
) -> charts.Table:
  """Returns some answers; questions whose outcome the edits change first."""
  original, *edited = (
    arm['name'] for arm in steering['arms'] if arm['kind'] != RANDOM_LATENT
  )
  names, records, rows = [original, *edited], by_arm(examples), []
  for entity_class in classes_of(steering):
    asked = [
      i for i, r in enumerate(records[original]) if r['class'] == entity_class
    ]
    asked.sort(
      key=lambda i: -len({records[name][i]['outcome'] for name in names})
    )
    for i in asked[:_LISTED]:
      first = records[original][i]
      said = f'{first["question"]} (correct: {first["correct_answer"]})'
      rows.append([f'{entity_class} {first["type"]}', '', said])
      rows += [
        [f'\u2003{name}', records[name][i]['outcome'], records[name][i]['text']]
        for name in names
      ]
  return charts.table(['weights', 'outcome', 'answer'], rows)
