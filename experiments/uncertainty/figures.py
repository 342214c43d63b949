"""How well errors are foreseen, from the results of `uncertainty`."""

from collections.abc import Iterator, Mapping, Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from experiments.charts import Section, style
from experiments.charts.style import error_bars, headed
from experiments.uncertainty import tables
from experiments.uncertainty.tables import PLACES, interval

_PLACE_COLOURS = {
  'test': '#0072B2',
  'other types': '#E69F00',
  'transfer': '#009E73',
}
_GROUP_COLOURS = {
  'correct': '#009E73',
  'error (known)': '#E69F00',
  'error (unknown)': '#D55E00',
  'error': '#CC79A7',
}
# Drawn from the start; the others a click in the legend away.
_CURVES = (
  'latent',
  'linear probe',
  'difference of means',
  'P(True)',
  'answer',
)


def sections(
  results: Mapping, records: Sequence[Mapping], listed: int = 12
) -> list[Section]:
  """The report's sections.

  Args:
    results: What `uncertainty` writes to results.json.
    records: A dict per question, as answers.jsonl has them.
    listed: How many answers to list.
  """
  transfers = any('transfer' in each for each in results['detectors'])
  made = [
    Section(
      title='Detectors',
      text=[_DETECTOR_WORDS],
      figures=[comparison(results)],
      tables=[
        tables.detector_table(results, place)
        for place in (PLACES if transfers else ['test'])
      ],
    ),
    Section(
      title='The best error latent',
      text=list(_about_latent(results)),
      figures=[boxes(results)],
      tables=[tables.chosen_table(results)],
    ),
  ]
  for place in PLACES if transfers else ['test']:
    made.append(
      Section(
        title='Curves' + ('' if place == 'test' else f' on {PLACES[place]}'),
        text=[_CURVE_WORDS],
        figures=[
          curves(results, place),
          risk_coverage(results, place),
          reliability(results, place),
        ],
      )
    )
  made.append(
    Section(
      title='Answers',
      text=['Counts of all answers, then some of them.', *results['skipped']],
      tables=[
        tables.count_table(results),
        tables.answer_table(records, listed),
      ],
    )
  )
  return made


_DETECTOR_WORDS = (
  'AUROC for errors among the answers that were not declined, with 95 % '
  'intervals from resampling entities. In the range of random latents, each '
  'takes the direction that suits it. On other types: chosen or fitted on the '
  'other entity types, tested on this one, the probe and the difference of '
  'means where the latent reads that the others choose; the mean over types is '
  'shown, with the lowest and the highest. The difference is to the best error '
  'latent, question by question. Thresholds and calibration are chosen on '
  'validation.'
)
_CURVE_WORDS = (
  'Left, true against false positive rates; right, precision against recall. '
  'Below, the share of errors among the answers that are kept, if those with '
  'the highest scores are dropped first; then how often answers are errors '
  'against the calibrated probability of one, in bins of equally many. The '
  'ECE is above 0 by chance alone: "if calibrated" is how much.'
)


def comparison(results: Mapping) -> go.Figure:
  """A dot and an interval per detector and set of questions."""
  names = [each['name'] for each in results['detectors']]
  figure = go.Figure()
  for place, title in PLACES.items():
    mine = [each for each in results['detectors'] if place in each]
    if mine:
      figure.add_trace(
        _dots(
          title,
          [each['name'] for each in mine],
          [each[place]['auroc'] for each in mine],
          _PLACE_COLOURS[place],
        )
      )
  across = tables.cross_means(results)
  if across:
    figure.add_trace(
      _dots(
        'other types, mean',
        list(across),
        list(across.values()),
        _PLACE_COLOURS['other types'],
      )
    )
  random = results['random'] or {}
  if 'test' in random:
    figure.add_vrect(
      x0=random['test']['low'],
      x1=random['test']['high'],
      fillcolor='#9a9a9a',
      opacity=0.25,
      line={'width': 0},
    )
  figure.add_vline(x=0.5, line={'dash': 'dash', 'width': 1, 'color': 'black'})
  figure = style.styled(
    figure, x='AUROC (grey: random latents)', y='', height=120 + 30 * len(names)
  )
  figure.update_yaxes(
    categoryorder='array', categoryarray=[style.text(n) for n in names[::-1]]
  )
  return headed(figure)


def _dots(title, names, estimates, colour) -> go.Scatter:
  return go.Scatter(
    name=title,
    x=[e['value'] for e in estimates],
    y=[style.text(name) for name in names],
    mode='markers',
    marker={'color': colour, 'size': 8},
    error_x=error_bars([_whole(e) for e in estimates]),
    hovertext=[
      style.text(f'{name}, {title}: {interval(e)}, n = {e["n"]}')
      for name, e in zip(names, estimates, strict=True)
    ],
    hoverinfo='text',
  )


def boxes(results: Mapping) -> go.Figure:
  """Activations of the best error latent by type and outcome."""
  figure = go.Figure()
  groups = list(
    dict.fromkeys(g for kinds in results['groups'].values() for g in kinds)
  )
  for group in sorted(groups, key=list(_GROUP_COLOURS).index):
    mine = {
      kind: cells[group]
      for kind, cells in results['groups'].items()
      if group in cells
    }
    of = lambda key, mine=mine: [cell[key] for cell in mine.values()]
    figure.add_trace(
      go.Box(
        name=group,
        x=[style.text(f'{kind}') for kind in mine],
        q1=of('q1'),
        median=of('median'),
        q3=of('q3'),
        lowerfence=of('min'),
        upperfence=of('max'),
        mean=of('mean'),
        marker={'color': _GROUP_COLOURS[group]},
        hovertext=[
          f'{group}: fires on {cell["active"]:.0%} of {cell["n"]}'
          for cell in mine.values()
        ],
      )
    )
  first = results['detectors'][0]
  figure = style.styled(
    figure,
    x='',
    y=f'{first["name"]} at {results["settings"]["tokens"]}',
    height=420,
  )
  figure.update_layout(boxmode='group')
  return headed(figure)


def curves(results: Mapping, place: str) -> go.Figure:
  """ROC, and precision against recall."""
  figure = make_subplots(rows=1, cols=2, horizontal_spacing=0.1)
  for detector, drawn in _drawn(results, place):
    shown = detector[place]['curves']
    for column, name in enumerate(('roc', 'precision_recall'), start=1):
      figure.add_trace(
        go.Scatter(
          **drawn,
          **shown[name],
          mode='lines',
          showlegend=column == 1,
        ),
        row=1,
        col=column,
      )
  figure = style.styled(figure, x='', y='', height=480)
  for column, (x, y) in enumerate(
    (('false positive rate', 'true positive rate'), ('recall', 'precision')),
    start=1,
  ):
    figure.update_xaxes(title_text=x, range=[-0.01, 1.01], col=column)
    figure.update_yaxes(title_text=y, range=[-0.01, 1.01], col=column)
  return headed(figure)


def risk_coverage(results: Mapping, place: str) -> go.Figure:
  """Errors among the answers kept, against how many are kept."""
  figure = go.Figure()
  for detector, drawn in _drawn(results, place):
    figure.add_trace(
      go.Scatter(
        **drawn, **detector[place]['curves']['risk_coverage'], mode='lines'
      )
    )
  base = results['detectors'][0][place]['aurc_random']
  figure.add_hline(y=base, line={'dash': 'dash', 'width': 1, 'color': 'black'})
  figure = style.styled(
    figure, x='coverage', y='share of errors among those kept', height=420
  )
  figure.update_yaxes(rangemode='tozero')
  return headed(figure)


def reliability(results: Mapping, place: str) -> go.Figure:
  """How often answers are errors, against the probability of it."""
  figure = go.Figure(
    go.Scatter(
      x=[0, 1],
      y=[0, 1],
      mode='lines',
      line={'dash': 'dash', 'width': 1, 'color': 'black'},
      hoverinfo='skip',
      showlegend=False,
    )
  )
  for detector, drawn in _drawn(results, place):
    lines = [('', detector[place]['reliability'])]
    if detector[place]['raw_reliability']:
      lines.append((', as it says', detector[place]['raw_reliability']))
    for suffix, found in lines:
      bins = found['bins']
      look = dict(drawn) | {'name': drawn['name'] + suffix}
      if suffix:
        look['line'] = {**drawn['line'], 'dash': 'dot'}
      figure.add_trace(
        go.Scatter(
          **look,
          x=[b['probability'] for b in bins],
          y=[b['value'] for b in bins],
          mode='lines+markers',
          error_y=error_bars(bins) | {'thickness': 0.5},
          hovertext=[
            style.text(
              f'{look["name"]}: {b["value"]:.1%} of {b["n"]} are errors at '
              f'{b["probability"]:.1%}; ECE {found["ece"]:.3f} (if calibrated '
              f'{found["ece_calibrated"]:.3f}), Brier {found["brier"]:.3f}'
            )
            for b in bins
          ],
          hoverinfo='text',
        )
      )
  figure = style.styled(
    figure, x='probability of an error', y='share of errors', height=460
  )
  figure.update_xaxes(range=[-0.02, 1.02])
  figure.update_yaxes(range=[-0.02, 1.02])
  return headed(figure)


def _drawn(results, place) -> Iterator[tuple[Mapping, dict]]:
  """Detectors with their colours; the first of each kind is shown."""
  colours = style.colours(each['name'] for each in results['detectors'])
  dashes = style.dashes(each['name'] for each in results['detectors'])
  seen = set()
  for each in results['detectors']:
    if place not in each:
      continue
    shown = each['kind'] in _CURVES and each['kind'] not in seen
    seen.add(each['kind'])
    name = each['name']
    yield (
      each,
      {
        'name': style.text(name),
        'legendgroup': name,
        'line': {'color': colours[name], 'dash': dashes[name]},
        'visible': True if shown else 'legendonly',
      },
    )


def _about_latent(results) -> Iterator[str]:
  best = results['chosen']['error'][0]
  yield (
    f'{best["id"]} has the highest of the lowest t over types, '
    f'{best["score"]:.2f}, on train. Boxes are quartiles on test, whiskers the '
    'range.'
  )
  promoted = results['promoted']
  if promoted:
    words = ', '.join(repr(each['token']) for each in promoted['promoted'])
    yield f'Tokens that its decoder row makes likelier: {words}.'


def _whole(found: Mapping) -> Mapping:
  """With an interval of no width where there is none."""
  return {
    **found,
    **{
      end: found['value'] if found[end] is None else found[end]
      for end in ('low', 'high')
    },
  }
