"""A run in plain words."""

from collections.abc import Mapping

from experiments.entity_recognition import repurposed
from experiments.latents import describe_random
from experiments.steering import ALL, MATCHED, OPPOSITE, verdict

_LEVEL = 0.03  # nats per token, one of those at which directions are compared


def answer(results: Mapping) -> list[str]:
  """Returns the question's answer in a few sentences."""
  known, unknown = (results['latents']['chosen'][c][0] for c in OPPOSITE)
  return [
    _separates(known),
    _separates(unknown),
    _steers(results),
    *map(verdict, results['steering']['specificity']),
  ]


def lines(results: Mapping) -> list[str]:
  """Fifteen lines or fewer for the end of a run."""
  latents, steering = results['latents'], results['steering']
  test = latents['entities']['test']
  counts = {
    label: sum(row[label] for row in test.values()) for label in OPPOSITE
  }
  found = [
    f'Does it know what it knows? {counts["known"]} known and '
    f'{counts["unknown"]} unknown entities of {len(test)} types, not used in '
    'the search:'
  ]
  for label in OPPOSITE:
    best = latents['chosen'][label][0]
    found.append(f'  {_separates(best)}')
    found.append(
      f'    AUROC {_estimate(best["auroc"]["mean"])}; '
      + _against(latents, label)
    )
  found.append('Added to the chat model while it reads the question:')
  for label in ('unknown', 'known'):
    other = OPPOSITE[label]
    before = _refusals(steering, 'original', '', other)
    after = _refusals(steering, 'steered', label, other)
    found.append(
      f'  + {label} latent, questions about {other} entities: declines '
      f'{_share(before)} -> {_share(after)}'
    )
    found.append(f'    {_random(results, label, other)}')
  return found + _other_arms(steering)


def _other_arms(steering) -> list[str]:
  """Two more ways to take refusals away, and all beside equal divergence."""
  before = _share(_refusals(steering, 'original', '', 'unknown'))
  after = _refusals(steering, 'wrong sign', 'unknown', 'unknown')
  found = [f'  - unknown latent, likewise: {before} -> {_share(after)}']
  found += [f'  {verdict(one)}' for one in steering['specificity']]
  found += [
    f'  {line}' for line in repurposed.sentences(steering['repurposed'])
  ]
  matched = {one['matched_on'] for one in steering['matched_kl']}
  on = 'text' if 'text' in matched else 'unflipped'
  found.append(
    f'  Where they move the model equally far on {MATCHED[on]}, by '
    f'{_LEVEL:g} nats per token:'
  )
  for line, entity_class, said in (
    ('latent', 'known', '+ unknown latent, known entities'),
    ('wrong sign', 'unknown', '- unknown latent, unknown entities'),
  ):
    found.append(f'    {said}: {_matched(steering, entity_class, line, on)}')
  return found


def _matched(steering, entity_class, line, on) -> str:
  """Returns a line of the unknown latent beside random ones, at _LEVEL."""
  (found,) = (
    each
    for each in steering['matched_kl']
    if (each['target'], each['class'], each['matched_on'])
    == ('unknown', entity_class, on)
  )
  said = []
  for name in (line, 'random latents', 'random directions'):
    for each in found['lines']:
      if each['line'] == name:
        level = next(x for x in each['levels'] if x['kl'] == _LEVEL)
        said.append((name, _points(level['change'])))
  return ', '.join(
    [f'refusals change by {said[0][1]}', *(f'{n} by {v}' for n, v in said[1:])]
  )


def _points(change) -> str:
  """Returns a change in percentage points."""
  if change['value'] is None:
    return 'an unknown amount (not reached)'
  said = f'{100 * change["value"]:+.0f}'
  if change['low'] is not None:
    said += f' [{100 * change["low"]:+.0f}, {100 * change["high"]:+.0f}]'
  return f'{said} points'


def _separates(best) -> str:
  rates = best['test']['types'].values()
  own, other = best['label'], OPPOSITE[best['label']]
  mean = lambda label: sum(r[label]['value'] for r in rates) / len(rates)
  return (
    f'Latent {best["latent"]} of {best["site"]} {best["layer"]} fires on '
    f'{mean(own):.0%} of {own} and {mean(other):.0%} of {other} entities.'
  )


def _against(latents, label) -> str:
  null = latents['null']
  said = []
  for detector in latents['detectors']:
    if detector['kind'] in ('linear probe', 'name tokens', 'text of the name'):
      said.append(f'{detector["name"]} {detector["mean"]["value"]:.3f}')
  if null is not None:
    said.append(f'p = {null[label]["p_value"]["value"]:.3g} (shuffled labels)')
  return ', '.join(said)


def _steers(results) -> str:
  steering = results['steering']
  parts = []
  for label in ('unknown', 'known'):
    other = OPPOSITE[label]
    before = _refusals(steering, 'original', '', other)
    after = _refusals(steering, 'steered', label, other)
    parts.append(
      f'adding the {label} latent takes refusals of questions about {other} '
      f'entities from {before["value"]:.0%} to {after["value"]:.0%}'
      f'{_beside(steering, label, other)}'
    )
  return f'In the chat model {"; ".join(parts)}.'


def _refusals(steering, kind, target, entity_class) -> Mapping:
  """Returns the share of refusals of an arm, over all types."""
  for arm in steering['arms']:
    if arm['kind'] == kind and arm['target'] == target:
      return arm['counts'][entity_class]['all']['refusal']
  raise KeyError(f'There is no arm {kind} {target}.')


def _beside(steering, label, other) -> str:
  found = [
    f'{control["kind"]}s: {rates["mean"]:.0%}'
    for control, rates in _controls(steering, label, other)
  ]
  return f' ({", ".join(found)})' if found else ''


def _random(results, label, other) -> str:
  """Says what random latents and directions of the same norm do."""
  steering = results['steering']
  id = steering['targets'][label]['id']
  random = results['latents']['random'][label]
  for each in results['latents'].get('candidates', {}).get(label, ()):
    if each['id'] == id:
      random = each['random']
  found = []
  for control, rates in _controls(steering, label, other):
    latents = control['kind'] == 'random latent'
    how = f' {describe_random(random)}' if latents else ''
    found.append(
      f'{rates["arms"]} {control["kind"]}s{how}, same norm: '
      f'{rates["mean"]:.0%} ({rates["low"]:.0%} to {rates["high"]:.0%})'
    )
  return '; '.join(found) or 'no controls'


def _controls(steering, label, other) -> list[tuple[Mapping, Mapping]]:
  """Returns the controls of a label at the chosen dose, and their rates."""
  return [
    (control, control['classes'][other][ALL])
    for control in steering['controls']
    if control['target'] == label and control['chosen']
  ]


def _share(estimate) -> str:
  return (
    f'{estimate["value"]:.0%} [{estimate["low"]:.0%}, {estimate["high"]:.0%}] '
    f'of {estimate["n"]}'
  )


def _estimate(estimate) -> str:
  return (
    f'{estimate["value"]:.3f} [{estimate["low"]:.3f}, {estimate["high"]:.3f}]'
  )
