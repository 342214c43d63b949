"""What cutting attention does, from `attention.knock_out`."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from experiments.attention.maps import interval
from experiments.charts import Section, Table, heatmap, style
from experiments.charts.style import error_bars, headed
from experiments.latents import CLASSES
from experiments.latents.class_look import TITLES


def knockout_sections(results: Mapping) -> list[Section]:
  """The report of `attention.knock_out`."""
  sections = []
  for name, study in results['studies'].items():
    effects = study['effects']
    what = f'P({study["measure"]})'
    drawn = [window_lines(effects, f'change of {what}', _probability)]
    for latent in next(iter(study['uncut'].values()))['latents']:
      for place in ('last', 'entity_last'):
        value = _latent(latent, place)
        if any(value(effect) for effect in effects):
          where = {'last': 'last', 'entity_last': "entity's last"}[place]
          drawn.append(
            window_lines(effects, f'{latent} latent, {where} token', value)
          )
    maps = head_maps(effects, f'change of {what}')
    sections.append(
      Section(
        title=f'Cutting attention: {name}',
        text=[_WINDOW_WORDS],
        figures=[*drawn, *maps],
        tables=[_uncut_table(study, what), _cost_table(study['cost'])],
      )
    )
  return sections


def window_lines(
  effects: Sequence[Mapping],
  title: str,
  value: Callable[[Mapping], Mapping | None],
) -> go.Figure:
  """Change against the window's centre; lines are edges, a menu has widths.

  Args:
    effects: Of a study; those of all heads are drawn.
    title: Of the y axis.
    value: Of an effect, the estimate that is drawn, or None.
  """
  effects = [e for e in effects if e['heads'] == _heads_drawn(effects)]
  classes = [
    name for name in CLASSES if any(e['class'] == name for e in effects)
  ]
  widths = list(dict.fromkeys(e['width'] for e in effects))
  edges = sorted(
    dict.fromkeys(e['edges'] for e in effects), key=lambda e: not _of_last(e)
  )
  colour = style.colours(edges)
  figure = make_subplots(
    rows=1,
    cols=len(classes),
    shared_yaxes=True,
    subplot_titles=[TITLES[name] for name in classes],
  )
  shown = []
  for width in widths:
    for column, name in enumerate(classes, start=1):
      for edge in edges:
        points = [
          (e, value(e))
          for e in effects
          if (e['class'], e['edges'], e['width']) == (name, edge, width)
          and value(e) is not None
        ]
        if not points:
          continue
        figure.add_trace(
          go.Scatter(
            name=style.text(edge),
            legendgroup=edge,
            showlegend=column == 1,
            visible=width == widths[0],
            x=[e['centre'] for e, _ in points],
            y=[v['value'] for _, v in points],
            error_y=error_bars([v for _, v in points]),
            mode='lines+markers',
            line={
              'color': colour[edge],
              # On top, since they may lie on those of the last token.
              'dash': 'solid' if _of_last(edge) else 'dot',
            },
            marker={'size': 6},
            hovertext=[
              f'{style.text(edge)}, layers {e["layers"][0]} to '
              f'{e["layers"][1]}<br>{interval(v)}, n = {v["n"]}'
              f'<br>P: max-T p {style.number(e["p_max_t"])}'
              for e, v in points
            ],
            hoverinfo='text',
          ),
          row=1,
          col=column,
        )
        shown.append(width)
  figure = style.styled(figure, x='centre of the window, layer', y='')
  figure.update_yaxes(title_text=style.text(title), col=1)
  figure = headed(figure)
  figure.update_layout(
    margin={'t': 90},
    updatemenus=[
      {
        'buttons': [
          {
            'label': _window_name(width),
            'method': 'update',
            'args': [{'visible': [each == width for each in shown]}],
          }
          for width in widths
        ],
        'x': 0,
        'xanchor': 'left',
        'y': 1.14,
        'yanchor': 'bottom',
      }
    ],
  )
  return figure


def head_maps(effects: Sequence[Mapping], title: str) -> Iterator[go.Figure]:
  """Layer by set of heads, of windows of one layer; a figure per edges."""
  single = [e for e in effects if e['width'] == 1]
  sets = list(dict.fromkeys(e['heads'] for e in single))
  if len(sets) < 2:
    return
  layers = sorted({e['centre'] for e in single})
  for edge in dict.fromkeys(e['edges'] for e in single):
    grids, hover, marked = {}, {}, {}
    for name in dict.fromkeys(e['class'] for e in single):
      found = {
        (e['centre'], e['heads']): e
        for e in single
        if (e['edges'], e['class']) == (edge, name)
      }
      cell = lambda layer, heads, found=found: found.get((layer, heads))
      panel = f'{edge}, {TITLES[name]}'
      grids[panel] = [
        [
          e['probability']['value'] if (e := cell(i, h)) else np.nan
          for h in sets
        ]
        for i in layers
      ]
      hover[panel] = [
        [
          f'{interval(e["probability"])}, n = {e["probability"]["n"]}, '
          f'max-T p {style.number(e["p_max_t"])}'
          if (e := cell(i, h))
          else ''
          for h in sets
        ]
        for i in layers
      ]
      marked[panel] = np.array(
        [
          [
            bool(e) and e['p_max_t'] is not None and e['p_max_t'] <= 0.05
            for h in sets
            for e in (cell(i, h),)
          ]
          for i in layers
        ]
      )
    yield heatmap(
      grids,
      x=sets,
      y=[f'layer {i}' for i in layers],
      x_title='heads cut',
      y_title='layer',
      colour_title=title,
      hover=hover,
      significant=marked,
    )


def _heads_drawn(effects) -> str:
  """'all' if it was cut, or else the first set."""
  names = [e['heads'] for e in effects]
  return 'all' if 'all' in names else names[0]


def _of_last(edges: str) -> bool:
  return edges.startswith('last:')


def _window_name(width) -> str:
  if width == 'from':
    return 'all layers from the centre on'
  return '1 layer' if width == 1 else f'{width} layers'


def _probability(effect: Mapping) -> Mapping:
  return effect['probability']


def _latent(name: str, place: str) -> Callable[[Mapping], Mapping | None]:
  return lambda effect: effect['latents'][name].get(place)


def _uncut_table(study, what) -> Table:
  rows = []
  for name, uncut in study['uncut'].items():
    rows.append([name, what, interval(uncut['probability']), str(uncut['n'])])
    rows.append(
      [
        name,
        f'{study["measure"]}: likeliest',
        interval(uncut['says']),
        str(uncut['says']['n']),
      ]
    )
    for latent, places in uncut['latents'].items():
      for place, found in places.items():
        if found is not None:
          rows.append(
            [
              name,
              f'{latent} latent, {place}',
              interval(found),
              str(found['n']),
            ]
          )
  return Table(columns=['entities', 'uncut', 'value [95 %]', 'n'], rows=rows)


def _cost_table(cost) -> Table:
  timed = cost['timed']
  rows = [
    [
      'floating-point operations',
      f'{cost["flops"]:.3g}',
      f'{cost["naive_flops"]:.3g}',
      f'{cost["naive_flops"] / cost["flops"]:.1f}',
    ],
    [
      f'seconds, {timed["rows"]} rows of {timed["prompts"]} prompts, '
      f'{", ".join(timed["edges"])}',
      f'{timed["seconds"]:.3f}',
      f'{timed["naive_seconds"]:.3f}',
      f'{timed["naive_seconds"] / timed["seconds"]:.1f}',
    ],
  ]
  return Table(columns=['cost', 'this sweep', 'whole runs', 'times'], rows=rows)


_WINDOW_WORDS = (
  'Edges are cut in all heads of a window of layers; the menu has its widths. '
  'Below 0 the model is less likely to do it. Bars are 95 % intervals over '
  'entities.'
)
