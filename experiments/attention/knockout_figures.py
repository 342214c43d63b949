"""Figures of what cutting attention does."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import plotly.graph_objects as go

from experiments import charts
from experiments.attention import ALL, FROM
from experiments.charts.style import number
from experiments.charts.table import spelled
from experiments.latents.class_look import TITLES

_PLACES = {'last': 'last token', 'entity_last': "entity's last token"}
_WORDS = (
  'Edges are cut in all heads of a window of layers, or of all layers from the '
  'centre on. Below 0 the model is less '
  'likely to do it. Bands are 95 % intervals over entities.'
)


def sections(results: Mapping) -> list[charts.Section]:
  """Returns the report of `attention.knock_out`."""
  made = []
  for name, study in results['studies'].items():
    effects = study['effects']
    what = f'P({study["measure"]})'
    drawn = [
      window_lines(effects, f'change of {what}', lambda e: e['probability'])
    ]
    for latent in next(iter(study['uncut'].values()))['latents']:
      for place, where in _PLACES.items():
        value = lambda e, at=(latent, place): e['latents'][at[0]].get(at[1])
        if any(map(value, effects)):
          title = f'{latent} latent, {where}'
          drawn.append(window_lines(effects, title, value))
    made.append(
      charts.Section(
        title=f'Cutting attention: {name}',
        text=[_WORDS],
        figures=[*drawn, *window_maps(effects, f'change of {what}')],
        tables=[_uncut_table(study, what), _cost_table(study['cost'])],
      )
    )
  return made


def window_lines(
  effects: Sequence[Mapping],
  y_title: str,
  value: Callable[[Mapping], Mapping | None],
) -> go.Figure:
  """Shows effects by the window's centre, a panel per class and width.

  Args:
    effects: Effects of a study. Those of all heads are drawn, or else of the
      first set of heads.
    y_title: Title of the y axis.
    value: Returns the estimate that is drawn of an effect, or None.
  """
  sets = [e['heads'] for e in effects]
  heads = ALL if ALL in sets else sets[0]
  # Edges of others are drawn last: they may lie on those of the last token.
  effects = sorted(effects, key=lambda e: not e['edges'].startswith('last:'))
  curves = {}
  for e in effects:
    if e['heads'] == heads and value(e) is not None:
      panel = f'{TITLES[e["class"]]}, {_windows(e["width"])}'
      curves.setdefault(panel, {}).setdefault(e['edges'], []).append(e)
  return charts.lines(
    {
      panel: [
        charts.Line.of(
          edges,
          [e['centre'] for e in found],
          list(map(value, found)),
          hover=[
            f'layers {e["layers"][0]} to {e["layers"][1]}\n'
            f'P: max-T p {number(e["p_max_t"])}'
            for e in found
          ],
          dash=not edges.startswith('last:'),
        )
        for edges, found in by_edges.items()
      ]
      for panel, by_edges in curves.items()
    },
    x_title='centre of the window, layer',
    y_title=y_title,
    reference=0,
    columns=min(3, len({e['width'] for e in effects})),
  )


def window_maps(
  effects: Sequence[Mapping], colour_title: str
) -> Iterator[go.Figure]:
  """Yields a map of layers by sets of heads per edges, if there are several."""
  single = [e for e in effects if e['width'] == 1]
  if len({e['heads'] for e in single}) < 2:
    return
  for edges in dict.fromkeys(e['edges'] for e in single):
    panels = {}
    for e in single:
      if e['edges'] == edges:
        panels.setdefault(f'{edges}, {TITLES[e["class"]]}', []).append(e)
    yield charts.entry_map(
      panels,
      row='centre',
      column='heads',
      y={i: f'layer {i}' for i in sorted({e['centre'] for e in single})},
      x={e['heads']: e['heads'] for e in single},
      value=lambda e: e['probability']['value'],
      p='p_max_t',
      said=lambda e: (
        f'{spelled(e["probability"])}, n = {e["probability"]["n"]}, '
        f'max-T p {number(e["p_max_t"])}'
      ),
      x_title='heads cut',
      y_title='layer',
      colour_title=colour_title,
    )


def _windows(width: int | str) -> str:
  if width == FROM:
    return 'from the centre on'
  return '1 layer' if width == 1 else f'{width} layers'


def _uncut_table(study: Mapping, what: str) -> charts.Table:
  rows = []
  for name, uncut in study['uncut'].items():
    likeliest = f'{study["measure"]}: likeliest'
    found = {what: uncut['probability'], likeliest: uncut['says']}
    for latent, places in uncut['latents'].items():
      found |= {f'{latent} latent, {at}': each for at, each in places.items()}
    rows += [[name, said, e, e['n']] for said, e in found.items() if e]
  return charts.table(['entities', 'uncut', 'value [95 %]', 'n'], rows)


def _cost_table(cost: Mapping) -> charts.Table:
  timed = cost['timed']
  said = (
    f'seconds, {timed["rows"]} rows of {timed["prompts"]} prompts, '
    f'{", ".join(timed["edges"])}'
  )
  rows = [
    ('floating-point operations', cost['flops'], cost['naive_flops']),
    (said, timed['seconds'], timed['naive_seconds']),
  ]
  return charts.table(
    ['cost', 'this sweep', 'whole runs', 'times'],
    [
      [said, float(own), float(naive), naive / own] for said, own, naive in rows
    ],
  )
