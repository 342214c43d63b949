"""How well errors are foreseen: results in, report out."""

from collections.abc import Iterator, Mapping, Sequence

from experiments import charts
from experiments.charts import style
from experiments.charts.table import spelled
from experiments.uncertainty import error_detectors as lib
from experiments.uncertainty.error_labels import GROUPS

_PLACES = {'test': 'test', 'transfer': 'other questions'}
_ACROSS = 'other types, mean'
_PLACE_COLOURS = {
  'test': '#0072B2',
  'other questions': '#009E73',
  _ACROSS: '#E69F00',
}
_GROUP_COLOURS = {
  'correct': '#009E73',
  'error (known)': '#E69F00',
  'error (unknown)': '#D55E00',
  'error': '#CC79A7',
}
# The first detectors of these kinds are drawn, the others a click away.
_DRAWN = (lib.LATENT, lib.PROBE, lib.MEANS, lib.P_TRUE, lib.ANSWER)
_LISTED = 12  # answers
_CURVES = {
  'roc': ('false positive rate', 'true positive rate'),
  'precision_recall': ('recall', 'precision'),
  'risk_coverage': ('coverage', 'share of errors among those kept'),
}
_COLUMNS = {
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


def sections(
  results: Mapping, records: Sequence[Mapping]
) -> list[charts.Section]:
  """Returns the report's sections.

  Args:
    results: What `uncertainty` writes to results.json.
    records: A dict per question, as answers.jsonl has them.
  """
  places = [
    place
    for place in _PLACES
    if any(place in each for each in results['detectors'])
  ]
  return [
    charts.Section(
      title='Detectors',
      text=[
        'AUROC for errors among the answers that were not declined, with 95 % '
        'intervals from resampling entities. In the range of random latents, '
        'each takes the direction that suits it. On other types: chosen or '
        'fitted on the other entity types, tested on this one, the probe and '
        'the difference of means where the latent reads that the others '
        'choose; the mean over types is shown, with the lowest and the '
        'highest. The difference is to the best error latent, question by '
        'question. Thresholds and calibration are chosen on validation.'
      ],
      figures=[comparison(results)],
      tables=[_detector_table(results, place) for place in places],
    ),
    charts.Section(
      title='The best error latent',
      text=list(_about_latent(results)),
      figures=[activations(results)],
      tables=[_chosen_table(results)],
    ),
    *(
      charts.Section(
        title='Curves' + ('' if place == 'test' else f' on {_PLACES[place]}'),
        text=[
          'True against false positive rates; precision against recall; the '
          'share of errors among the answers that are kept, if those with the '
          'highest scores are dropped first; and how often answers are errors '
          'against the calibrated probability of one, in bins of equally many. '
          'The ECE is above 0 by chance alone: "if calibrated" is how much.'
        ],
        figures=[*curves(results, place), reliability(results, place)],
      )
      for place in places
    ),
    charts.Section(
      title='Answers',
      text=['Counts of all answers, then some of them.', *results['skipped']],
      tables=[_count_table(results), *_answer_tables(records)],
    ),
  ]


def comparison(results: Mapping):
  """Shows every detector's AUROC on every set of questions."""
  rows = [
    charts.Dot.of(each['name'], each[place]['auroc'], group=title)
    for each in results['detectors']
    for place, title in _PLACES.items()
    if place in each
  ]
  # Beside the first detector of the kind, which saw all types.
  names = {each['kind']: each['name'] for each in results['detectors'][::-1]}
  across = {}
  for mine in results['cross'].values():
    for kind, estimate in mine.items():
      if estimate is not None:
        across.setdefault(names.get(kind, kind), []).append(estimate)
  for name, many in across.items():
    values = [each['value'] for each in many]
    rows.append(
      charts.Dot(
        name,
        sum(values) / len(values),
        min(values),
        max(values),
        group=_ACROSS,
        hover=f'n = {sum(each["n"] for each in many):,}',
      )
    )
  random = (results['random'] or {}).get('test')
  band = {'random latents': (random['low'], random['high'])} if random else {}
  return charts.dots(
    rows,
    x_title='AUROC',
    groups=_PLACE_COLOURS,
    reference={'chance': 0.5, **band},
  )


def activations(results: Mapping):
  """Shows what the best error latent does, by type and outcome."""
  rows = [
    charts.Dot(
      kind,
      cell['median'],
      cell['q1'],
      cell['q3'],
      group=group,
      hover=f'from {cell["min"]:.3g} to {cell["max"]:.3g}, mean '
      f'{cell["mean"]:.3g}\nfires on {cell["active"]:.0%} of {cell["n"]:,}',
    )
    for kind, cells in results['groups'].items()
    for group, cell in cells.items()
  ]
  best = results['detectors'][0]['name']
  return charts.dots(
    rows,
    x_title=f'{best} at {results["settings"]["tokens"]}: median and quartiles',
    groups=_GROUP_COLOURS,
  )


def curves(results: Mapping, place: str) -> Iterator:
  """Yields ROC, precision against recall, and risk against coverage."""
  all_kept = {'all kept': results['detectors'][0][place]['aurc_random']}
  for curve, (x_title, y_title) in _CURVES.items():
    yield charts.lines(
      [
        charts.Line(each['name'], **each[place]['curves'][curve], hidden=hidden)
        for each, hidden in _detectors(results, place)
      ],
      x_title=x_title,
      y_title=y_title,
      groups=_names(results),
      reference=all_kept if curve == 'risk_coverage' else None,
      x_range=(-0.01, 1.01),
      y_range=(-0.01, 1.01),
    )


def reliability(results: Mapping, place: str):
  """Shows how often answers are errors, against the probability of it."""
  lines = [charts.Line('calibrated', [0, 1], [0, 1], dash=True)]
  for each, hidden in _detectors(results, place):
    for key, suffix in (
      ('reliability', ''),
      ('raw_reliability', ', as it says'),
    ):
      found = each[place][key]
      if found is None:
        continue
      lines.append(
        charts.Line.of(
          each['name'] + suffix,
          [one['probability'] for one in found['bins']],
          found['bins'],
          hover=[
            f'ECE {found["ece"]:.3f} (if calibrated '
            f'{found["ece_calibrated"]:.3f}), Brier {found["brier"]:.3f}'
          ]
          * len(found['bins']),
          group=each['name'],
          dash=bool(suffix),
          hidden=hidden,
        )
      )
  return charts.lines(
    lines,
    x_title='probability of an error',
    y_title='share of errors',
    groups=style.colours(_names(results)) | {'calibrated': '#000000'},
    x_range=(-0.02, 1.02),
    y_range=(-0.02, 1.02),
  )


def _names(results: Mapping) -> list[str]:
  return [each['name'] for each in results['detectors']]


def _detectors(results: Mapping, place: str) -> Iterator[tuple[Mapping, bool]]:
  """Yields detectors, and whether a click shows them, not the page."""
  seen = set()
  for each in results['detectors']:
    if place in each:
      yield each, each['kind'] not in _DRAWN or each['kind'] in seen
      seen.add(each['kind'])


def _about_latent(results: Mapping) -> Iterator[str]:
  best = results['chosen']['error'][0]
  yield (
    f'{best["id"]} has the highest of the lowest t over types, '
    f'{best["score"]:.2f}, on train. Dots are medians on test, with quartiles.'
  )
  if results['promoted']:
    promoted = results['promoted']['promoted']
    words = ', '.join(repr(each['token']) for each in promoted)
    yield f'Tokens that its decoder row makes likelier: {words}.'


def _detector_table(results: Mapping, place: str) -> charts.Table:
  rows = []
  for each in results['detectors']:
    if place in each:
      known = each['known']
      said = f'{spelled(known)}, {known["errors"]} errors' if known else ''
      rows.append(
        [
          each['name'],
          *(each[place][key] for key in _COLUMNS.values()),
          each[place]['reliability']['ece_calibrated'],
          *([said] if place == 'test' else []),
        ]
      )
  more = ['AUROC, known entities'] if place == 'test' else []
  return charts.table(
    [_PLACES[place], *_COLUMNS, 'ECE if calibrated', *more], rows
  )


def _chosen_table(results: Mapping) -> charts.Table:
  types = results['types']
  return charts.table(
    ['fires on', 'latent', 'lowest t', *types],
    [
      [
        {'error': 'errors', 'correct': 'correct answers'}[label],
        found['id'],
        found['score'],
        *(found['scores'].get(name) for name in types),
      ]
      for label, each in results['chosen'].items()
      for found in each
    ],
  )


def _count_table(results: Mapping) -> charts.Table:
  return charts.table(
    ['split', 'type', *GROUPS],
    [
      [where or split, kind, *(cells.get(group, 0) for group in GROUPS)]
      for where, counts in (
        ('', results['counts']),
        (_PLACES['transfer'], results['transfer_counts'] or {}),
      )
      for split, kinds in counts.items()
      for kind, cells in kinds.items()
    ],
  )


def _answer_tables(records: Sequence[Mapping]) -> Iterator[charts.Table]:
  """Yields a table of some answers of test, equally many of each group."""
  groups = {}
  for each in records:
    if each['split'] == 'test':
      groups.setdefault(each['group'], []).append(each)
  if groups:
    few = max(1, _LISTED // len(groups))
    yield charts.table(
      ['label', 'question', 'answer', 'correct', 'right samples'],
      [
        [
          group,
          each['question'],
          each['text'],
          each['answers'][0],
          each['right_samples'],
        ]
        for group in sorted(groups)
        for each in groups[group][:few]
      ],
    )
