"""Maps of heads, layer by head: attention, and what latents change in it."""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from experiments.charts import heatmap, style

_SAID = {
  'attention': 'attention a',
  'value_weighted': '|a v|',
  'output_weighted': '|a v W_O|',
  'entity_last': "to the entity's last token",
  'entity': 'to all of its tokens',
}


def class_heatmap(entries: Sequence[Mapping], measure: str) -> go.Figure:
  """Difference between the classes, layer by head, a panel per set of keys."""
  mine = {_SAID[e['keys']]: e for e in entries if e['measure'] == measure}
  grids = {
    title: _grid(e['heads'], lambda h: h['difference']['value'])
    for title, e in mine.items()
  }
  hover = {
    title: _texts(
      e['heads'],
      lambda h: (
        f'known {interval(h["known"])}\nunknown {interval(h["unknown"])}\n'
        f'max-T p {style.number(h["p_max_t"])}, '
        f'q {style.number(h["q"])}'
      ),
    )
    for title, e in mine.items()
  }
  marked = {
    title: _grid(e['heads'], lambda h: h['p_max_t']) <= 0.05
    for title, e in mine.items()
  }
  return _head_map(
    grids, f'{_SAID[measure]}, known less unknown', hover, marked
  )


def change_heatmap(entries: Sequence[Mapping]) -> go.Figure:
  """What the latents change, layer by head, a panel per latent."""
  grids, hover, marked = {}, {}, {}
  for e in entries:
    title = f'{e["target"]} latent on {e["prompts"]} entities'
    grids[title] = _grid(e['heads'], lambda h: h['change']['value'])
    hover[title] = _texts(e['heads'], change_text)
    marked[title] = _grid(e['heads'], lambda h: h['p_random_max']) <= 0.05
  rows = max(len(grid) for grid in grids.values())

  def filled(grid, nothing):
    """Up to the last layer of the other panel."""
    grid = np.asarray(grid)
    empty = np.full((rows - len(grid), grid.shape[1]), nothing, grid.dtype)
    return np.concatenate([grid, empty])

  return _head_map(
    {t: filled(g, np.nan) for t, g in grids.items()},
    f'change of {_SAID[entries[0]["measure"]]}',
    {t: filled(np.array(g, object), '') for t, g in hover.items()},
    {t: filled(g, False) for t, g in marked.items()},
  )


def _grid(heads, value) -> np.ndarray:
  """float [L, N]; NaN where there is no value."""
  L, N = (1 + max(h[key] for h in heads) for key in ('layer', 'head'))
  grid = np.full((L, N), np.nan)
  for h in heads:
    found = value(h)
    grid[h['layer'], h['head']] = np.nan if found is None else found
  return grid


def _texts(heads, text) -> list[list[str]]:
  L, N = (1 + max(h[key] for h in heads) for key in ('layer', 'head'))
  rows = [[''] * N for _ in range(L)]
  for h in heads:
    rows[h['layer']][h['head']] = text(h)
  return rows


def _head_map(grids, title, hover, marked) -> go.Figure:
  L, N = next(iter(grids.values())).shape
  return heatmap(
    grids,
    x=[f'H{n}' for n in range(N)],
    y=[f'pattern.{layer}' for layer in range(L)],
    x_title='head',
    y_title='site and layer',
    colour_title=title,
    hover=hover,
    significant=marked,
  )


def change_text(head: Mapping) -> str:
  """All that is known of a head's change, for a hover text."""
  random = head['random']
  return '\n'.join(
    [
      f'{interval(head["change"])}, n = {head["change"]["n"]}',
      *(
        [
          f'random latents {random["low"]:+.4f} to {random["high"]:+.4f} '
          f'(n = {random["n"]})',
          f'p among them {style.number(head["p_random"])}, over all heads '
          f'{style.number(head["p_random_max"])}',
        ]
        if random
        else []
      ),
      f'max-T p over prompts {style.number(head["p_max_t"])}, '
      f'q {style.number(head["q"])}',
    ]
  )


def interval(found: Mapping) -> str:
  """A change with its interval, for a hover text or a table."""
  if found['low'] is None:
    return style.number(found['value'])
  return f'{found["value"]:+.4f} [{found["low"]:+.4f}, {found["high"]:+.4f}]'
