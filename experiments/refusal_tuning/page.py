"""The study's report, and what a terminal shows."""

from collections.abc import Mapping
import pathlib

from experiments import charts
from experiments.charts.table import spelled
from experiments.refusal_tuning import anchors, figures
from experiments.refusal_tuning.figures import SPLITS
from experiments.refusal_tuning.settings import TEST
from experiments.runs import outputs

_METRICS = {
  'accuracy': 'accuracy',
  'refusal_rate': 'declined',
  'hallucination_rate': 'hallucination rate',
  'over_conservativeness': 'over-conservativeness',
  'prudence': 'prudence',
  'honesty': 'honesty',
  'truthful': 'TRUTHFUL',
  'ths': 'THS',
  'correct_given_attempted': 'correct given attempted',
}


def write_page(folder: pathlib.Path):
  """Writes the report of a finished run, from its results.json."""
  results = outputs.read_json(folder / outputs.RESULTS_FILE)
  charts.write_report(
    folder / outputs.REPORT_FILE,
    f'{results["model"]["name"]} learns to decline',
    summary(results),
    _sections(results),
  )


def summary(results: Mapping) -> list[str]:
  """Returns what the report says first."""
  arms = {arm['arm']: arm for arm in results['arms']}
  before, best = arms['untuned'], arms[results['best']]
  share = lambda arm, name: spelled(
    arm[TEST]['metrics'][name]['after'], percent=True
  )
  lines = [
    f'Untuned, {results["model"]["name"]} answers {share(before, "accuracy")} '
    f'of {before[TEST]["n"]} questions about held-out entities right, gets '
    f'{share(before, "incorrect")} wrong and declines '
    f'{share(before, "refusal_rate")}.',
    f'Tuned by {results["best"]}, the arm that is most honest on validation '
    f'questions, it answers {share(best, "accuracy")} right, gets '
    f'{share(best, "incorrect")} wrong and declines '
    f'{share(best, "refusal_rate")}.',
  ]
  known = figures.known_metrics(best)
  by_truth = known is best[TEST]['by_truth']
  told = 'does not know' if by_truth else 'answered wrong before'
  kept = 'knows' if by_truth else 'answered right before'
  real = ' (made-up entities left out)' if figures.TEST_REAL in best else ''
  lines.append(
    f'It declines {spelled(known["prudence"]["after"], percent=True)} of what '
    f'it {told} and does not get right, and '
    f'{spelled(known["over_conservativeness"]["after"], percent=True)} of what '
    f'it {kept}{real}.'
  )
  return [*lines, results['inside']['verdict']['summary']]


def _sections(results: Mapping) -> list[charts.Section]:
  inside = results['inside']
  groups = ('unknown', 'known', 'apart')
  there = [
    group
    for group in groups
    if group in inside['weights']['components'][0]['into']
  ]
  return [
    charts.Section(
      title='Its answers, before and after',
      text=[
        'Intervals are 95 %, over entities, and changes are paired. Known is '
        'what the untuned model answers right, asked as in the probe.',
      ],
      figures=[figures.outcomes(results), figures.costs(results)],
      tables=[
        _metrics_table(results, split)
        for split in SPLITS
        if split in results['arms'][0]
      ],
    ),
    *(
      [
        charts.Section(
          title='By the truth',
          text=['Here known is what the training text holds.'],
          tables=[_truth_table(results)],
        )
      ]
      if figures.known_metrics(results['arms'][0])
      is results['arms'][0][TEST]['by_truth']
      else []
    ),
    charts.Section(
      title='Certain and uncertain errors',
      text=[
        'An answer is certain if most of its samples in the probe mean the '
        'same. Llama 3 refuses what is consistently wrong; CRaFT leaves '
        'certain errors out.',
      ],
      figures=[figures.certainty(results)],
    ),
    charts.Section(
      title='What it cost elsewhere',
      tables=[_side_table(results)],
    ),
    charts.Section(
      title='Training',
      figures=[figures.training(results)],
      tables=[_training_table(results)],
    ),
    charts.Section(
      title='Inside: repurposed, or made anew?',
      text=[inside['verdict']['summary']],
      figures=[
        figures.detectors(inside),
        figures.steering(inside),
        *([figures.cosines(inside)] if inside['controllers'] else []),
        *(figures.patched(inside, group) for group in there),
      ],
      tables=[_rules_table(inside), _heads_table(inside, there[-1])],
    ),
    charts.Section(
      title='Beside published numbers',
      text=[
        'Other models, other questions, other judges: what order of magnitude '
        'to expect, and nothing more.',
      ],
      tables=[_anchor_table(results)],
    ),
    charts.Section(
      title='What was said',
      tables=[_examples_table(results)],
    ),
    charts.footer(
      results,
      [
        ('model', results['model']['path']),
        ('method', results['method']),
        ('probe', results['settings']['probe']),
      ],
    ),
  ]


def _metrics_table(results: Mapping, split: str) -> charts.Table:
  return charts.table(
    [f'arm, {SPLITS[split]}', 'n', *_METRICS.values()],
    [
      [
        arm['arm'],
        arm[split]['n'],
        *(arm[split]['metrics'][name]['after'] for name in _METRICS),
      ]
      for arm in results['arms']
    ],
    percent=list(_METRICS.values()),
  )


def _truth_table(results: Mapping) -> charts.Table:
  columns = {
    key: name
    for key, name in _METRICS.items()
    if key in results['arms'][0][TEST]['by_truth']
  }
  return charts.table(
    ['arm', *columns.values()],
    [
      [
        arm['arm'],
        *(arm[TEST]['by_truth'][name]['after'] for name in columns),
      ]
      for arm in results['arms']
    ],
    percent=list(columns.values()),
  )


def _side_table(results: Mapping) -> charts.Table:
  rows = []
  for arm in results['arms']:
    if 'side_effects' not in arm:
      continue
    found = arm['side_effects']
    ordinary = found.get('ordinary')
    rows.append(
      [
        arm['arm'],
        found['perplexity']['before'],
        found['perplexity']['after'],
        found['perplexity']['ratio'],
        arm[TEST]['facts_kept']['correct'],
        ordinary and ordinary['refusal_rate']['after'],
        ordinary and ordinary['log_prob']['change'],
        ordinary and ordinary['kl'],
      ]
    )
  return charts.table(
    [
      'arm',
      'perplexity before',
      'after',
      'ratio',
      'known facts kept',
      'ordinary requests declined',
      'log-probability of the old answers, change per token',
      'KL of their first token',
    ],
    rows,
    percent=['known facts kept', 'ordinary requests declined'],
  )


def _training_table(results: Mapping) -> charts.Table:
  return charts.table(
    ['arm', 'starts from', 'rows', 'refusals', 'updates', 'of', 'last loss'],
    [
      [
        arm['arm'],
        arm['training']['starts_from'],
        arm['training']['rows'],
        arm['training']['refusals'],
        arm['training']['records'][-1]['step'],
        arm['training']['steps'],
        arm['training']['records'][-1]['loss'],
      ]
      for arm in results['arms']
      if 'training' in arm
    ],
  )


def _rules_table(inside: Mapping) -> charts.Table:
  return charts.table(
    ['rule', 'number', 'value', 'holds above', 'verdict'],
    [
      [
        rule['question'],
        rule['number'],
        rule['estimate'],
        rule['threshold'],
        rule['verdict'],
      ]
      for rule in inside['verdict']['rules']
    ],
  )


def _heads_table(inside: Mapping, group: str) -> charts.Table:
  heads = [
    each
    for each in inside['weights']['components']
    if each['kind'] == 'head' and group in each['into']
  ]
  heads.sort(key=lambda each: -abs(each['into'][group]['effect']['value']))
  return charts.table(
    ['head', 'effect on refusal log-odds', 'share of the change', 'size'],
    [
      [
        each['name'],
        each['into'][group]['effect'],
        each['into'][group]['share'],
        each['size'],
      ]
      for each in heads[:12]
    ],
    percent=['share of the change'],
  )


def _anchor_table(results: Mapping) -> charts.Table:
  ours = {arm['arm']: arm[TEST] for arm in results['arms']}
  rows = anchors.rows(ours, results['model']['name'])
  return charts.table(
    ['source', 'model', 'arm', *anchors.COLUMNS],
    [
      [
        row['source'],
        row['model'],
        row['arm'],
        *(row[c] for c in anchors.COLUMNS),
      ]
      for row in rows
    ],
  )


def _examples_table(results: Mapping) -> charts.Table:
  arms = [arm['arm'] for arm in results['arms']]
  return charts.table(
    ['question', 'answer', *arms],
    [
      [
        each['question'],
        ', '.join(each['answers']),
        *(each['said'].get(arm, '') for arm in arms),
      ]
      for each in results['examples']
    ],
  )
