"""What a model says of its own knowledge: results in, report out."""

from collections.abc import Iterator, Mapping, Sequence

from experiments import charts
from experiments.charts import style
from experiments.latents.class_look import LABEL_COLOURS, TITLES
from experiments.self_report.summary import ALL, difference
from experiments.steering import (
  LINES,
  MEAN_DIFFERENCE,
  OPPOSITE,
  ORIGINAL_COLOUR,
  RANDOM_LATENT,
  STEERED,
  SWEEP_KINDS,
  WRONG_SIGN,
)

# Arms that are compared with the original, and how pale they are drawn.
_SHOWN = {STEERED: 0.0, MEAN_DIFFERENCE: 0.35, WRONG_SIGN: 0.65}
# The line of doses below 0 that goes on from that of doses above 0.
_CONTINUED = {'wrong sign': 'latent'}
_LISTED = 5  # questions of each class
_RANDOM = {label: f'random latents for {label}' for label in LABEL_COLOURS}


def sections(
  results: Mapping, examples: Sequence[Mapping]
) -> list[charts.Section]:
  """Returns the report's sections.

  Args:
    results: What `self_report` writes to results.json.
    examples: Records, one per question.
  """
  wording, begun = results['wording'], "the model's turn is opened"
  if wording['prefix']:
    begun = f'the answer is begun with "{wording["prefix"]}"'
  made = [
    charts.Section(
      title='What is said of known and of unknown entities',
      text=[
        f'The user says "{wording["question"]}", {begun}, and what counts is '
        f'{difference(results)}.',
        'The original, and the latent of the other class added at the steered '
        'tokens, by entity type. Small faint dots are questions; the large dot '
        'is their mean, with its 95 % interval.',
      ],
      figures=[conditions(results, examples)],
    )
  ]
  if results['controls']:
    made.append(
      charts.Section(
        title='What latents change, and what random latents change',
        text=[
          'The change to the original, question by question, with 95 % '
          'intervals (Student; all questions about an entity count as one '
          'observation). Small faint dots are random latents of the same '
          'layer, as the run drew them, added at the same norm: an effect of '
          'its own lies outside them. q is the p-value of the paired t-test, '
          'adjusted by Benjamini and Hochberg over single types.'
        ],
        figures=[effects(results)],
        tables=[_effect_table(results)],
      )
    )
  if any(arm['kind'] in SWEEP_KINDS for arm in results['arms']):
    made.append(
      charts.Section(
        title='Dose and response',
        text=[
          'The dose is the norm of what is added over the mean norm of the '
          'stream it is added to; negative is the opposite direction, 0 the '
          'original. All types. Bands are 95 % intervals; that of random '
          'latents is their range, and its line their mean.'
        ],
        figures=[dose(results)],
      )
    )
  made.append(
    charts.Section(
      title='Questions',
      text=['The ones that steering moves most come first.'],
      tables=[_example_table(results, examples)],
    )
  )
  return made


def conditions(results: Mapping, examples: Sequence[Mapping]):
  """Shows every question's self-report, original and steered."""
  metric, steered = results['metric'], _steered(results)
  original, *_ = results['arms']
  colours = {original['name']: ORIGINAL_COLOUR} | {
    arm['name']: LABEL_COLOURS[label] for label, arm in steered.items()
  }
  panels = {}
  for name, title in _classes(results).items():
    arms = [original, steered.get(OPPOSITE[name])]
    panels[title] = [
      dot
      for arm in filter(None, arms)
      for dot in (
        *(
          charts.Dot(
            each['type'],
            each['arms'][arm['name']][metric],
            group=arm['name'],
            hover=each['entity'],
            faint=True,
          )
          for each in examples
          if each['class'] == name
        ),
        *(
          charts.Dot.of(scope, cell[metric]['mean'], group=arm['name'])
          for scope, cell in arm['classes'][name].items()
          if scope != ALL
        ),
      )
    ]
  return charts.dots(panels, x_title=difference(results), groups=colours)


def effects(results: Mapping):
  """Shows changes under the arms, by class and type, with random latents."""
  metric = results['metric']
  colours, panels = {}, {title: [] for title in _classes(results).values()}
  controls = {
    entry['target']: entry['classes']
    for entry in results['controls']
    if entry['kind'] == RANDOM_LATENT
  }
  for kind, paleness in _SHOWN.items():
    for arm in results['arms']:
      if arm['kind'] != kind:
        continue
      target = arm['target']
      colours[arm['name']] = _pale(target, paleness)
      for name, title in _classes(results).items():
        panels[title] += [
          charts.Dot.of(scope, cell[metric]['effect'], group=arm['name'])
          for scope, cell in arm['classes'][name].items()
        ]
        if kind == STEERED and target in controls:
          colours[_RANDOM[target]] = LABEL_COLOURS[target]
          panels[title] += [
            charts.Dot(
              scope, effect, group=_RANDOM[target], hover=latent, faint=True
            )
            for scope, cell in controls[target][name].items()
            for latent, effect in cell[metric]['effects'].items()
          ]
  return charts.dots(
    panels, x_title='change to the original', groups=colours, reference=0
  )


def dose(results: Mapping):
  """Shows the self-report over doses, a panel per class of entities."""
  return charts.lines(
    {
      title: list(_dose_lines(results, name))
      for name, title in _classes(results).items()
    },
    x_title='dose',
    y_title=difference(results),
    groups=LABEL_COLOURS
    | {name: _pale(label, 0.5) for label, name in _RANDOM.items()},
  )


def _dose_lines(results: Mapping, name: str) -> Iterator[charts.Line]:
  """Yields the lines of one class of entities, through the original at 0."""
  original, *arms = results['arms']
  mean = lambda arm: arm['classes'][name][ALL][results['metric']]['mean']
  for target in dict.fromkeys(arm['target'] for arm in arms):
    found = {}
    for line, kinds in LINES.items():
      for arm in arms:
        if arm['target'] == target and arm['kind'] in kinds:
          at = found.setdefault(_CONTINUED.get(line, line), {0.0: [original]})
          at.setdefault(arm['dose'], []).append(arm)
    for line in ('latent', 'mean difference'):
      if line in found:
        at = sorted(found[line])
        yield charts.Line.of(
          f'{line} for {target}',
          at,
          [mean(found[line][x][0]) for x in at],
          group=target,
          dash=line != 'latent',
        )
    if 'random latents' in found:
      at = sorted(found['random latents'])
      values = [
        [mean(arm)['value'] for arm in found['random latents'][x]] for x in at
      ]
      yield charts.Line(
        _RANDOM[target],
        at,
        [sum(each) / len(each) for each in values],
        list(map(min, values)),
        list(map(max, values)),
        dash=True,
      )


def _classes(results: Mapping) -> dict[str, str]:
  """Returns the classes of entities that were asked about, with titles."""
  return {k: title for k, title in TITLES.items() if k in results['asked']}


def _steered(results: Mapping) -> dict[str, Mapping]:
  """Returns label -> the arm that its latent is added in."""
  return {a['target']: a for a in results['arms'] if a['kind'] == STEERED}


def _pale(label: str, share: float) -> str:
  return style.mixed(LABEL_COLOURS[label], '#ffffff', share)


def _effect_table(results: Mapping) -> charts.Table:
  metric = results['metric']
  return charts.table(
    ['arm', 'entities', 'type', 'mean', 'change', 'n', 'q'],
    [
      [
        arm['name'],
        name,
        scope,
        cell[metric]['mean']['value'],
        cell[metric]['effect'],
        cell[metric]['effect']['n'],
        cell[metric]['effect'].get('q', ''),
      ]
      for arm in results['arms']
      if arm['kind'] in _SHOWN
      for name, scopes in arm['classes'].items()
      for scope, cell in scopes.items()
    ],
  )


def _example_table(
  results: Mapping, examples: Sequence[Mapping]
) -> charts.Table:
  original, steered = results['arms'][0]['name'], _steered(results)
  said = lambda each, arm: each['arms'][arm or original][results['metric']]
  rows = []
  for name in _classes(results):
    arm = steered[OPPOSITE[name]]['name'] if OPPOSITE[name] in steered else ''
    moved = lambda each, arm=arm: abs(said(each, arm) - said(each, original))
    mine = [each for each in examples if each['class'] == name]
    rows += [
      [name, each['question'], said(each, original), arm, said(each, arm)]
      for each in sorted(mine, key=moved, reverse=True)[:_LISTED]
    ]
  return charts.table(
    ['entities', 'question', 'original', 'arm', 'steered'], rows
  )
