"""Tables of `experiments.confounds`, and its numbers in words."""

from collections.abc import Mapping

from experiments.charts import Table

WAYS = {
  'raw': 'raw',
  'matched': 'alike: same stratum',
  'matched on name frequency': 'alike in the frequency of whole names',
}


def estimate(found: Mapping) -> str:
  """A number with its interval."""
  if found['value'] is None:
    return 'not defined'
  said = f'{found["value"]:.3f}'
  if found['low'] is None:
    return said
  return f'{said} [{found["low"]:.3f}, {found["high"]:.3f}]'


def percent(found: Mapping) -> str:
  """The same in percentage points."""
  if found['value'] is None:
    return 'not defined'
  said = f'{100 * found["value"]:+.1f} %'
  if found['low'] is None:
    return said
  return f'{said} [{100 * found["low"]:+.1f}, {100 * found["high"]:+.1f}]'


def alike_table(results) -> Table:
  rows = []
  for alike, adjusted in zip(
    results['alike'], results['adjusted'], strict=True
  ):
    for way, title in WAYS.items():
      if way in alike:
        one = alike[way]
        rows.append(
          [
            alike['name'],
            title,
            percent(one['difference']),
            estimate(one['auroc']),
            f'{one["n"]} of {one["of"]}',
            f'{one["strata"]} of {one["all_strata"]}',
            '',
            '',
          ]
        )
    for kind in ('fires', 'fires, name frequency too'):
      if kind in adjusted:
        one = adjusted[kind]
        title = (
          'adjusted' if kind == 'fires' else 'adjusted, name frequency too'
        )
        rows.append(
          [
            adjusted['name'],
            title,
            percent(one['adjusted']),
            '',
            str(one['adjusted']['n']),
            '',
            percent(one['change']),
            f'{one["explained"]:.3f}',
          ]
        )
  columns = (
    'reader|comparison|difference in firing|AUROC|entities|strata with both '
    'classes|change by adjusting|known-ness explained'
  )
  return Table(columns=columns.split('|'), rows=rows)


def balance_table(results) -> Table:
  rows = [
    [
      name,
      estimate(one['known']),
      estimate(one['unknown']),
      estimate(one['standardised_difference']),
      one['source'],
    ]
    for name, one in results['names'].items()
  ]
  return Table(
    columns=[
      'covariate',
      'mean of known names',
      'mean of unknown names',
      'standardised difference',
      'what it is',
    ],
    rows=rows,
  )


def changed_table(results) -> Table:
  rows = []
  for reader in results['changed']:
    for kind, one in reader['kinds'].items():
      paired = 'flips' in one
      rows.append(
        [
          reader['name'],
          kind_of_names(kind),
          str(one['fires']['n']),
          share(one['fires']),
          share(one['before']) if paired else '',
          percent(one['difference']) if paired else '',
          p_value(one['flips']['p_holm']) if paired else '',
        ]
      )
  columns = 'reader|names|n|fires|unchanged|difference|p (Holm)'
  return Table(columns=columns.split('|'), rows=rows)


def refusal_table(results) -> Table:
  rows = [
    [
      kind_of_names(name),
      str(one['refused']['n']),
      share(one['refused']),
      percent(one['difference']) if 'flips' in one else '',
      p_value(one['flips']['p']) if 'flips' in one else '',
    ]
    for name, one in results['refusals'].items()
  ]
  columns = 'names|n|declined|against the same unchanged|p'
  return Table(columns=columns.split('|'), rows=rows)


def stability_table(results) -> Table:
  rows = [
    [
      label,
      f'{one["k"]}',
      estimate(one['overlap']),
      f'{one["chosen_first"]} of {one["num_splits"]}',
      f'{one["chosen_in_best"]} of {one["num_splits"]}',
      estimate(one['held_out']),
    ]
    for label, one in results['stability'].items()
  ]
  columns = (
    'label|k|overlap of the best k|chosen latent first|among the best k|'
    'separation on the other half: mean and middle 95 %'
  )
  return Table(columns=columns.split('|'), rows=rows)


def other_table(results) -> Table:
  rows = []
  for name, labels in results['other_saes'].items():
    for label, one in labels.items():
      pair = one['counterparts']
      for way in ('by_decoder', 'by_firing') if pair else ():
        found = pair[way]
        rows.append(
          [
            name,
            f'{label} {one["latent"]}',
            'points the same way' if way == 'by_decoder' else 'fires alike',
            found['latent'],
            f'{found["cosine"]:.3f}',
            f'{found["firing"]:.3f}',
            estimate(found['separation']),
            str(one['rank'] or f'beyond {one["k"]}')
            if way == 'by_decoder'
            else '',
          ]
        )
      rows.append(
        [
          name,
          f'{label} {one["latent"]}',
          'their own best, without a filter of plain text',
          one['best'],
          '',
          '',
          estimate(one['best_separation']),
          '1',
        ]
      )
  columns = (
    'SAEs|latent|counterpart|is|cosine of decoder rows|correlation of firing|'
    'separation on test|rank'
  )
  return Table(columns=columns.split('|'), rows=rows)


def chat_table(results) -> Table:
  rows = [
    [
      reader['name'],
      context,
      estimate(one['auroc']),
      str(one['auroc']['n']),
      share(one['fires']['known']),
      share(one['fires']['unknown']),
      estimate(one['correlation']),
    ]
    for reader in results['chat']
    for context, one in reader['contexts'].items()
  ]
  columns = (
    'reader|where|AUROC|n|fires on known|fires on unknown|correlation with '
    'the base model'
  )
  return Table(columns=columns.split('|'), rows=rows)


def kind_of_names(kind: str) -> str:
  """A kind of names in words."""
  return {
    'known': 'known, as they are',
    'unknown': 'unknown, as they are',
    'mixed': 'known names mixed',
    'reversed': 'known names reversed',
    'typo': 'known names with a typo',
    'wrong type': 'known names, wrong type',
    'no type': 'known names without type',
    'familiar': 'familiar, nothing known',
  }[kind]


def share(found: Mapping) -> str:
  if found['value'] is None:
    return 'not defined'
  return (
    f'{100 * found["value"]:.1f} % '
    f'[{100 * found["low"]:.1f}, {100 * found["high"]:.1f}]'
  )


def p_value(p: float) -> str:
  return f'{p:.2g}'
