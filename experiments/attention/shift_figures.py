"""Attention to entities, and how latents move it, from `attention.shift`."""

from collections.abc import Mapping, Sequence

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from experiments.attention import KEYS, MEASURES, Shift
from experiments.attention.maps import (
  change_heatmap,
  change_text,
  class_heatmap,
  interval,
)
from experiments.charts import Section, Table, style
from experiments.charts.style import error_bars, headed
from experiments.latents import CLASSES
from experiments.latents.class_look import LABEL_COLOURS, TITLES

_BOXED = 10  # heads with a box each
_SCATTERED = 4  # heads with a scatter each
_LINE = '#888'


def shift_sections(
  results: Mapping, shifts: Mapping[str, Shift]
) -> list[Section]:
  """The report of `attention.shift`.

  Args:
    results: Its numbers.
    shifts: Class -> what they were computed from.
  """
  changes = [
    c for c in results['changes'] if c['keys'] == KEYS[0] and c['heads']
  ]
  first = [c for c in changes if c['measure'] == MEASURES[0]]
  classes = results['classes']
  return [
    Section(
      title='Attention to known and to unknown entities',
      text=[_CLASS_WORDS],
      figures=[
        *(class_heatmap(classes, measure) for measure in MEASURES),
        class_boxes(classes, shifts),
      ],
    ),
    *(
      [
        Section(
          title='What adding a latent changes',
          text=[_CHANGE_WORDS],
          figures=[
            *(
              change_heatmap([c for c in changes if c['measure'] == m])
              for m in MEASURES
            ),
            change_points(first),
          ],
          tables=[change_table(first)],
        ),
        Section(
          title='Prompt by prompt',
          text=['Below the diagonal attention falls, above it it grows.'],
          figures=[before_after(c, shifts[c['prompts']]) for c in first],
        ),
      ]
      if changes
      else []
    ),
  ]


def class_boxes(
  entries: Sequence[Mapping], shifts: Mapping[str, Shift]
) -> go.Figure:
  """Prompts' attention in the heads where classes differ most."""
  heads = sorted(
    entries[0]['heads'], key=lambda h: -abs(h['difference']['value'])
  )[:_BOXED]
  figure = go.Figure()
  for name in CLASSES:
    before = shifts[name].before[:, :, 0, 0]  # [C, L, N]
    values = [before[:, h['layer'], h['head']] for h in heads]
    figure.add_trace(
      go.Box(
        name=f'{TITLES[name]} (n = {len(before)})',
        x=[h['name'] for h, v in zip(heads, values, strict=True) for _ in v],
        y=[round(float(each), 4) for v in values for each in v],
        marker={'color': LABEL_COLOURS[name], 'size': 3},
        line={'width': 1.5},
      )
    )
  figure.update_layout(boxmode='group')
  return style.styled(
    figure, x='head', y="attention to the entity's last token"
  )


def change_points(entries: Sequence[Mapping]) -> go.Figure:
  """Every head's change with its interval, and what random latents do."""
  figure = make_subplots(
    rows=len(entries),
    cols=1,
    vertical_spacing=0.16,
    subplot_titles=[
      f'{e["target"]} latent on {e["prompts"]} entities' for e in entries
    ],
  )
  for row, e in enumerate(entries, start=1):
    heads = e['heads']
    names = [h['name'] for h in heads]
    if heads[0]['random']:
      figure.add_trace(
        go.Bar(
          name=f'95 % of {e["num_controls"]} random latents',
          x=names,
          base=[h['random']['low'] for h in heads],
          y=[h['random']['high'] - h['random']['low'] for h in heads],
          marker={'color': '#dddddd'},
          showlegend=row == 1,
          hovertext=[
            f'{h["name"]}: random latents {h["random"]["low"]:+.4f} to '
            f'{h["random"]["high"]:+.4f}'
            for h in heads
          ],
          hoverinfo='text',
        ),
        row=row,
        col=1,
      )
    for marked in (False, True):
      some = [
        h
        for h in heads
        if (h['p_random_max'] is not None and h['p_random_max'] <= 0.05)
        == marked
      ]
      if not some:
        continue
      figure.add_trace(
        go.Scatter(
          name='beyond random latents' if marked else 'within',
          x=[h['name'] for h in some],
          y=[h['change']['value'] for h in some],
          error_y=error_bars([h['change'] for h in some]),
          mode='markers',
          marker={
            'color': LABEL_COLOURS[e['target']] if marked else '#4D4D4D',
            'size': 7,
          },
          showlegend=row == 1 or marked,
          hovertext=[
            f'{h["name"]}<br>' + change_text(h).replace('\n', '<br>')
            for h in some
          ],
          hoverinfo='text',
        ),
        row=row,
        col=1,
      )
    figure.update_xaxes(
      categoryorder='array', categoryarray=names, row=row, col=1
    )
  figure = style.styled(
    figure, x='head', y='change of attention', height=330 * len(entries) + 60
  )
  return headed(figure)


def before_after(entry: Mapping, shift: Shift) -> go.Figure:
  """Each prompt's attention before and after, in the heads that move most."""
  heads = sorted(entry['heads'], key=lambda h: -abs(h['change']['value']))
  heads = heads[:_SCATTERED]
  figure = make_subplots(
    rows=1,
    cols=len(heads),
    shared_yaxes=True,
    subplot_titles=[h['name'] for h in heads],
  )
  for column, head in enumerate(heads, start=1):
    layer, n = head['layer'], head['head']
    before = shift.before[:, layer, 0, 0, n]
    after = shift.after[:, 0, layer - shift.first, 0, 0, n]
    figure.add_trace(
      go.Scatter(
        name=f'{entry["target"]} latent, {entry["prompts"]} entities',
        x=[round(float(v), 4) for v in before],
        y=[round(float(v), 4) for v in after],
        mode='markers',
        marker={'size': 5, 'color': LABEL_COLOURS[entry['target']]},
        showlegend=column == 1,
        hovertext=[style.text(case.text) for case in shift.cases],
        hoverinfo='text+x+y',
      ),
      row=1,
      col=column,
    )
    top = float(max(before.max(), after.max()))
    figure.add_shape(
      type='line',
      x0=0,
      y0=0,
      x1=top,
      y1=top,
      line={'color': _LINE, 'dash': 'dot'},
      row=1,
      col=column,
    )
  figure = style.styled(figure, x='attention before', y='')
  figure.update_yaxes(title_text='after', col=1)
  return headed(figure)


def change_table(entries: Sequence[Mapping]) -> Table:
  """The heads that move most, with all that they are compared with."""
  rows = []
  for e in entries:
    heads = sorted(e['heads'], key=lambda h: -abs(h['change']['value']))
    for h in heads[:_BOXED]:
      random = h['random']
      spread = (
        f'{random["low"]:+.4f} to {random["high"]:+.4f}' if random else 'none'
      )
      rows.append(
        [
          f'{e["target"]} on {e["prompts"]}',
          h['name'],
          interval(h['change']),
          str(h['change']['n']),
          spread,
          *(
            style.number(h[p])
            for p in ('p_random', 'p_random_max', 'p_max_t', 'q')
          ),
        ]
      )
  return Table(
    columns=[
      'latent',
      'head',
      'change [95 %]',
      'n',
      '95 % of random latents',
      'p among them',
      'p, all heads',
      'max-T p over prompts',
      'FDR q',
    ],
    rows=rows,
  )


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
