"""Latents of known and unknown entities: the part of a report about them.

`sections` takes what `latents.results` keeps: the dict of results.json and the
arrays beside it.
"""

from collections.abc import Mapping

import numpy as np

from experiments import charts
from experiments.charts import Dot, Line, Point, Section
from experiments.entity_recognition.tables import (
  chosen_table,
  detector_table,
  meaning_table,
  percent,
  token,
)
from experiments.latents import CLASSES, describe_random
from experiments.latents.class_look import LABEL_COLOURS

_GREY, _BLACK = '#9A9A9A', '#000000'
_HIGHLIGHTED = 10
_MEAN, _ALL = 'mean over types', 'all latents'
_BEST = "mean of the type's best latents"
_MAXMIN, _SHUFFLED = 'MaxMin: one latent, all types', 'MaxMin, shuffled labels'


def sections(
  results: Mapping, arrays: Mapping[str, np.ndarray]
) -> list[Section]:
  """Returns the sections of a report about latents.

  Args:
    results: As `latents.to_results` makes it, or read from results.json.
    arrays: As `latents.to_arrays` makes them.
  """
  known, unknown = (results['chosen'][label][0] for label in CLASSES)
  selection = results['selection']
  parts = [
    Section(
      title='Latents that fire on known or on unknown entities',
      text=[
        _best(known),
        _best(unknown),
        f'Latents were chosen on the {selection["split"]} entities, by the '
        'lowest separation over entity types; the figure and the table show '
        f'those of test. {selection["text_filter"]["note"]}',
        'In the second figure blue latents fire on known entities, red ones on '
        'unknown; a dot is where the interval of the difference leaves out 0.',
        *(f'Warning: {warning}' for warning in results['warnings']),
        *(f'Left out: {skipped}' for skipped in results['skipped']),
      ],
      figures=[firing_rates(results, arrays), type_heatmap(results)],
      tables=[chosen_table(results)],
    ),
    Section(
      title='In which layers',
      text=[
        'For each type the mean of the best five latents, with a band from the '
        'lowest to the highest of them; MaxMin is the best score that a single '
        'latent has on every type. On the '
        f'{selection["split"]} entities, without the filter of plain text.',
        *_null_text(results),
      ],
      figures=[layer_curves(results, c) for c in CLASSES],
    ),
    Section(
      title='Against other detectors',
      text=[
        'AUROC on test for telling known from unknown entities, with 95 % '
        'intervals; 0.5 is chance. The bars of random latents, which do not '
        'separate the classes on train, reach from the lowest to the highest '
        f'of them. {_random(results)} The linear probe and the difference of '
        'means read the same site and layer as the latent; the tokens of a '
        'name need no model. Where tokens are balanced over all entities, '
        'those that are rare among the known of train are common among those '
        'of test, and the AUROC of tokens falls below 0.5.',
      ],
      figures=[detectors(results)],
      tables=[detector_table(compared(results))],
    ),
    Section(
      title='What these latents are about',
      text=[
        'The entities of test on which the latents are most active, and the '
        'tokens whose logits their decoder rows raise and lower most: '
        + (
          'd (1 + w) @ W_U, with the gain of the final norm.'
          if results['settings']['final_norm_gain']
          else 'd @ W_U, without the gain of the final norm.'
        ),
      ],
      tables=[meaning_table(results)],
    ),
  ]
  if results['examples']:
    parts.append(
      Section(
        title='Token by token',
        text=[
          'Activations of the best latents on example prompts, without BOS. '
          'Each colour scale ends at the highest activation shown.'
        ],
        figures=[examples(results)],
      )
    )
  return parts


def _best(chosen: Mapping) -> str:
  """Returns the best latent of a label in a sentence."""
  label, lowest = chosen['label'], chosen['test']['lowest']
  other = 'unknown' if label == 'known' else 'known'
  rates = chosen['test']['types'][lowest['type']]
  return (
    f'The best {label} latent is {chosen["id"]}. On the type it does worst on, '
    f'{lowest["type"]}, it fires on {_of(rates[label], label)} and on '
    f'{_of(rates[other], other)} of test.'
  )


def _random(results: Mapping) -> str:
  """Says how random latents are like the chosen ones, a sentence per label."""
  return ' '.join(
    f'Those of the {label} latent are {describe_random(random)}.'
    for label, random in results['random'].items()
  )


def _of(rate: Mapping, label: str) -> str:
  """Returns a rate in a sentence."""
  return (
    f'{100 * rate["value"]:.1f} % of {rate["n"]:,} {label} entities '
    f'({100 * rate["low"]:.1f} to {100 * rate["high"]:.1f} %)'
  )


def _null_text(results: Mapping) -> list[str]:
  null = results['null']
  if null is None:
    return []
  found = [
    f'The {label} latent that was chosen scores {null[label]["observed"]:.3f}; '
    f'in 95 % of the shuffles the best of all latents stays below '
    f'{null[label]["null_95"]:.3f} (p = {null[label]["p_value"]["value"]:.2g}).'
    for label in CLASSES
  ]
  return [
    'Could that be chance? The whole selection was repeated '
    f'{null["num_permutations"]:,} times with labels shuffled within each '
    f'type. {" ".join(found)} The band has the shuffles layer by layer.'
  ]


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


def layer_curves(results: Mapping, label: str):
  """Draws scores by layer: the best latents of each type, and MaxMin.

  Bands reach from the lowest to the highest of a type's best latents, and from
  the median to the 95 % quantile of MaxMin under shuffled labels.
  """
  curve = results['layers'][label]
  sites = {place['site'] for place in curve}
  x = [
    str(place['layer'])
    if len(sites) == 1
    else f'{place["site"]}.{place["layer"]}'
    for place in curve
  ]
  compared = [
    Line(
      _MAXMIN,
      x,
      [place['maxmin'] for place in curve],
      hover=[f'latent {place["latent"]}' for place in curve],
      dash=True,
    )
  ]
  nulls = [place['null'] for place in curve]
  if None not in nulls:
    median, high = ([null[k] for null in nulls] for k in ('median', 'high'))
    compared.append(Line(_SHUFFLED, x, median, median, high))
  panels = {}
  for name in results['types']:
    of = [place['types'][name] for place in curve]
    mean, low, high = ([p[k] for p in of] for k in ('mean', 'min', 'max'))
    panels[name] = [Line(_BEST, x, mean, low, high), *compared]
  return charts.lines(
    panels,
    x_title=f'layer of {sites.pop()}' if len(sites) == 1 else 'site and layer',
    y_title=f'separation of {label} entities',
    groups={_BEST: LABEL_COLOURS[label], _SHUFFLED: _GREY, _MAXMIN: _BLACK},
    columns=2,
  )


def detectors(results: Mapping):
  """Draws AUROC on test of the best latents and of what they compare with."""
  rows = []
  for one in compared(results):
    for name in (_MEAN, *results['types']):
      found = one['mean'] if name == _MEAN else one['types'][name]
      said = (
        f'n = {found["n_positive"]:,} {one["positive"]}, '
        f'{found["n_negative"]:,} others'
      )
      bounds = (found[key] for key in ('value', 'low', 'high'))
      rows.append(Dot(one['name'], *bounds, group=name, hover=said))
  return charts.dots(
    rows,
    x_title='AUROC of known against unknown entities, test',
    groups={_MEAN: _BLACK, **charts.colours(results['types'])},
    reference={'chance': 0.5},
  )


def compared(results: Mapping) -> list[Mapping]:
  """Returns the detectors: of chosen latents, the best of each label."""
  best = {
    (label, chosen[0]['id']) for label, chosen in results['chosen'].items()
  }
  return [
    one
    for one in results['detectors']
    if one['kind'] != 'latent'
    or (one['about']['label'], one['about']['latent']) in best
  ]


def examples(results: Mapping):
  """Draws the best latents at every token of example texts.

  Rows are labelled with the ids of the texts, if these are not just numbers.
  Colours are shares of the highest activation of the latent.
  """
  texts = results['examples'][::-1]  # the first one on top
  longest = max(len(one['tokens']) for one in texts)
  padded = lambda values, filling: [
    *values,
    *[filling] * (longest - len(values)),
  ]
  values, hover, tokens = {}, {}, {}
  for label in CLASSES:
    id = results['chosen'][label][0]['id']
    title = f'{label} latent {id}'
    of = [one['activations'][id] for one in texts]
    highest = max(map(max, of)) or 1
    values[title] = np.array(
      [padded(np.divide(each, highest), np.nan) for each in of]
    )
    hover[title] = [
      padded([f'activation {a:.4g}' for a in each], '') for each in of
    ]
    tokens[title] = [
      padded([token(t) for t in one['tokens']], '') for one in texts
    ]
  ids = [str(one['id']) for one in texts]
  return charts.heatmap(
    values,
    x=[''] * longest,
    y=['' if id.isdecimal() else id for id in ids],
    x_title='token',
    y_title='',
    colour_title='share of the highest activation',
    hover=hover,
    text=tokens,
    columns=1,
    range=1,
  )
