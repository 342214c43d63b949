"""Latents of known and unknown entities: the part of a report about them.

`sections` takes what `latents.results` keeps: the dict of results.json and the
arrays beside it.
"""

from collections.abc import Mapping

import numpy as np

from experiments import charts
from experiments.charts import Dot, Line, Section
from experiments.entity_recognition.firing_figures import (
  firing_rates,
  type_heatmap,
)
from experiments.entity_recognition.tables import (
  chosen_table,
  criteria_table,
  detector_table,
  meaning_table,
  token,
)
from experiments.latents import CLASSES, CRITERIA, describe_random
from experiments.latents.class_look import LABEL_COLOURS

_SCORE = {
  'auroc': '2 AUROC - 1',
  'frequency': 'separation',
  'mean_activation': 'difference of mean activations',
}
_GREY, _BLACK = '#9A9A9A', '#000000'
_MEAN = 'mean over types'
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
        f'Latents were chosen on the {selection["split"]} entities, by '
        f'{CRITERIA[selection["criterion"]]}, the lowest over entity types; '
        'the figures and tables show those of test. '
        f'{selection["text_filter"]["note"]} {differing(results)}',
        'In the second figure blue latents fire on known entities, red ones on '
        'unknown; a dot is where the interval of the difference leaves out 0.',
        *(f'Warning: {warning}' for warning in results['warnings']),
        *(f'Left out: {skipped}' for skipped in results['skipped']),
      ],
      figures=[firing_rates(results, arrays), type_heatmap(results)],
      tables=[criteria_table(results), chosen_table(results)],
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


def differing(results: Mapping) -> str:
  """Says where criteria choose different latents."""
  found = []
  for label in CLASSES:
    ids = {}
    for criterion, by_label in results['criteria'].items():
      ids.setdefault(by_label[label]['id'], []).append(CRITERIA[criterion])
    if len(ids) == 1:
      found.append(f'All criteria choose the same {label} latent.')
    else:
      said = ', '.join(f'{id} ({", ".join(by)})' for id, by in ids.items())
      found.append(f'Criteria differ on the {label} latent: {said}.')
  return ' '.join(found)


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
    y_title=f'{_SCORE[results["selection"]["criterion"]]}, {label} entities',
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
