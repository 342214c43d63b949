"""The study's report, the table of all models, and what a terminal shows."""

from collections import Counter
from collections.abc import Mapping, Sequence
import pathlib

from experiments import charts
from experiments.charts.table import spelled
from experiments.factual_recall import figures
from experiments.factual_recall.dissection import ANSWER
from experiments.factual_recall.summary import FAILS, HOLDS, OPEN
from experiments.runs import outputs

_COLUMNS = {
  'prompts': 'prompts',
  'studied': 'studied',
  'p_answer': 'P(answer)',
  'top1': 'top-1',
  'pi_answer': 'pi(Y)',
  'pi_subject': 'pi(N)',
  'strongest_head': 'strongest head',
  'correlation': 'r of attention and write',
  'last_block': 'last block, pi(Y)',
  'p_mask': 'P, masked',
  'p_both': 'P, mask and intercept',
  'p_both_in_sample': 'the same, in sample',
  'top1_both': 'top-1, both',
}
_SHARES = {
  'p_answer',
  'top1',
  'p_mask',
  'p_both',
  'p_both_in_sample',
  'top1_both',
}
_ABOUT = {
  1: 'Argument passing',
  2: 'Activation by the MLP',
  3: 'Function application',
  4: 'The same with demonstrations',
  5: 'The last layer holds back',
  6: 'Undoing it',
  7: 'What the last token must see',
  8: 'Known and unknown subjects',
}


def write_page(folder: pathlib.Path) -> str:
  """Writes the report of a finished run.

  Args:
    folder: The run's, with its results.json.

  Returns:
    The table of this run and of those in the folders beside it, as text.
  """
  results = outputs.read_json(folder / outputs.RESULTS_FILE)
  charts.write_report(
    folder / outputs.REPORT_FILE,
    f'How {results["model"]["name"]} recalls a fact',
    summary(results),
    _sections(results),
  )
  beside = sorted(folder.resolve().parent.glob(f'*/{outputs.RESULTS_FILE}'))
  everyone = [outputs.read_json(file) for file in beside]
  return _text(
    compare_models(
      [each for each in everyone if each.get('study') == results['study']]
    )
  )


def summary(results: Mapping) -> list[str]:
  """Returns what the report says first: the answer, then the verdicts."""
  runs = results['runs']
  best = max(runs, key=lambda run: run['first']['top1']['value'])
  head = best['movers']['heads'][0]
  last = best['trajectory']['last']['log_prob']['block']
  arms = best['mitigation']['arms']
  held = (
    'holds the answer back' if last['value'] < 0 else 'brings the answer up'
  )
  lines = [
    f'{results["model"]["name"]} gives the right answer to '
    f'{_share(best["first"]["top1"])} of {best["first"]["prompts"]} prompts '
    f'({figures.label(best)}). The answer depends most on {head["name"]}, '
    f'whose attention to the subject is {_share(head["attention"])}.',
    f'The last layer {held}: it changes log P(answer) by {spelled(last)} nats. '
    'Without its attention to other tokens and without its constant part, '
    f'P(answer) goes from {_share(arms["none"]["mean"]["prob"])} to '
    f'{_share(arms["both"]["mean"]["prob"])}.',
  ]
  counts = Counter(
    (each['number'], each['verdict']) for each in results['claims']
  )
  said = [
    f'{about}: {counts[number, HOLDS]} hold, '
    f'{counts[number, FAILS]} do not, {counts[number, OPEN]} cannot be told'
    for number, about in _ABOUT.items()
    if any(counts[number, v] for v in (HOLDS, FAILS, OPEN))
  ]
  return [*lines, f'Claims, over tasks and demonstrations: {"; ".join(said)}.']


def compare_models(everyone: Sequence[Mapping]) -> charts.Table:
  """Returns the table model x task x demonstrations."""
  return charts.table(
    ['model', 'task', 'shots', *_COLUMNS.values()],
    [
      [
        results['model']['name'],
        row['task'],
        str(row['shots']),
        *(row[key] for key in _COLUMNS),
      ]
      for results in everyone
      for row in results['table']
    ],
    percent=[_COLUMNS[key] for key in _COLUMNS if key in _SHARES],
  )


def _sections(results: Mapping) -> list[charts.Section]:
  runs = results['runs']
  inside = [run for run in runs if 'inside' in run]
  known = [run for run in inside if run['inside']['known_and_unknown']]
  several = len(results['tasks']) > 1
  sections = [
    charts.Section(
      title='Tasks and demonstrations',
      text=[
        'pi(Y) is the logit of the answer less the mean logit, pi(N) that of '
        "the subject's own first token. Intervals are 95 %, over subjects.",
      ],
      tables=[compare_models([results])],
      figures=[figures.mitigations(runs)],
    ),
    _claims_section(results),
    charts.Section(
      title='Who passes the argument',
      text=[
        'Each cell is one head, or an MLP, replaced at the last token by what '
        'it writes after prompts about other subjects. The heads above are '
        'held as they were; MLPs above see the change. Red means that the '
        'answer needs it.',
      ],
      figures=[
        figures.sender_maps(inside),
        *figures.receiver_maps(inside),
        *map(figures.strongest, inside),
        figures.attention_map(inside),
        *map(figures.sources, inside),
      ],
      tables=[_movers_table(inside)],
    ),
    charts.Section(
      title='What the MLP does with it',
      text=[
        "The MLP's output is regressed on what the heads of its layer wrote "
        'and on a constant. A net gain of 0 erases a head, 1 leaves it, more '
        'amplifies it.',
      ],
      figures=[
        figures.explained(inside),
        *map(figures.gains, inside),
        *map(figures.function_effects, inside),
        *([figures.intercepts_alike(results)] if several else []),
      ],
      tables=[_intercept_table(inside)],
    ),
    charts.Section(
      title='What the last layer holds back',
      text=[
        'The lens reads every place of the stream as if it were the last. '
        'Masked, the last layer sees the last token alone; the intercept is '
        'the constant part of its MLP, fitted on other subjects.',
      ],
      figures=[
        figures.trajectories(inside),
        figures.block_changes(inside),
        figures.frequencies(inside),
        *map(figures.before_and_after, inside),
      ],
      tables=[_price_table(inside)],
    ),
    charts.Section(
      title='How the fact reaches the last token',
      figures=[figures.knockouts(inside), figures.extractions(inside)],
      tables=[_extraction_table(inside)],
    ),
  ]
  if known:
    sections.append(
      charts.Section(
        title='Known and unknown subjects',
        text=[
          'Subjects are known by the truth of the world, or else if the model '
          'answers more than half of their prompts. Detectors read the '
          "subject's last token and were chosen on other subjects."
        ],
        figures=[figures.known_and_unknown(known)],
        tables=[_predicted_table(known)],
      )
    )
  settings = results['settings']
  return [
    *sections,
    charts.footer(
      results,
      [
        ('model', results['model']['path']),
        ('fingerprint', results['model']['fingerprint'][:16]),
        ('plain text', results['text']),
        ('senders are replaced by', settings['donor']),
      ],
    ),
  ]


def _claims_section(results) -> charts.Section:
  return charts.Section(
    title='Claim by claim',
    tables=[
      charts.table(
        ['', 'claim', 'task', 'measured', 'value', 'n', 'verdict'],
        [
          [
            f'{each["number"]} {_ABOUT[each["number"]]}',
            each['claim'],
            figures.label(each),
            f'{each["what"]}; holds if {each["rule"]}',
            each['estimate'],
            each['estimate'].get('n'),
            each['verdict'],
          ]
          for each in results['claims']
        ],
      )
    ],
  )


def _movers_table(runs) -> charts.Table:
  return charts.table(
    ['task', 'head', 'attention to subject', 'write along subject', 'r'],
    [
      [
        figures.label(run),
        head['name'],
        head['attention'],
        head['write'],
        head['correlation'],
      ]
      for run in runs
      for head in run['movers']['heads']
    ],
  )


def _intercept_table(runs) -> charts.Table:
  return charts.table(
    ['task', 'MLP', 'its constant part says', 'answers among them'],
    [
      [
        figures.label(run),
        str(each['layer']),
        ', '.join(map(repr, each['function']['texts'])),
        each['function']['answer_fraction'],
      ]
      for run in runs
      for each in run['regression']
      if 'function' in each
    ],
    percent=['answers among them'],
  )


def _price_table(runs) -> charts.Table:
  return charts.table(
    ['fitted on', 'plain text', 'perplexity', 'ratio', 'calibration error'],
    [
      [
        figures.label(run),
        arm,
        found['perplexity'],
        found['perplexity_ratio'],
        found['calibration']['ece'],
      ]
      for run in runs
      for arm, found in run['price']['arms'].items()
    ],
  )


def _extraction_table(runs) -> charts.Table:
  return charts.table(
    ['task', 'output', 'extracts the true answer in any layer'],
    [
      [figures.label(run), name, found['raw'][ANSWER]['any']]
      for run in runs
      for name, found in run['inside']['extraction']['rates'].items()
    ],
    percent=['extracts the true answer in any layer'],
  )


def _predicted_table(runs) -> charts.Table:
  return charts.table(
    ['task', 'detector', 'signal', "Spearman's rho over subjects"],
    [
      [figures.label(run), row['detector'], row['signal'], row['spearman']]
      for run in runs
      for row in run['inside']['known_and_unknown']['predicted']
    ],
  )


def _share(found: Mapping) -> str:
  return spelled(found, percent=True)


def _text(table: charts.Table) -> str:
  """Returns a table for the terminal."""
  rows = [list(table.columns), *map(list, table.rows)]
  widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
  return '\n'.join(
    '  '.join(
      cell.ljust(width) for cell, width in zip(row, widths, strict=True)
    ).rstrip()
    for row in rows
  )
