"""Tables of what `uncertainty` found."""

from collections.abc import Mapping

from experiments.charts import Table, style
from experiments.uncertainty.labels import GROUPS

PLACES = {'test': 'test', 'transfer': 'other questions'}


def detector_table(results, place) -> Table:
  columns = {
    'AUROC': 'auroc',
    'AP': 'average_precision',
    'F1': 'f1_f1',
    'precision': 'precision_f1',
    'recall': 'recall_f1',
    "F1 at Youden's": 'f1_youden',
    'AURC': 'aurc',
    'ECE': 'ece',
    'Brier': 'brier',
    'difference': 'difference',
  }
  rows = [
    [
      each['name'],
      *(interval(each[place][key]) for key in columns.values()),
      f'{each[place]["reliability"]["ece_calibrated"]:.3f}',
      *([_known(each['known'])] if place == 'test' else []),
    ]
    for each in results['detectors']
    if place in each
  ]
  more = ['ECE if calibrated']
  if place == 'test':
    more.append('AUROC, known entities')
  return Table(columns=[PLACES[place], *columns, *more], rows=rows)


def chosen_table(results) -> Table:
  types = results['types']
  return Table(
    columns=['fires on', 'latent', 'lowest t', *types],
    rows=[
      [
        {'error': 'errors', 'correct': 'correct answers'}[label],
        found['id'],
        style.number(found['score']),
        *(style.number(found['scores'].get(name)) for name in types),
      ]
      for label, each in results['chosen'].items()
      for found in each
    ],
  )


def count_table(results) -> Table:
  groups = GROUPS
  rows = []
  for counts in (results['counts'], results['transfer_counts'] or {}):
    transfer = counts is results['transfer_counts']
    for split, kinds in counts.items():
      for kind, cells in kinds.items():
        rows.append(
          [
            PLACES['transfer'] if transfer else split,
            kind,
            *(str(cells.get(group, 0)) for group in groups),
          ]
        )
  return Table(columns=['split', 'type', *groups], rows=rows)


def answer_table(records, listed) -> Table:
  groups = {}
  for each in records:
    if each['split'] == 'test':
      groups.setdefault(each['group'], []).append(each)
  few = max(1, listed // max(1, len(groups)))
  return Table(
    columns=['label', 'question', 'answer', 'correct', 'right samples'],
    rows=[
      [
        group,
        each['question'],
        each['text'],
        each['answers'][0],
        str(each['right_samples']),
      ]
      for group in sorted(groups)
      for each in groups[group][:few]
    ],
  )


def cross_means(results) -> dict[str, dict]:
  """Detector -> mean AUROC over left-out types; its range for an interval."""
  found = {}
  for mine in results['cross'].values():
    for kind, estimate in mine.items():
      if estimate is not None:
        found.setdefault(kind, []).append(estimate)
  # Beside the first detector of the kind, which saw all types.
  names = {each['kind']: each['name'] for each in results['detectors'][::-1]}
  return {
    names.get(kind, kind): {
      'value': sum(e['value'] for e in many) / len(many),
      'low': min(e['value'] for e in many),
      'high': max(e['value'] for e in many),
      'n': sum(e['n'] for e in many),
    }
    for kind, many in found.items()
  }


def interval(found: Mapping | None) -> str:
  if found is None:
    return ''
  if found['low'] is None:
    return f'{found["value"]:.3f}'
  return f'{found["value"]:.3f} [{found["low"]:.3f}, {found["high"]:.3f}]'


def _known(found: Mapping | None) -> str:
  if found is None:
    return ''
  return f'{interval(found)}, {found["errors"]} errors'
