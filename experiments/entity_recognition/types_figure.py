"""Do chosen latents tell known from unknown entities of every type?"""

from collections.abc import Mapping

import numpy as np
import plotly.graph_objects as go

from experiments.charts import heatmap
from experiments.entity_recognition.tables import percent, token

_LABELS = ('unknown', 'known')  # from the bottom


def type_heatmap(results: Mapping) -> go.Figure:
  """Firing rates on known less those on unknown entities of test, by type.

  A dot is where the 95 % interval of the difference leaves out 0. Rows, the
  best latent of each label at their top, say how often a latent fires on plain
  text, where it is known; a click says what the latent is most active on.
  """
  chosen = [
    one for label in _LABELS for one in reversed(results['chosen'][label])
  ]
  types = results['types']
  of = [[one['test']['types'][name] for name in types] for one in chosen]
  return heatmap(
    np.array(
      [
        [cell['known']['value'] - cell['unknown']['value'] for cell in row]
        for row in of
      ]
    ),
    x=types,
    y=[_name(one) for one in chosen],
    x_title='entity type',
    y_title='latent',
    colour_title='fires on known less unknown',
    hover=[
      [
        '\n'.join(f'{c}: {percent(cell[c])}' for c in ('known', 'unknown'))
        for cell in row
      ]
      for row in of
    ],
    significant=np.array(
      [
        [
          cell['separation']['low'] > 0 or cell['separation']['high'] < 0
          for cell in row
        ]
        for row in of
      ]
    ),
    details=[[_meaning(one['meaning'])] * len(types) for one in chosen],
    range=1,
  )


def _name(one: Mapping) -> str:
  frequency = one['text_frequency']
  if frequency is None:
    return one['id']
  return f'{one["id"]} · {100 * frequency:.2f} %'


def _meaning(about: Mapping | None) -> str:
  if about is None:
    return ''
  entities = [
    f'{entity["name"]}, {entity["type"]}, {entity["label"]}: '
    f'{entity["activation"]:.4g}'
    for entity in about['entities']
  ]
  parts = ['Most active on', *entities]
  for way, title in (('promoted', 'raises'), ('suppressed', 'lowers')):
    tokens = ' '.join(token(each['token']) for each in about[way])
    parts += ['', f'Tokens whose logits it {title} most', tokens]
  return '\n'.join(parts)
