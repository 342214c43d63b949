"""What else a latent could tell: figures of `experiments.confounds`."""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from experiments.charts import style
from experiments.charts.style import error_bars, headed
from experiments.confounds import tables
from experiments.latents import CLASSES
from experiments.latents.class_look import LABEL_COLOURS
from experiments.stats.intervals import wilson

_BINS = 5
_GREY = '#888888'


def dots(
  series: Mapping[str, Sequence[Mapping]],
  rows: Sequence[str],
  *,
  x: str,
  line: float | None = None,
) -> go.Figure:
  """Estimates with intervals, a row per name and a colour per series.

  Args:
    series: Name -> as many estimates as rows; those without a value are left
      out.
    rows: Names.
    x: Title of the axis.
    line: Where to draw one, such as at chance.
  """
  figure = go.Figure()
  colours = style.colours(series)
  shifts = np.linspace(-0.28, 0.28, len(series)) if len(series) > 1 else [0.0]
  for (name, found), shift in zip(series.items(), shifts, strict=True):
    there = [
      (row, label, one)
      for row, (label, one) in enumerate(zip(rows, found, strict=True))
      if one['value'] is not None
    ]
    bars = [
      one
      | {
        end: one['value'] if one[end] is None else one[end]
        for end in ('low', 'high')
      }
      for _, _, one in there
    ]
    figure.add_trace(
      go.Scatter(
        name=style.text(name),
        x=[one['value'] for one in bars],
        y=[row + shift for row, _, _ in there],
        error_x=error_bars(bars),
        mode='markers',
        marker={'color': colours[name], 'size': 8},
        hovertext=[
          f'{style.text(label)}<br>{style.text(name)}<br>'
          f'{tables.estimate(one)}<br>n = {one["n"]:,}'
          for _, label, one in there
        ],
        hoverinfo='text',
      )
    )
  height = 130 + max(34, 15 * len(series)) * len(rows)
  figure = style.styled(figure, x=x, y='', height=height)
  figure.update_yaxes(
    tickvals=list(range(len(rows))),
    ticktext=[style.text(row) for row in rows],
    range=[len(rows) - 0.5, -0.5],
    showgrid=False,
  )
  if line is not None:
    figure.add_vline(x=line, line={'color': _GREY, 'dash': 'dash', 'width': 1})
  figure = headed(figure)
  figure.update_layout(margin={'t': 20, 'b': 100}, height=height + 60)
  return figure


def by_covariate(results: Mapping, records: Sequence[Mapping]) -> go.Figure:
  """How often latents fire, by what names are like; a row per latent."""
  readers = [one for one in results['readers'] if one['latent']]
  names = results['covariates']
  tested = [one for one in records if 'covariates' in one]
  figure = make_subplots(
    rows=len(readers),
    cols=len(names),
    shared_yaxes=True,
    horizontal_spacing=0.03,
    vertical_spacing=0.16,
    subplot_titles=[
      style.text(one['name'] if column == 0 else '')
      for one in readers
      for column in range(len(names))
    ],
  )
  for row, reader in enumerate(readers, 1):
    for column, name in enumerate(names, 1):
      for label in CLASSES:
        figure.add_trace(
          _binned_trace(tested, reader, name, label, row == column == 1),
          row=row,
          col=column,
        )
  figure = style.styled(figure, x='', y='', height=270 * len(readers) + 130)
  for column, name in enumerate(names, 1):
    figure.update_xaxes(
      title_text=style.text(name), row=len(readers), col=column
    )
  figure.update_yaxes(title_text='fires', col=1)
  figure.update_yaxes(range=[-0.03, 1.03], tickformat='.0%')
  return headed(figure)


def changed(results: Mapping) -> go.Figure:
  """How often readers fire on changed names."""
  readers = results['changed']
  kinds = list(readers[0]['kinds'])
  figure = dots(
    {
      one['name']: [one['kinds'][kind]['fires'] for kind in kinds]
      for one in readers
    },
    [tables.kind_of_names(kind) for kind in kinds],
    x='share of names on which it fires',
  )
  figure.update_xaxes(range=[-0.02, 1.02], tickformat='.0%')
  return figure


def norms(results: Mapping) -> go.Figure:
  """Mean norm of the stream by layer; large markers where classes differ."""
  layers = results['norms']['layers']
  figure = go.Figure()
  where = [f'{one["site"]}.{one["layer"]}' for one in layers]
  for label in CLASSES:
    found = [one[label] for one in layers]
    figure.add_trace(
      go.Scatter(
        name=f'{label} entities',
        x=where,
        y=[one['value'] for one in found],
        error_y=error_bars(found),
        mode='lines+markers',
        marker={
          'color': LABEL_COLOURS[label],
          'size': [
            11
            if one['p_adjusted'] is not None and one['p_adjusted'] <= 0.05
            else 6
            for one in layers
          ],
          'symbol': 'circle',
        },
        line={'color': LABEL_COLOURS[label]},
        hovertext=[
          f'{place}<br>{label}: {tables.estimate(one)}, n = {one["n"]:,}<br>'
          f'AUROC for known {tables.estimate(layer["auroc"])}<br>'
          f't = {style.number(layer["t"])}, adjusted p = '
          f'{style.number(layer["p_adjusted"])}'
          for place, one, layer in zip(where, found, layers, strict=True)
        ],
        hoverinfo='text',
      )
    )
  return style.styled(
    figure, x='site and layer', y="L2 norm at the entity's last token"
  )


def chance(results: Mapping) -> go.Figure:
  """What the search finds when labels are shuffled, and with the real ones."""
  figure = make_subplots(
    rows=1,
    cols=2,
    horizontal_spacing=0.1,
    subplot_titles=[
      'best score on train (lowest over types)',
      'separation of that latent on test (mean over types)',
    ],
  )
  panels = (
    ('null_best', lambda label: results['null'][label]['observed']),
    ('shuffled', lambda label: results['shuffled'][label]['observed']['value']),
  )
  for column, (part, real) in enumerate(panels, 1):
    for label in CLASSES:
      drawn = results[part][label]
      drawn = drawn if column == 1 else drawn['shuffled']
      figure.add_trace(
        go.Histogram(
          name=f'{label}, shuffled labels',
          x=drawn,
          marker={'color': LABEL_COLOURS[label]},
          opacity=0.55,
          nbinsx=30,
          showlegend=column == 1,
        ),
        row=1,
        col=column,
      )
      figure.add_vline(
        x=real(label),
        line={'color': LABEL_COLOURS[label], 'width': 3},
        annotation={'text': f'{label}, real', 'textangle': -90},
        row=1,
        col=column,
      )
  figure = style.styled(figure, x='separation', y='runs')
  figure.update_layout(barmode='overlay')
  return headed(figure)


def first_latents(results: Mapping) -> go.Figure:
  """Which latents other splits would have chosen."""
  found = results['stability']
  figure = go.Figure()
  for label in CLASSES:
    one = found[label]
    ids = list(one['first'])
    shares = [wilson(one['first'][id], one['num_splits']) for id in ids]
    shares = [share.to_dict() for share in shares]
    figure.add_trace(
      go.Bar(
        name=f'{label} latents',
        y=[style.text(id) for id in ids],
        x=[share['value'] for share in shares],
        error_x=error_bars(shares),
        orientation='h',
        marker={'color': LABEL_COLOURS[label]},
        hovertext=[
          f'{style.text(id)}: first in {one["first"][id]} of '
          f'{one["num_splits"]} splits'
          for id in ids
        ],
        hoverinfo='text',
      )
    )
  rows = sum(len(one['first']) for one in found.values())
  figure = style.styled(
    figure,
    x='share of splits in which it came first',
    y='',
    height=140 + 24 * rows,
  )
  figure.update_xaxes(range=[0, 1.02], tickformat='.0%')
  figure.update_yaxes(autorange='reversed', showgrid=False)
  return figure


def _binned_trace(tested, reader, name, label, legend) -> go.Scatter:
  mine = [one for one in tested if one['label'] == label]
  every = np.array([one['covariates'][name] for one in tested])
  column = np.array([one['covariates'][name] for one in mine])
  fires = np.array([one['fires'][reader['name']] for one in mine])
  edges = np.unique(np.quantile(every, np.arange(1, _BINS) / _BINS))
  if len(np.unique(every)) <= _BINS:
    edges = np.unique(every)[1:]
  bins = np.searchsorted(edges, column, side='right')
  found = [
    (float(column[bins == b].mean()), fires[bins == b])
    for b in range(len(edges) + 1)
    if (bins == b).any()
  ]
  rates = [wilson(int(f.sum()), len(f)).to_dict() for _, f in found]
  return go.Scatter(
    name=f'{label} names',
    x=[x for x, _ in found],
    y=[one['value'] for one in rates],
    error_y=error_bars(rates),
    mode='lines+markers',
    marker={'color': LABEL_COLOURS[label]},
    line={'color': LABEL_COLOURS[label], 'width': 1},
    showlegend=legend,
    hovertext=[
      f'{label} names, mean {style.text(name)} {x:.3g}<br>fires '
      f'{tables.share(one)}<br>n = {one["n"]}'
      for (x, _), one in zip(found, rates, strict=True)
    ],
    hoverinfo='text',
  )
