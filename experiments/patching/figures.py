"""Maps of patches, from the results of `experiments.patching`."""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from experiments.charts import Section, Table, heatmap, style
from experiments.patching.cells import HEAD_MAPS, TOKEN_MAPS
from experiments.stats.multiplicity import ALPHA

_TITLES = {
  'resid_pre': 'resid_pre (stream)',
  'attn_out': 'attn_out (attention)',
  'mlp_out': 'mlp_out (MLP)',
  'z_last': 'z, last token',
  'z_all': 'z, all tokens',
}
_DIRECTIONS = {
  'denoising': 'Denoising: the known entity’s activations in the unknown one’s '
  'run',
  'noising': 'Noising: the unknown entity’s activations in the known one’s run',
}
_MOVED = 'share of the way to the donor'
# Pairs that a click on a cell shows, those that it moves most.
_SHOWN = 3


def sections(
  results: Mapping,
  shares: Mapping[str, np.ndarray],
  texts: Mapping[str, Sequence[str]],
) -> list[Section]:
  """The page's sections.

  Args:
    results: 'types' and 'costs' of results.json.
    shares: '<type>/<direction>/<map>' -> each pair's share [L, X, n]: a click
      on a cell shows its largest.
    texts: Type -> a line about each pair.
  """
  found = [_pairs_section(results['types'])]
  for kind, one in results['types'].items():
    for direction, title in _DIRECTIONS.items():
      found.append(
        _direction_section(kind, one, direction, title, shares, texts[kind])
      )
  found.append(_attribution_section(results['types']))
  if results['costs']:
    found.append(_costs_section(results['costs']))
  return found


def _pairs_section(types) -> Section:
  counts = list(next(iter(types.values()))['dropped'])
  return Section(
    title='Pairs, and what was dropped',
    text=[
      'Statements about test entities, known and unknown, that were left out '
      'because their relation or name has another number of tokens, or because '
      'no statement of the same relation was left for them (an entity is in '
      'one pair at most); pairs that were left out because both answers begin '
      'with the same token; and the pairs that were taken.'
    ],
    tables=[
      Table(
        columns=['type', *(name.replace('_', ' ') for name in counts)],
        rows=[
          [kind, *(str(one['dropped'][name]) for name in counts)]
          for kind, one in types.items()
        ],
      )
    ],
  )


def _direction_section(kind, one, direction, title, shares, texts) -> Section:
  result = one[direction]
  by_map = lambda names, size: {_TITLES[name]: size(name) for name in names}
  pairs_of = lambda name: shares[f'{kind}/{direction}/{name}']

  def figure(names, x, x_title):
    return heatmap(
      by_map(names, lambda name: _values(result['maps'][name])),
      x=x,
      y=[str(layer) for layer in range(len(result['flow']))],
      x_title=x_title,
      y_title='layer',
      colour_title=_MOVED,
      hover=by_map(names, lambda name: _hover(result['maps'][name])),
      significant=by_map(
        names, lambda name: _significant(result['maps'][name])
      ),
      details=by_map(
        names,
        lambda name: _details(result['maps'][name], pairs_of(name), texts),
      ),
      range=1 if names == tuple(TOKEN_MAPS) else None,
    )

  heads = result['maps']['z_last']['moved']['value']
  rows = [
    [
      _TITLES[name],
      head['name'],
      _interval(head['moved']),
      _p(head['p_adjusted']),
    ]
    for name in HEAD_MAPS
    for head in result['top_heads'][name]
  ]
  differences, chosen_on = result['differences'], one['chosen_on']
  text = [
    f'{one["dropped"]["pairs"]} pairs. The logit of the known answer is '
    f'{_interval(differences["known"])} above the unknown one’s for known '
    f'entities and {_interval(differences["unknown"])} for unknown ones; '
    'colours are shares of the way from the patched run to the donor’s. A '
    f'black dot: the maximum over the map’s {"chosen " * bool(chosen_on)}cells '
    f'is as large in {ALPHA:.0%} of sign-flip permutations or fewer. Intervals '
    'are bootstraps over pairs.'
  ]
  if chosen_on:
    text.append(
      f'Only cells that attribution ranks highest over the first {chosen_on} '
      'pairs were run; permutations are of the other pairs, which had no part '
      'in that. Shares and intervals are of all pairs.'
    )
  if not result['defined']:
    text.insert(
      0, 'The two runs do not differ for certain: these shares mean nothing.'
    )
  return Section(
    title=f'{kind}. {title}',
    text=text,
    figures=[
      figure(tuple(TOKEN_MAPS), one['tokens'], 'token'),
      figure(tuple(HEAD_MAPS), [str(h) for h in range(len(heads[0]))], 'head'),
    ],
    tables=[Table(columns=['site', 'head', 'share', 'p (max-T)'], rows=rows)],
  )


def _attribution_section(types) -> Section:
  figure = go.Figure()
  names = [*TOKEN_MAPS, *HEAD_MAPS]
  colours = style.colours(names)
  rows = []
  for kind, one in types.items():
    for direction in _DIRECTIONS:
      for name in names:
        found = one[direction]['maps'][name]
        guess = found['attribution']
        rows.append(
          [
            kind,
            direction,
            _TITLES[name],
            _interval(guess['spearman']),
            f'{guess["top"]["shared"]} of {guess["top"]["k"]}',
            str(guess['cells']),
          ]
        )
        if direction != 'denoising':
          continue
        exact = _values(found)
        cells = np.argwhere(np.isfinite(exact))
        figure.add_trace(
          go.Scatter(
            name=_TITLES[name],
            legendgroup=name,
            showlegend=kind == next(iter(types)),
            mode='markers',
            marker={'color': colours[name], 'size': 5, 'opacity': 0.6},
            x=[float(guess['value'][i][j]) for i, j in cells],
            y=[float(exact[i, j]) for i, j in cells],
            hovertext=[
              f'{style.text(kind)}, {_TITLES[name]}, layer {i}, '
              f'{found["columns"]} {j}'
              for i, j in cells
            ],
            hoverinfo='text+x+y',
          )
        )
  figure = style.styled(figure, x='attributed share', y='exact share')
  return Section(
    title='Attribution and exact patching',
    text=[
      'One backward pass guesses every cell; the exact sweep says what is so. '
      'The figure has the cells of denoising; ranks are compared over cells '
      'where both runs can differ, with intervals from resampling pairs; where '
      'not all were run, over those that attribution ranks highest alone, '
      'which says nothing of the others. “Shared” counts how many of the '
      'largest exact cells are among the largest guesses.'
    ],
    figures=[figure],
    tables=[
      Table(
        columns=[
          'type',
          'direction',
          'map',
          'Spearman',
          'largest shared',
          'cells',
        ],
        rows=rows,
      )
    ],
  )


def _costs_section(costs) -> Section:
  rows = [
    [
      row['map'],
      f'{row["operations"]:.3g}',
      f'{row["minimal_operations"]:.3g}',
      f'{row["naive_operations"]:.3g}',
      f'{row["seconds"]:.3f}',
      f'{row["naive_seconds"]:.3f}',
      f'{row["largest_difference"]:.1e}',
    ]
    for row in costs['maps']
  ]
  ends = [
    [
      end['where'],
      f'{end["expected"]:g}',
      f'{end["moved"]:.6f}',
      f'{end["largest_difference"]:.1e}',
    ]
    for end in costs['ends']
  ]
  recording = costs['recording']
  return Section(
    title='What the sweeps cost',
    text=[
      f'Denoising of {costs["pairs"]} pairs of {costs["tokens"]} tokens, which '
      f'differ from token {costs["first_difference"]} on. The formula of the '
      'minimum runs, for every cell, the layers and tokens that a patch can '
      'reach; less is executed where patches before the first difference '
      'change nothing. Both recordings, which all maps share, are '
      f'{recording["operations"]:.3g} operations and '
      f'{recording["seconds"]:.3f} s. Without sharing, every cell is a run of '
      'the whole model; its formula has the logits of all tokens, which '
      'gemma_jax leaves out.',
      'Two patches have a known effect, whatever the model.',
    ],
    tables=[
      Table(
        columns=[
          'map',
          'operations',
          'formula of the minimum',
          'without sharing',
          'seconds',
          'without sharing',
          'largest difference of logits',
        ],
        rows=rows,
      ),
      Table(
        columns=['patch', 'must move', 'moved', 'largest difference'],
        rows=ends,
      ),
    ],
  )


def _values(found) -> np.ndarray:
  return np.asarray(found['moved']['value'], float)


def _significant(found) -> np.ndarray:
  return np.asarray(found['p_adjusted'], float) <= ALPHA


def _hover(found) -> list[list[str]]:
  grid, eq13 = found['moved'], found['eq13']
  p = np.asarray(found['p_adjusted'], float)
  value = _values(found)
  return [
    [
      f'[{grid["low"][i][j]:.3f}, {grid["high"][i][j]:.3f}], n {grid["n"]}\n'
      f'Eq. 13: {eq13["value"][i][j]:.3f}\n'
      f'p {_p(p[i, j])}'
      if np.isfinite(value[i, j])
      else 'not run'
      for j in range(value.shape[1])
    ]
    for i in range(value.shape[0])
  ]


def _details(found, shares, texts) -> list[list[str]]:
  """The pairs that each cell moves most."""
  value = _values(found)
  return [
    [
      '\n'.join(
        f'{shares[i, j, n]:+.3f}  {texts[n]}'
        for n in np.argsort(-abs(shares[i, j]), kind='stable')[:_SHOWN]
      )
      if np.isfinite(value[i, j])
      else ''
      for j in range(value.shape[1])
    ]
    for i in range(value.shape[0])
  ]


def _p(value) -> str:
  return f'{value:.3g}' if np.isfinite(value) else 'not tested'


def _interval(found) -> str:
  value, low, high = (found[part] for part in ('value', 'low', 'high'))
  if value is None:
    return 'not defined'
  if low is None:
    return f'{value:.3f}'
  return f'{value:.3f} [{low:.3f}, {high:.3f}]'
