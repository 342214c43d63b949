"""The report's sections: maps of patches, attribution, and costs."""

from collections.abc import Mapping, Sequence

import numpy as np

from experiments import charts
from experiments.charts import style
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
_ENDS = ('value', 'low', 'high')
# Pairs that a click on a cell shows, those that it moves most.
_SHOWN = 3


def sections(
  results: Mapping,
  shares: Mapping[str, np.ndarray],
  texts: Mapping[str, Sequence[str]],
) -> list[charts.Section]:
  """Returns the page's sections.

  Args:
    results: 'types' and 'costs' of results.json.
    shares: '<type>/<direction>/<map>' -> each pair's share [L, X, n]: a click
      on a cell shows its largest.
    texts: Type -> a line about each pair.
  """
  types = results['types']
  found = [_pairs_section(types)]
  for kind, one in types.items():
    for direction, title in _DIRECTIONS.items():
      found.append(
        charts.Section(
          title=f'{kind}. {title}',
          text=_direction_text(one, direction),
          figures=[
            effect_maps(kind, one, direction, names, shares, texts[kind])
            for names in (TOKEN_MAPS, HEAD_MAPS)
          ],
          tables=[_heads_table(one[direction]['top_heads'])],
        )
      )
  found.append(_attribution_section(types))
  if results['costs']:
    found.append(_costs_section(results['costs']))
  return found


def effect_maps(kind, one, direction, names, shares, texts):
  """Shows how far each cell moves the answer, in a panel per map.

  Args:
    kind: Type of entities.
    one: Results of this type.
    direction: 'denoising' or 'noising'.
    names: Maps: TOKEN_MAPS or HEAD_MAPS.
    shares: See `sections`.
    texts: A line about each pair.
  """
  maps = one[direction]['maps']
  panels = lambda draw: {
    _TITLES[name]: draw(name, maps[name]) for name in names
  }
  values = panels(lambda _, found: _values(found))
  L, X = next(iter(values.values())).shape
  of_tokens = names is TOKEN_MAPS
  return charts.heatmap(
    values,
    x=one['tokens'] if of_tokens else list(map(str, range(X))),
    y=list(map(str, range(L))),
    x_title='token' if of_tokens else 'head',
    y_title='layer',
    colour_title='share of the way to the donor',
    hover=panels(lambda _, found: _hover(found)),
    significant=panels(lambda _, found: _p_values(found) <= ALPHA),
    details=panels(
      lambda name, found: _details(
        found, shares[f'{kind}/{direction}/{name}'], texts
      )
    ),
    range=1 if of_tokens else None,
  )


def attribution_scatter(types: Mapping):
  """Shows the exact share of every cell of denoising against the guess."""
  return charts.scatter(
    [
      charts.Point(
        guess[cell],
        exact[cell],
        group=_TITLES[name],
        hover=f'{kind}, layer {cell[0]}, {found["columns"]} {cell[1]}',
      )
      for kind, one in types.items()
      for name, found in one['denoising']['maps'].items()
      for guess in [np.asarray(found['attribution']['value'], float)]
      for exact in [_values(found)]
      for cell in map(tuple, np.argwhere(np.isfinite(exact)).tolist())
    ],
    x_title='attributed share',
    y_title='exact share',
  )


def _pairs_section(types) -> charts.Section:
  counts = list(next(iter(types.values()))['dropped'])
  return charts.Section(
    title='Pairs, and what was dropped',
    text=[
      'Statements about test entities, known and unknown, that were left out '
      'because their relation or name has another number of tokens, or because '
      'no statement of the same relation was left for them (an entity is in '
      'one pair at most); pairs that were left out because both answers begin '
      'with the same token; and the pairs that were taken.'
    ],
    tables=[
      charts.table(
        ['type', *(name.replace('_', ' ') for name in counts)],
        [
          [kind, *(one['dropped'][name] for name in counts)]
          for kind, one in types.items()
        ],
      )
    ],
  )


def _direction_text(one, direction) -> list[str]:
  result, chosen_on = one[direction], one['chosen_on']
  known, unknown = (
    style.interval(*(result['differences'][label][end] for end in _ENDS))
    for label in ('known', 'unknown')
  )
  text = [
    f'{one["dropped"]["pairs"]} pairs. The logit of the known answer is '
    f'{known} above the unknown one’s for known entities and {unknown} for '
    'unknown ones; colours are shares of the way from the patched run to the '
    'donor’s. A black dot: the maximum over the map’s '
    f'{"chosen " * bool(chosen_on)}cells is as large in {ALPHA:.0%} of '
    'sign-flip permutations or fewer. Intervals are bootstraps over pairs.'
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
  return text


def _heads_table(top_heads) -> charts.Table:
  return charts.table(
    ['site', 'head', 'share', 'p (max-T)'],
    [
      [_TITLES[name], head['name'], head['moved'], _p(head['p_adjusted'])]
      for name, heads in top_heads.items()
      for head in heads
    ],
  )


def _attribution_section(types) -> charts.Section:
  rows = []
  for kind, one in types.items():
    for direction in _DIRECTIONS:
      for name, found in one[direction]['maps'].items():
        guess, top = found['attribution'], found['attribution']['top']
        shared = f'{top["shared"]} of {top["k"]}'
        rows.append(
          [kind, direction, _TITLES[name], guess['spearman'], shared]
          + [guess['cells']]
        )
  return charts.Section(
    title='Attribution and exact patching',
    text=[
      'One backward pass guesses every cell; the exact sweep says what is so. '
      'The figure has the cells of denoising; ranks are compared over cells '
      'where both runs can differ, with intervals from resampling pairs; where '
      'not all were run, over those that attribution ranks highest alone, '
      'which says nothing of the others. “Shared” counts how many of the '
      'largest exact cells are among the largest guesses.'
    ],
    figures=[attribution_scatter(types)],
    tables=[
      charts.table(
        ['type', 'direction', 'map', 'Spearman', 'largest shared', 'cells'],
        rows,
      )
    ],
  )


def _costs_section(costs) -> charts.Section:
  recording = costs['recording']
  columns = {
    'map': 'map',
    'operations': 'operations',
    'minimal_operations': 'formula of the minimum',
    'naive_operations': 'without sharing',
    'seconds': 'seconds',
    'naive_seconds': 'without sharing',
    'largest_difference': 'largest difference of logits',
  }
  ends = {
    'where': 'patch',
    'expected': 'must move',
    'moved': 'moved',
    'largest_difference': 'largest difference',
  }
  # Whole numbers would have all their digits.
  cell = lambda value: value if isinstance(value, str) else float(value)
  return charts.Section(
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
      charts.table(
        list(named.values()),
        [[cell(row[key]) for key in named] for row in costs[part]],
      )
      for part, named in (('maps', columns), ('ends', ends))
    ],
  )


def _values(found) -> np.ndarray:
  return np.asarray(found['moved']['value'], float)


def _p_values(found) -> np.ndarray:
  return np.asarray(found['p_adjusted'], float)


def _hover(found) -> list[list[str]]:
  """Returns interval, n, equation 13 and p of each cell that was run."""
  _, low, high = (np.asarray(found['moved'][end], float) for end in _ENDS)
  eq13, p = np.asarray(found['eq13']['value'], float), _p_values(found)
  said = lambda cell: (
    f'[{low[cell]:.3f}, {high[cell]:.3f}], n {found["moved"]["n"]}\n'
    f'Eq. 13: {eq13[cell]:.3f}\np {_p(p[cell])}'
  )
  return _by_cell(found, said, 'not run')


def _details(found, shares, texts) -> list[list[str]]:
  """Returns the pairs that each cell moves most."""
  order = np.argsort(-abs(shares), axis=-1, kind='stable')[..., :_SHOWN]
  said = lambda cell: '\n'.join(
    f'{shares[cell][n]:+.3f}  {texts[n]}' for n in order[cell]
  )
  return _by_cell(found, said, '')


def _by_cell(found, said, otherwise) -> list[list[str]]:
  """Returns [L][X] what is said of each cell that was run, or otherwise."""
  run = np.isfinite(_values(found))
  return [
    [said((i, j)) if run[i, j] else otherwise for j in range(run.shape[1])]
    for i in range(run.shape[0])
  ]


def _p(value) -> str:
  return 'not tested' if value is None or np.isnan(value) else f'{value:.3g}'
