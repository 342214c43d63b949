"""Heatmaps of layer by dose: what steering does there, and what it breaks."""

from collections.abc import Mapping, Sequence

import numpy as np
import plotly.graph_objects as go

from experiments.charts import Section, heatmap

_SHOWN = (
  ('change', 'change of the share that is declined', 'Refusals', 1.0),
  ('kl', 'KL(original || steered), nats per token', 'Divergence', None),
  ('broken', 'share of broken answers', 'Answers that fall apart', 1.0),
)


def sections(records: Sequence[Mapping]) -> list[Section]:
  """Returns a section per thing that is measured.

  Args:
    records: Records of `layer_map.describe`.
  """
  return [
    Section(
      title=title,
      text=[_TEXT[key]],
      figures=[layer_map(records, key, colour, reach)],
    )
    for key, colour, title, reach in _SHOWN
  ]


_TEXT = {
  'change': (
    'Questions about the other class: towards known, of unknown entities; '
    'towards unknown, of known ones. Click a cell for its numbers. Intervals '
    'resample entities with all their questions, one cell at a time: the '
    'largest of many cells was not planned, and its interval is too kind.'
  ),
  'kl': 'Along the original answers to the same questions.',
  'broken': "Answers that have no answer's form.",
}


def layer_map(
  records: Sequence[Mapping], key: str, colour: str, reach: float | None
) -> go.Figure:
  """Draws a panel per label and kind of direction, layers up, doses to the
  right.

  Args:
    records: Records of `layer_map.describe`.
    key: Which number of them.
    colour: Title of the colours.
    reach: Where colours end; None for where values do.
  """
  doses = sorted({record['dose'] for record in records})
  layers = sorted({record['layer'] for record in records})
  panels, hover, details = {}, {}, {}
  for record in records:
    kind = 'latent' if record['latent'] else 'mean difference'
    title = f'+ {record["label"]}, {kind}'
    if title not in panels:
      panels[title] = np.full((len(layers), len(doses)), np.nan)
      hover[title] = [[''] * len(doses) for _ in layers]
      details[title] = [[''] * len(doses) for _ in layers]
    at = layers.index(record['layer']), doses.index(record['dose'])
    estimate = record[key]
    panels[title][at] = estimate['value']
    hover[title][at[0]][at[1]] = _interval(estimate)
    details[title][at[0]][at[1]] = '\n'.join(
      [
        f'{title}: {record["latent"] or "difference of means"} at '
        f'{record["site"]}.{record["layer"]}, dose {record["dose"]:g}; '
        f'questions about {record["asked_about"]} entities',
        *(
          f'{name}: {record[name]["value"]:.3f} {_interval(record[name])}'
          for name in ('refused', 'change', 'broken', 'kl')
        ),
      ]
    )
  site = records[0]['site']
  return heatmap(
    panels,
    x=[f'{dose:g}' for dose in doses],
    y=[str(layer) for layer in layers],
    x_title="dose, in norms of the stream's",
    y_title=f'layer of {site}',
    colour_title=colour,
    hover=hover,
    details=details,
    range=reach,
  )


def _interval(estimate: Mapping) -> str:
  if estimate['low'] is None:
    return f'n {estimate["n"]}'
  return f'[{estimate["low"]:.3f}, {estimate["high"]:.3f}], n {estimate["n"]}'
