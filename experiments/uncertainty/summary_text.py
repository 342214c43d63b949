"""What was found, in sentences."""

import collections
from collections.abc import Mapping

# Errors, and correct answers, below which an AUROC says little.
_FEW = 30


def sentences(results: Mapping) -> list[str]:
  """Says what was found, in sentences."""
  n = results['n']['test']
  prefix = results['answering']['prefix']
  lines = [
    f'Test: {n["errors"]} errors and {n["correct"]} correct answers, about '
    f'{n["clusters"]} entities'
    + (f', every answer begun with {prefix!r}.' if prefix else '.')
  ]
  totals = collections.Counter()
  for kinds in results['counts'].values():
    for counts in kinds.values():
      totals.update(counts)
  lines.append(
    'All splits: '
    + ', '.join(f'{count} {group}' for group, count in totals.items())
    + '.'
  )
  if min(n['errors'], n['correct']) < _FEW:
    lines.append(
      'One class is small: intervals are wide, and thresholds little more than '
      'guesses.'
    )
  lines += [f'Left out: {each}.' for each in results['left_out']]
  for one in results['detectors']:
    lines.append(f'{one["name"]}: {_said(one, "test")}')
    if 'transfer' in one:
      lines[-1] += f' On the other questions: {_said(one, "transfer")}'
  others = results['n'].get('transfer')
  if others and not (others['errors'] and others['correct']):
    lines.append(
      f'The other questions have {others["errors"]} errors and '
      f'{others["correct"]} correct answers; without both there is nothing to '
      'tell apart.'
    )
  random = results['random']
  if random:
    found, controls = random['test'], results['controls']
    often = controls['frequencies']
    lines.append(
      f'{found["n"]} random latents of the layer of the best error latent, '
      'drawn whether or not they tell errors, '
      + (
        'that fire about as often'
        if controls['rule'] == 'matched'
        else 'the nearest in how often they fire'
      )
      + f' ({min(often):.1%} to {max(often):.1%} of the questions of train, it '
      f'{controls["frequency"]:.1%}): AUROC {found["mean"]:.3f} '
      f'({found["low"]:.3f} to {found["high"]:.3f}), p = {found["p"]:.3f}.'
    )
  best = results['detectors'][0]
  if best['known']:
    found = best['known']
    lines.append(
      'Among questions about known entities alone, where not knowing the name '
      f'cannot give an error away, {best["name"]} has AUROC {_bounds(found)}, '
      f'of {found["errors"]} errors and {found["correct"]} correct answers.'
    )
    if min(found['errors'], found['correct']) < _FEW:
      lines[-1] += ' One class is small: that is little to go by.'
  for one in results['detectors']:
    mass = one['about'].get('mass_of_both_words', 1.0)
    if mass < 0.01:
      lines.append(
        f'{one["name"]}: both words together have {mass:.2g} of the '
        'probability; the model would say neither, and it means nothing.'
      )
  return lines


def _said(one, place) -> str:
  area, f1 = one[place]['auroc'], one[place]['f1_f1']
  precision = one[place]['average_precision']
  return (
    f'AUROC {_bounds(area)}, AP {precision["value"]:.3f}, '
    f'F1 {f1["value"]:.3f}, AURC {one[place]["aurc"]["value"]:.3f}.'
  )


def _bounds(found) -> str:
  if found['low'] is None:
    return f'{found["value"]:.3f}'
  return f'{found["value"]:.3f} [{found["low"]:.3f}, {found["high"]:.3f}]'
