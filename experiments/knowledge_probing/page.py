"""The study's report, and what a terminal shows."""

from collections.abc import Mapping
import pathlib

from experiments import charts
from experiments.charts.table import spelled
from experiments.knowledge_probing import figures
from experiments.knowledge_probing.probe_records import DECISIONS
from experiments.knowledge_probing.summary import ALL
from experiments.runs import outputs


def write_page(folder: pathlib.Path):
  """Writes the report of a finished run, from its results.json."""
  results = outputs.read_json(folder / outputs.RESULTS_FILE)
  charts.write_report(
    folder / outputs.REPORT_FILE,
    f'What {results["model"]["name"]} knows',
    summary(results),
    _sections(results),
  )


def summary(results: Mapping) -> list[str]:
  """Returns what the report says first."""
  found = results['answers'][ALL]
  share = lambda key: spelled(found[key], percent=True)
  decided = results['decisions'][results['rule']][ALL]
  said = ', '.join(
    f'{decided.get(key, 0)} {key}' for key in DECISIONS if decided.get(key)
  )
  lines = [
    f'{results["model"]["name"]} was asked {results["questions"]} questions '
    f'about {results["entities"]} entities. Its greedy answer is right in '
    f'{share("right")}, informative and wrong in {share("hallucinated")}; it '
    f'declines {share("declined")}.',
    f'The rule {results["rule"]} decides: {said}. With {results["samples"]} '
    'samples, no right one leaves a probability of up to '
    f'{results["resolution"]:.0%} that the next one would be.',
  ]
  honest = [
    each
    for each in results['detectors']
    if not each['about'].get('knows_the_answer')
  ]
  if honest:
    best = max(honest, key=lambda each: each['auroc']['value'])
    lines.append(
      f'Right answers are told best by {best["name"]}: AUROC '
      f'{spelled(best["auroc"])} on test questions.'
    )
  return lines


def _sections(results: Mapping) -> list[charts.Section]:
  sections = [
    charts.Section(
      title='What it says',
      text=['Intervals are 95 %, over entities.'],
      figures=[figures.answers(results)],
      tables=[_answer_table(results)],
    ),
    charts.Section(
      title='What it knows',
      text=[
        'HighlyKnown: every greedy answer is right. MaybeKnown: some are. '
        'WeaklyKnown: none is, but a sample is. Unknown: nothing is right.',
      ],
      figures=[figures.categories(results), figures.fewer_samples(results)],
      tables=[_examples_table(results)],
    ),
    charts.Section(
      title='What the rules decide',
      figures=[figures.decisions(results)],
      tables=[_truth_table(results)] if results['truth'] else [],
    ),
  ]
  if results['detectors']:
    sections.append(
      charts.Section(
        title='Which signals tell right answers',
        text=[
          'Higher means that the answer is more likely right. Fits are made on '
          'train questions and chosen on validation questions. The text-only '
          'classifier reads the question alone: what it reaches is no '
          'knowledge of the model.',
          *results['detectors_left_out'],
        ],
        figures=[figures.detectors(results)],
        tables=[_detector_table(results)],
      )
    )
  sections.append(
    charts.Section(
      title='Do judges agree?',
      figures=[figures.agreement(results)],
      tables=[
        charts.table(
          ['what decided', 'greedy answers'],
          sorted(results['judges']['rules'].items(), key=lambda x: -x[1]),
        )
      ],
    )
  )
  rows = [
    ('model', results['model']['path']),
    ('format', results['format']),
    ('training rows', str(results['rows']['written'])),
  ]
  return [*sections, charts.footer(results, rows)]


def _answer_table(results: Mapping) -> charts.Table:
  columns = {
    'right': 'right',
    'right_exact': 'right by exact match',
    'right_samples': 'right samples',
    'hallucinated': 'informative and wrong',
    'declined': 'declined',
    'hedged': 'hedged',
  }
  return charts.table(
    ['relation', 'answers', *columns.values()],
    [
      [name, found['right']['n'], *(found[key] for key in columns)]
      for name, found in results['answers'].items()
    ],
    percent=list(columns.values()),
  )


def _examples_table(results: Mapping) -> charts.Table:
  return charts.table(
    ['category', 'question', 'answer', 'said', 'judged by', 'right samples'],
    [
      [
        each['category'],
        each['question'],
        ', '.join(each['answers']),
        each['said'],
        each['rule'],
        each['p_correct'],
      ]
      for each in results['examples']
    ],
    percent=['right samples'],
  )


def _truth_table(results: Mapping) -> charts.Table:
  """Decision against truth."""
  rows = []
  for rule, by_split in results['truth'].items():
    for split, by_truth in by_split.items():
      for truth, counts in by_truth.items():
        rows.append(
          [rule, split, truth, *(counts.get(key, 0) for key in DECISIONS)]
        )
  return charts.table(['rule', 'split', 'truth', *DECISIONS], rows)


def _detector_table(results: Mapping) -> charts.Table:
  columns = {
    'auroc': 'AUROC',
    'average_precision': 'AP',
    'aurc': 'AURC',
    'brier': 'Brier',
    'ece': 'ECE',
  }
  return charts.table(
    ['detector', 'kind', 'n', *columns.values()],
    [
      [
        each['name'],
        each['kind'],
        each['auroc']['n'],
        *(each.get(key) for key in columns),
      ]
      for each in results['detectors']
    ],
  )
