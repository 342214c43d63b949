"""Colours, names and margins that figures of steering share."""

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go

from experiments.latents import CLASSES
from experiments.steering.outcomes import OUTCOMES

ORIGINAL_COLOUR = '#4D4D4D'
# The same in all figures, also of latents.
LABEL_COLOURS = {'unknown': '#D55E00', 'known': '#0072B2'}
OUTCOME_COLOURS = dict(
  zip(OUTCOMES, ('#E69F00', '#009E73', '#CC79A7', '#BBBBBB'), strict=True)
)
TITLES = {'known': 'known entities', 'unknown': 'unknown entities'}


def headed(figure: go.Figure) -> go.Figure:
  """Room for panels' titles, and the legend below the figure."""
  figure.update_layout(
    margin={'t': 50, 'b': 110},
    legend={'yref': 'container', 'y': 0.01, 'yanchor': 'bottom'},
  )
  return figure


def classes_of(results: Mapping) -> list[str]:
  """The classes of entities that were asked about."""
  counts = results['arms'][0]['counts']
  return [name for name in CLASSES if name in counts]


def error_bars(estimates: Sequence[Mapping]) -> dict:
  """Intervals of estimates, for plotly; none where there are no bounds."""
  above, below = (
    [0 if e[to] is None else sign * (e[to] - e['value']) for e in estimates]
    for to, sign in (('high', 1), ('low', -1))
  )
  return {
    'type': 'data',
    'symmetric': False,
    'array': above,
    'arrayminus': below,
    'thickness': 1,
    'width': 2,
  }
