"""How often latents fire on known and on unknown entities, drawn."""

from collections.abc import Mapping

import numpy as np

from experiments import charts
from experiments.charts import Point
from experiments.entity_recognition.tables import percent, token
from experiments.latents import CLASSES
from experiments.latents.class_look import LABEL_COLOURS

_GREY = '#9A9A9A'
_HIGHLIGHTED = 10
_ALL = 'all latents'


def firing_rates(results: Mapping, arrays: Mapping[str, np.ndarray]):
  """Draws firing rates of all latents on known and unknown entities of test.

  One panel per type, chosen latents in colour. A grey point stands for all
  latents whose rates round to the same whole percents, and says how many.
  """
  sizes = results['entities']['test']
  panels = {}
  for e, name in enumerate(results['types']):
    n = sizes[name]
    active = np.concatenate(
      [
        arrays[f'test_active/{sae["site"]}.{sae["layer"]}'][e]
        for sae in results['saes']
      ],
      axis=1,
    )  # [2, latents of all SAEs]
    rates = active / np.array([n['known'], n['unknown']])[:, None]
    places, counts = np.unique(np.rint(100 * rates), axis=1, return_counts=True)
    panels[f'{name}: {n["known"]:,} known, {n["unknown"]:,} unknown'] = [
      *(
        Point(x / 100, y / 100, _ALL, f'{count:,} latents', 4 + np.log10(count))
        for x, y, count in zip(*places, counts.tolist(), strict=True)
      ),
      *(
        Point(
          one['test']['types'][name]['known']['value'],
          one['test']['types'][name]['unknown']['value'],
          f'chosen for {label}',
          f'{place}. {one["id"]}\n'
          + '\n'.join(
            f'{c}: {percent(one["test"]["types"][name][c])}' for c in CLASSES
          ),
          13 if place == 1 else 7,  # the best one stands out
        )
        for label in CLASSES
        for place, one in enumerate(results['chosen'][label][:_HIGHLIGHTED], 1)
      ),
    ]
  return charts.scatter(
    panels,
    x_title=f'fires on known entities ({_where(results)})',
    y_title='fires on unknown entities',
    groups={
      _ALL: _GREY,
      **{f'chosen for {label}': LABEL_COLOURS[label] for label in CLASSES},
    },
    percent=True,
    range=(-0.02, 1.02),
    diagonal=True,
    columns=2,
  )


def _where(results: Mapping) -> str:
  """Returns all sites and layers in a few words."""
  sites = {}
  for sae in results['saes']:
    sites.setdefault(sae['site'], []).append(sae['layer'])
  parts = [
    f'{site}, layer {layers[0]}'
    if len(layers) == 1
    else f'{site}, layers {min(layers)} to {max(layers)}'
    for site, layers in sites.items()
  ]
  return '; '.join(parts)


def type_heatmap(results: Mapping):
  """Draws firing rates on known less those on unknown entities, by type.

  A dot is where the 95 % interval of the difference leaves out 0. Rows, the
  best latent of each label at their top, say how often a latent fires on plain
  text, where it is known; a click says what the latent is most active on.
  """
  chosen = [
    one
    for label in reversed(CLASSES)
    for one in reversed(results['chosen'][label])
  ]
  types = results['types']
  of = [[one['test']['types'][name] for name in types] for one in chosen]
  return charts.heatmap(
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
