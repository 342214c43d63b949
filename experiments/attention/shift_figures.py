"""Figures of attention to entities, and of what latents change in it."""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from experiments import charts
from experiments.attention import KEYS, MEASURES, Shift
from experiments.charts.style import number
from experiments.charts.table import spelled
from experiments.latents import CLASSES
from experiments.latents.class_look import LABEL_COLOURS, TITLES
from experiments.stats.multiplicity import ALPHA

_SAID = {
  'attention': 'attention a',
  'value_weighted': '|a v|',
  'output_weighted': '|a v W_O|',
  'entity_last': "to the entity's last token",
  'entity': 'to all of its tokens',
}
_RANDOM = '95 % of random latents'
_WITHIN, _BEYOND = 'the latent', 'the latent, beyond any random one'
_LISTED = 10  # heads that are shown by name
_SCATTERED = 4  # heads that are shown prompt by prompt
_CLASS_WORDS = (
  "Attention of a statement's last token to the entity, nothing being changed. "
  'A dot: known and unknown entities differ, by a max-T permutation test over '
  'all heads with entities as units.'
)
_CHANGE_WORDS = (
  'A latent is added where the other class is read. A dot, or a colour: the '
  'latent moves this head further than its random controls move any head, each '
  'relative to what they do there (p <= .05). The p-values over prompts only '
  'say that the change, less the mean change under random latents, is not 0, '
  'which is so for any direction, given prompts enough.'
)


def sections(
  results: Mapping, shifts: Mapping[str, Shift]
) -> list[charts.Section]:
  """Returns the report of `attention.shift`.

  Args:
    results: The numbers.
    shifts: Class -> what they were computed from.
  """
  changes = [c for c in results['changes'] if c['keys'] == KEYS[0]]
  first = [c for c in changes if c['measure'] == MEASURES[0]]
  classes = results['classes']
  made = [
    charts.Section(
      title='Attention to known and to unknown entities',
      text=[_CLASS_WORDS],
      figures=[
        *(class_map(classes, measure) for measure in MEASURES),
        class_spreads(classes, shifts),
      ],
    )
  ]
  if not changes:
    return made
  return [
    *made,
    charts.Section(
      title='What adding a latent changes',
      text=[_CHANGE_WORDS],
      figures=[
        *(
          change_map([c for c in changes if c['measure'] == measure])
          for measure in MEASURES
        ),
        change_dots(first),
      ],
      tables=[_change_table(first)],
    ),
    charts.Section(
      title='Prompt by prompt',
      text=['Below the diagonal attention falls, above it it grows.'],
      figures=[before_and_after(c, shifts[c['prompts']]) for c in first],
    ),
  ]


def class_map(entries: Sequence[Mapping], measure: str) -> go.Figure:
  """Shows how the classes differ in every head, a panel per set of keys."""
  return _head_map(
    {_SAID[e['keys']]: e['heads'] for e in entries if e['measure'] == measure},
    value=lambda h: h['difference']['value'],
    p='p_max_t',
    said=lambda h: (
      f'known {spelled(h["known"])}\nunknown {spelled(h["unknown"])}\n'
      f'max-T p {number(h["p_max_t"])}, q {number(h["q"])}'
    ),
    colour_title=f'{_SAID[measure]}, known less unknown',
  )


def class_spreads(
  entries: Sequence[Mapping], shifts: Mapping[str, Shift]
) -> go.Figure:
  """Shows how prompts spread in the heads where the classes differ most."""
  rows = []
  for head in _largest(entries[0]['heads'], 'difference')[:_LISTED]:
    for name in CLASSES:
      values = shifts[name].before[:, head['layer'], 0, 0, head['head']]
      least, low, middle, high, most = np.quantile(values, np.arange(5) / 4)
      said = f'n = {len(values)} prompts, {number(least)} to {number(most)}'
      rows.append(
        charts.Dot(head['name'], middle, low, high, TITLES[name], said)
      )
  return charts.dots(
    rows,
    x_title="attention to the entity's last token, median and middle half",
    groups={TITLES[name]: LABEL_COLOURS[name] for name in CLASSES},
  )


def change_map(entries: Sequence[Mapping]) -> go.Figure:
  """Shows what the latents change in every head, a panel per latent."""
  return _head_map(
    {_title(e): e['heads'] for e in entries},
    value=lambda h: h['change']['value'],
    p='p_random_max',
    said=lambda h: (
      f'{spelled(h["change"])}, n = {h["change"]["n"]}\n{_compared(h)}'
    ),
    colour_title=f'change of {_SAID[entries[0]["measure"]]}',
  )


def change_dots(entries: Sequence[Mapping]) -> go.Figure:
  """Shows every head's change, and what random latents do there."""
  panels = {}
  for e in entries:
    panels[_title(e)] = rows = []
    for h in e['heads']:
      if h['random']:
        spread = [h['random'][key] for key in ('mean', 'low', 'high')]
        said = f'n = {h["random"]["n"]}'
        rows.append(charts.Dot(h['name'], *spread, _RANDOM, said))
      p = h['p_random_max']
      group = _WITHIN if p is None or p > ALPHA else _BEYOND
      rows.append(
        charts.Dot.of(h['name'], h['change'], group=group, hover=_compared(h))
      )
  return charts.dots(
    panels,
    x_title="change of attention to the entity's last token",
    groups={_RANDOM: '#b0b0b0', _WITHIN: '#4D4D4D', _BEYOND: '#D55E00'},
    reference=0,
  )


def before_and_after(entry: Mapping, shift: Shift) -> go.Figure:
  """Shows each prompt's attention in the heads that move most."""
  panels, title = {}, _title(entry)
  for head in _largest(entry['heads'], 'change')[:_SCATTERED]:
    layer, n = head['layer'], head['head']
    before = shift.before[:, layer, 0, 0, n].astype(float)
    after = shift.after[:, 0, layer - shift.first, 0, 0, n].astype(float)
    panels[head['name']] = [
      charts.Point(x, y, title, case.text, size=5)
      for x, y, case in zip(before, after, shift.cases, strict=True)
    ]
  top = max(max(p.x, p.y) for part in panels.values() for p in part)
  return charts.scatter(
    panels,
    x_title='attention before',
    y_title='after',
    groups={title: LABEL_COLOURS[entry['target']]},
    range=(0, 1.05 * top),
    diagonal=True,
    columns=_SCATTERED,
  )


def _head_map(panels: Mapping[str, Sequence[Mapping]], **given) -> go.Figure:
  """Shows heads by layer; see `charts.entry_map`."""
  places = {(h['layer'], h['head']) for part in panels.values() for h in part}
  layers, heads = (sorted(set(each)) for each in zip(*places, strict=True))
  return charts.entry_map(
    panels,
    row='layer',
    column='head',
    y={layer: f'pattern.{layer}' for layer in layers},
    x={head: f'H{head}' for head in heads},
    x_title='head',
    y_title='site and layer',
    **given,
  )


def _largest(heads: Sequence[Mapping], what: str) -> list[Mapping]:
  return sorted(heads, key=lambda head: -abs(head[what]['value']))


def _title(entry: Mapping) -> str:
  return f'{entry["target"]} latent on {entry["prompts"]} entities'


def _compared(head: Mapping) -> str:
  """Returns what a head's change is compared with, for a hover text."""
  said = (
    f'max-T p over prompts {number(head["p_max_t"])}, q {number(head["q"])}'
  )
  if random := head['random']:
    said = (
      f'random latents {_spread(random)} (n = {random["n"]})\n'
      f'p among them {number(head["p_random"])}, over all heads '
      f'{number(head["p_random_max"])}\n{said}'
    )
  return said


def _spread(random: Mapping) -> str:
  return f'{number(random["low"])} to {number(random["high"])}'


def _change_table(entries: Sequence[Mapping]) -> charts.Table:
  """Returns the heads that move most, with all that they are compared with."""
  ps = {
    'p among them': 'p_random',
    'p, all heads': 'p_random_max',
    'max-T p over prompts': 'p_max_t',
    'FDR q': 'q',
  }
  return charts.table(
    ['latent', 'head', 'change [95 %]', 'n', _RANDOM, *ps],
    [
      [
        f'{e["target"]} on {e["prompts"]}',
        h['name'],
        h['change'],
        h['change']['n'],
        _spread(h['random']) if h['random'] else 'none',
        *(h[p] for p in ps.values()),
      ]
      for e in entries
      for h in _largest(e['heads'], 'change')[:_LISTED]
    ],
  )
