"""Distributions of samples over the same bins, and observed values in them."""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from experiments.charts import panels, style
from experiments.charts.details import hover_text
from experiments.charts.references import add_shape, line_look
from experiments.charts.rows import Groups, group_colours

_HEIGHT = 300


def histogram(
  samples: Mapping[str, Sequence[float]],
  *,
  x_title: str,
  bins: int = 30,
  normalised: bool = True,
  markers: Mapping[str, float] | None = None,
  groups: Groups | None = None,
  title: str = '',
) -> go.Figure:
  """Draws how often values occur, samples over each other.

  Args:
    samples: Name -> values [n]. What is not finite is counted, not drawn.
    x_title: What the values are, with their unit.
    bins: How many bins of one width there are from the lowest value of all
      samples to the highest.
    normalised: True to draw shares of each sample, not counts.
    markers: Name -> a value to draw a line at, such as the one observed; in the
      colour of the sample of that name, or else in black.
    groups: The order of samples, or sample -> colour, in order.
    title: Title of the figure.

  Raises:
    ValueError: no sample has a finite value, a sample is not a list of
      numbers, or there is no bin.
  """
  values = {name: _values(name, given) for name, given in samples.items()}
  finite = {name: each[np.isfinite(each)] for name, each in values.items()}
  if not sum(map(len, finite.values())):
    raise ValueError('There are no samples to draw: no value is finite.')
  if bins < 1:
    raise ValueError(f'bins must be at least 1, not {bins}.')
  edges = _edges(np.concatenate(list(finite.values())), bins)
  colours = group_colours(values, groups)
  figure, (place,) = panels.grid([''], height=_HEIGHT)
  for name, colour in colours.items():
    counts, _ = np.histogram(finite[name], edges)
    trace = _trace(
      name, counts, edges, len(values[name]) - len(finite[name]), normalised
    )
    trace.marker.color = colour
    figure.add_trace(trace, **place)
  for name, value in (markers or {}).items():
    look = line_look(colours.get(name, '#000000'), dash='solid', width=3)
    named = f'{name}, observed' if name in colours else name
    add_shape(figure, named, value, value, 'x', 1, {**look, 'opacity': 0.9})
  figure = panels.finished(
    figure,
    x_title=x_title,
    y_title='share' if normalised else 'count',
    title=title,
  )
  figure.update_layout(barmode='overlay', bargap=0)
  figure.update_yaxes(rangemode='tozero')
  return figure


def _values(name, given) -> np.ndarray:
  values = np.asarray(given, float)
  if values.ndim != 1:
    raise ValueError(
      f'Sample {name!r} has shape {list(values.shape)}; expected one axis.'
    )
  return values


def _edges(values, bins) -> np.ndarray:
  """Returns the ends of all bins, float [bins + 1]."""
  low, high = values.min(), values.max()
  if high - low <= 1e-9 * max(abs(low), abs(high)):  # all but one value
    reach = 0.5 * abs(low) or 0.5
    low, high = low - reach, high + reach
  return np.linspace(low, high, bins + 1)


def _trace(name, counts, edges, dropped, normalised) -> go.Bar:
  n = counts.sum()
  shares = counts / max(1, n)
  left_out = f'; {dropped:,} not finite' if dropped else ''
  return go.Bar(
    name=style.text(name),
    legendgroup=name,
    showlegend=True,
    x=((edges[:-1] + edges[1:]) / 2).tolist(),
    y=(shares if normalised else counts).tolist(),
    width=np.diff(edges).tolist(),
    opacity=0.55,
    hovertext=[
      hover_text(
        name,
        f'{style.number(float(low))} to {style.number(float(high))}',
        f'{count:,} of n = {n:,} ({share:.1%}){left_out}',
      )
      for low, high, count, share in zip(
        edges[:-1], edges[1:], counts, shares, strict=True
      )
    ],
    hoverinfo='text',
  )
