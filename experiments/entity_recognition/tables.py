"""Tables about latents, from a results.json, and how their numbers read."""

from collections.abc import Mapping, Sequence
import itertools

from experiments.charts import Table, style
from experiments.latents import CRITERIA

_LABELS = ('known', 'unknown')


def percent(rate: Mapping) -> str:
  """Returns a rate with its interval and n."""
  return (
    f'{100 * rate["value"]:.1f} % [{100 * rate["low"]:.1f}, '
    f'{100 * rate["high"]:.1f}], n = {rate["n"]:,}'
  )


def estimate(found: Mapping) -> str:
  """Returns a number with its interval."""
  return f'{found["value"]:.3f} [{found["low"]:.3f}, {found["high"]:.3f}]'


def token(spelled: str) -> str:
  """Returns a token whose spaces and line breaks are seen."""
  shown = ''.join(c if c.isprintable() else repr(c)[1:-1] for c in spelled)
  return shown.replace(' ', '\u2581')


def chosen_table(results: Mapping) -> Table:
  """Chosen latents: scores they were chosen by, rates and AUROC on test."""
  types = results['types']
  columns = ['latent', 'for', 'score', 'on plain text', 'AUROC, test']
  columns += [f'{name}: {label}' for name in types for label in _LABELS]
  rows = []
  for label in _LABELS:
    for one in results['chosen'][label]:
      frequency = one['text_frequency']
      row = [
        one['id'],
        label,
        f'{one["score"]:.3f}',
        'not known' if frequency is None else f'{100 * frequency:.2f} %',
        estimate(one['auroc']['mean']),
      ]
      rows.append(
        row
        + [
          percent(one['test']['types'][name][c])
          for name in types
          for c in _LABELS
        ]
      )
  return Table(columns=columns, rows=rows)


def criteria_table(results: Mapping) -> Table:
  """Returns the best latent by each criterion, on train and on test."""
  rows = []
  for criterion, by_label in results['criteria'].items():
    for label, one in by_label.items():
      null, rates = one['null'], one['test']['lowest']
      lowest = one['auroc']['lowest']
      rows.append(
        [
          CRITERIA[criterion],
          label,
          one['id'],
          f'{one["score"]:.3f}',
          '' if null is None else f'{null["null_95"]:.3f}',
          '' if null is None else f'{null["p_value"]["value"]:.2g}',
          estimate(one['auroc']['mean']),
          f'{estimate(lowest)} ({lowest["type"]})',
          f'{estimate(rates)} ({rates["type"]})',
        ]
      )
  columns = (
    'chosen by|for|latent|score, train|shuffled, 95 %|p|AUROC, test|'
    'AUROC of the worst type|firing separation of the worst type'
  )
  return Table(columns=columns.split('|'), rows=rows)


def detector_table(detectors: Sequence[Mapping]) -> Table:
  """AUROC of detectors on each type."""
  types = list(detectors[0]['types'])
  rows = [
    [
      one['name'],
      estimate(one['mean']),
      *(estimate(one['types'][name]) for name in types),
      estimate(one['pooled']),
      f'{one["pooled"]["n_positive"]:,} {one["positive"]}, '
      f'{one["pooled"]["n_negative"]:,} others',
    ]
    for one in detectors
  ]
  columns = ['detector', 'mean over types', *types, 'all entities', 'n']
  return Table(columns=columns, rows=rows)


def meaning_table(results: Mapping) -> Table:
  """Entities that chosen latents are most active on, and promoted tokens."""
  rows = []
  for label in _LABELS:
    for one in results['chosen'][label]:
      about = one['meaning']
      if about is None:
        continue
      for place, (entity, up, down) in enumerate(
        itertools.zip_longest(
          about['entities'], about['promoted'], about['suppressed']
        )
      ):
        rows.append(
          [
            f'{one["id"]} ({label})' if not place else '',
            *_entity(entity),
            *_token(up),
            *_token(down),
          ]
        )
  return Table(
    columns=[
      'latent',
      'entity',
      'type',
      'class',
      'activation',
      'promoted token',
      'logit',
      'suppressed token',
      'logit',
    ],
    rows=rows,
  )


def _entity(entity: Mapping | None) -> list[str]:
  if entity is None:
    return [''] * 4
  return [
    entity['name'],
    entity['type'],
    entity['label'],
    style.number(entity['activation']),
  ]


def _token(promoted: Mapping | None) -> list[str]:
  if promoted is None:
    return [''] * 2
  return [token(promoted['token']), style.number(promoted['logit'])]
