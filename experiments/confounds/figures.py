"""The study's figures: results in, charts out."""

from collections.abc import Mapping, Sequence

import numpy as np

from experiments import charts
from experiments.charts import style
from experiments.charts.table import spelled
from experiments.confounds.tables import KINDS, WAYS
from experiments.latents import CLASSES
from experiments.latents.class_look import LABEL_COLOURS
from experiments.stats.intervals import wilson
from experiments.stats.multiplicity import ALPHA

_BINS = 5
_COLOURS = {label: LABEL_COLOURS[label] for label in CLASSES}


def alike(results: Mapping):
  """Shows on how many more of its class each reader fires."""
  rows = []
  for matched, adjusted in zip(
    results['alike'], results['adjusted'], strict=True
  ):
    found = {
      title: matched[way]['difference']
      for way, title in WAYS.items()
      if way in matched
    }
    fires = adjusted['fires']
    found['adjusted, least squares'] = fires['adjusted']
    found['adjusted, logistic regression'] = fires['logistic']['adjusted']
    rows += [
      charts.Dot.of(matched['name'], one, group=way)
      for way, one in found.items()
      if one and one['value'] is not None
    ]
  return charts.dots(
    rows,
    x_title='difference in firing, own class less the other',
    reference=0,
  )


def by_covariate(results: Mapping, records: Sequence[Mapping]):
  """Shows how often a latent fires by what names are like; a figure each."""
  tested = [one for one in records if 'covariates' in one]
  return [
    charts.lines(
      {
        name: [_binned(tested, reader, name, label) for label in CLASSES]
        for name in results['covariates']
      },
      x_title='mean of the bin',
      y_title='fires',
      groups=_COLOURS,
      percent=True,
      y_range=(-0.03, 1.03),
      columns=len(results['covariates']),
      title=reader['name'],
    )
    for reader in results['readers']
    if reader['latent']
  ]


def names_alone(results: Mapping):
  """Shows how well covariates, tokens and readers tell the classes apart."""
  alone = results['names_alone']
  found = {
    f'{name} of the name': one['mean']
    for name, one in alone['covariates'].items()
  }
  found['tokens of the name, train to test'] = alone['tokens']['mean']
  found |= {one['name']: one['auroc'] for one in results['readers']}
  return charts.dots(
    [charts.Dot.of(name, one) for name, one in found.items()],
    x_title='AUROC for known names; of readers, for their own class',
    reference=0.5,
  )


def changed(results: Mapping):
  """Shows how often readers fire on changed names."""
  return charts.dots(
    [
      charts.Dot.of(KINDS[kind], one['fires'], group=reader['name'])
      for reader in results['changed']
      for kind, one in reader['kinds'].items()
    ],
    x_title='share of names on which it fires',
    percent=True,
    range=(-0.02, 1.02),
  )


def likelihood(results: Mapping):
  """Shows how readers go with the probability of the token they read."""
  return charts.dots(
    [
      charts.Dot.of(reader['name'], reader[key], group=said)
      for reader in results['likelihood']
      for key, said in (
        ('r', 'with p'),
        ('r_log', 'with ln p'),
        ('r_fires', 'firing with p'),
      )
    ],
    x_title='correlation',
    reference=0,
  )


def norms(results: Mapping):
  """Shows the mean norm by layer, with a star where the classes differ."""
  layers = results['norms']['layers']
  differ = [
    one['p_adjusted'] is not None and one['p_adjusted'] <= ALPHA
    for one in layers
  ]
  return charts.lines(
    [
      charts.Line.of(
        f'{label} entities',
        [
          f'{one["site"]}.{one["layer"]}{" *" * star}'
          for one, star in zip(layers, differ, strict=True)
        ],
        [one[label] for one in layers],
        group=label,
        hover=[
          f'AUROC for known {spelled(one["auroc"])}\n'
          f't = {style.number(one["t"])}, adjusted p = '
          f'{style.number(one["p_adjusted"])}'
          for one in layers
        ],
      )
      for label in CLASSES
    ],
    x_title='site and layer',
    y_title="L2 norm at the entity's last token",
    groups=_COLOURS,
  )


def chance(results: Mapping):
  """Shows what the search finds with shuffled labels and with the real ones."""
  null, shuffled = results['null'], results['shuffled']
  return [
    charts.histogram(
      {label: results['null_best'][label] for label in CLASSES},
      x_title='best score on train (lowest over types), shuffled labels',
      normalised=False,
      markers={label: null[label]['observed'] for label in CLASSES},
      groups=_COLOURS,
    ),
    charts.histogram(
      {label: shuffled[label]['shuffled'] for label in CLASSES},
      x_title='separation of that latent on test (mean over types), shuffled '
      'labels',
      normalised=False,
      markers={
        label: shuffled[label]['observed']['value'] for label in CLASSES
      },
      groups=_COLOURS,
    ),
  ]


def first_latents(results: Mapping):
  """Shows which latents other splits would have chosen."""
  return charts.bars(
    [
      charts.Bar.of(id, wilson(count, one['num_splits']), group=label)
      for label, one in results['stability'].items()
      for id, count in one['first'].items()
    ],
    value_title='share of splits in which it came first',
    label_title='latent',
    groups=_COLOURS,
    horizontal=True,
    percent=True,
    range=(0, 1.02),
  )


def chat(results: Mapping):
  """Shows how well readers of the base model do in the chat model."""
  return charts.dots(
    [
      charts.Dot.of(reader['name'], one['auroc'], group=context)
      for reader in results['chat']
      for context, one in reader['contexts'].items()
    ],
    x_title='AUROC for its class, test',
    reference=0.5,
  )


def _binned(tested, reader, name, label) -> charts.Line:
  """Returns how often a reader fires on a class, by a covariate in bins."""
  mine = [one for one in tested if one['label'] == label]
  every = np.array([one['covariates'][name] for one in tested])
  column = np.array([one['covariates'][name] for one in mine])
  fires = np.array([one['fires'][reader['name']] for one in mine])
  edges = np.unique(np.quantile(every, np.arange(1, _BINS) / _BINS))
  if len(np.unique(every)) <= _BINS:
    edges = np.unique(every)[1:]
  bins = np.searchsorted(edges, column, side='right')
  there = [bins == b for b in np.unique(bins)]
  return charts.Line.of(
    f'{label} names',
    [float(column[one].mean()) for one in there],
    [wilson(int(fires[one].sum()), int(one.sum())) for one in there],
    group=label,
  )
