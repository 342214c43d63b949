"""The study's tables: results in, rows out."""

from collections.abc import Iterable, Mapping, Sequence

from experiments import charts
from experiments.latents import CLASSES

# How names are alike -> the same in words.
WAYS = {
  'raw': 'raw',
  'matched': 'alike: same stratum',
  'matched on name frequency': 'alike in the frequency of whole names',
}
_ADJUSTED = {
  'fires': 'adjusted',
  'fires, name frequency too': 'adjusted, name frequency too',
}
# Kind of names -> the same in words.
KINDS = {
  'known': 'known, as they are',
  'unknown': 'unknown, as they are',
  'mixed': 'known names mixed',
  'reversed': 'known names reversed',
  'typo': 'known names with a typo',
  'wrong type': 'known names, wrong type',
  'no type': 'known names without type',
  'familiar': 'familiar, nothing known',
}


def alike(results: Mapping) -> charts.Table:
  """Returns every reader's difference in firing, names being alike."""
  rows = []
  for matched, adjusted in zip(
    results['alike'], results['adjusted'], strict=True
  ):
    for way, title in WAYS.items():
      if one := matched.get(way):
        rows.append(
          {
            'reader': matched['name'],
            'comparison': title,
            'difference in firing': one['difference'],
            'AUROC': one['auroc'],
            'entities': f'{one["n"]} of {one["of"]}',
            'strata with both classes': f'{one["strata"]} of '
            f'{one["all_strata"]}',
          }
        )
    for kind, title in _ADJUSTED.items():
      if one := adjusted.get(kind):
        rows.append(
          {
            'reader': adjusted['name'],
            'comparison': title,
            'difference in firing': one['adjusted'],
            'entities': one['adjusted']['n'],
            'change by adjusting': one['change'],
            'known-ness explained': one['explained'],
          }
        )
  return _table(rows, percent=('difference in firing', 'change by adjusting'))


def balance(results: Mapping) -> charts.Table:
  """Returns what names of both classes are like."""
  return _table(
    {
      'covariate': name,
      'mean of known names': one['known'],
      'mean of unknown names': one['unknown'],
      'standardised difference': one['standardised_difference'],
      'what it is': one['source'],
    }
    for name, one in results['names'].items()
  )


def changed(results: Mapping) -> charts.Table:
  """Returns how often readers fire on changed names, and on the same before."""
  rows = [
    {
      'reader': reader['name'],
      'names': KINDS[kind],
      'n': one['fires']['n'],
      'fires': one['fires'],
      'unchanged': one.get('before', ''),
      'difference': one.get('difference', ''),
      'p (Holm)': one['flips']['p_holm'] if 'flips' in one else '',
    }
    for reader in results['changed']
    for kind, one in reader['kinds'].items()
  ]
  return _table(rows, percent=('fires', 'unchanged', 'difference'))


def refusals(results: Mapping) -> charts.Table:
  """Returns how often the chat model declines to answer about names."""
  rows = [
    {
      'names': KINDS[kind],
      'n': one['refused']['n'],
      'declined': one['refused'],
      'against the same unchanged': one.get('difference', ''),
      'p': one['flips']['p'] if 'flips' in one else '',
    }
    for kind, one in results['refusals'].items()
  ]
  return _table(rows, percent=('declined', 'against the same unchanged'))


def likelihood(results: Mapping) -> charts.Table:
  """Returns how readers go with the probability of the token they read."""
  rows = [
    {
      'reader': one['name'],
      'tokens': one['r']['n'],
      'fires': one['frequency'],
      'r with p': one['r'],
      'r with ln p': one['r_log'],
      'r of firing with p': one['r_fires'],
      'p where it fires': one['p_fires'],
      'p where not': one['p_silent'],
    }
    for one in results['likelihood']
  ]
  return _table(rows, percent=('fires',))


def paper_likelihood(results: Mapping) -> charts.Table:
  """Returns what the paper reports of the same."""
  rows = [
    {'model': model, 'latent': label, 'fires': share, 'r with p': f'{r:.3f}'}
    for model, labels in results['paper_likelihood'].items()
    for label, (share, r) in labels.items()
  ]
  return _table(rows, percent=('fires',))


def chance(results: Mapping) -> charts.Table:
  """Returns what the search finds, beside searches with shuffled labels."""
  null, shuffled = results['null'], results['shuffled']
  return _table(
    {
      'label': label,
      'best latent': shuffled[label]['latent'],
      'score on train': null[label]['observed'],
      '95 % of shuffles below': null[label]['null_95'],
      'p of the score': null[label]['p_value']['value'],
      'separation on test': shuffled[label]['observed'],
      'shuffled: mean and middle 95 %': shuffled[label]['mean'],
      'p of the separation': shuffled[label]['p_value'],
    }
    for label in CLASSES
  )


def stability(results: Mapping) -> charts.Table:
  """Returns what other splits have in common with the one of the run."""
  return _table(
    {
      'label': label,
      'k': one['k'],
      'overlap of the best k': one['overlap'],
      'chosen latent first': f'{one["chosen_first"]} of {one["num_splits"]}',
      'among the best k': f'{one["chosen_in_best"]} of {one["num_splits"]}',
      'separation on the other half: mean and middle 95 %': one['held_out'],
    }
    for label, one in results['stability'].items()
  )


def other_saes(results: Mapping) -> charts.Table:
  """Returns the counterparts of the latents in other SAEs."""
  rows = []
  for name, labels in results['other_saes'].items():
    for label, one in labels.items():
      latent = {'SAEs': name, 'latent': f'{label} {one["latent"]}'}
      for way, said, rank in (
        ('by_decoder', 'points the same way', one['rank'] or f'> {one["k"]}'),
        ('by_firing', 'fires alike', ''),
      ):
        if one['counterparts']:
          found = one['counterparts'][way]
          rows.append(
            latent
            | {
              'counterpart': said,
              'is': found['latent'],
              'cosine of decoder rows': found['cosine'],
              'correlation of firing': found['firing'],
              'separation on test': found['separation'],
              'rank': rank,
            }
          )
      rows.append(
        latent
        | {
          'counterpart': 'their own best, without a filter of plain text',
          'is': one['best'],
          'separation on test': one['best_separation'],
          'rank': 1,
        }
      )
  return _table(rows)


def chat(results: Mapping) -> charts.Table:
  """Returns how readers of the base model do in the chat model."""
  rows = [
    {
      'reader': reader['name'],
      'where': context,
      'AUROC': one['auroc'],
      'n': one['auroc']['n'],
      'fires on known': one['fires']['known'],
      'fires on unknown': one['fires']['unknown'],
      'correlation with the base model': one['correlation'],
    }
    for reader in results['chat']
    for context, one in reader['contexts'].items()
  ]
  return _table(rows, percent=('fires on known', 'fires on unknown'))


def _table(
  rows: Iterable[Mapping], percent: Sequence[str] = ()
) -> charts.Table:
  """Returns a table of rows, each of which maps titles of columns to cells."""
  rows = list(rows)
  columns = list(dict.fromkeys(title for row in rows for title in row))
  cells = [[row.get(title, '') for title in columns] for row in rows]
  return charts.table(columns, cells, percent=percent)
