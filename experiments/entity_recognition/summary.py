"""A run in plain words."""

from collections.abc import Mapping

from experiments.latents import describe_random
from experiments.steering import OPPOSITE

_LEVEL = 0.1  # nats per token, one of those at which directions are compared


def answer(results: Mapping) -> list[str]:
  """Returns the question's answer in three sentences."""
  known, unknown = (results['latents']['chosen'][c][0] for c in OPPOSITE)
  return [_separates(known), _separates(unknown), _steers(results)]


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
  for arm in steering['arms']:
    if (arm['kind'], arm['target']) == ('sweep of mean difference', 'known'):
      if abs(arm['dose'] - 1) < 1e-6:
        after = arm['counts']['unknown']['all']['refusal']
        found.append(
          "  + difference of means to known, at the stream's norm, likewise: "
          f'{before} -> {_share(after)}'
        )
  return [
    *found,
    '  Where they move the model equally far, by '
    f'{_LEVEL:g} nats per token of KL divergence:',
    f'    + unknown latent, known entities: '
    f'{_matched(steering, "known", "latent")}',
    f'    - unknown latent, unknown entities: '
    f'{_matched(steering, "unknown", "wrong sign")}',
  ]


def _matched(steering, entity_class, line) -> str:
  """Returns a line of the unknown latent beside random latents, at _LEVEL."""
  (found,) = (
    each
    for each in steering['matched_kl']
    if (each['target'], each['class'], each['matched_on'])
    == ('unknown', entity_class, entity_class)
  )
  said = []
  for name in (line, 'random latents'):
    for each in found['lines']:
      if each['line'] == name:
        level = next(x for x in each['levels'] if x['kl'] == _LEVEL)
        said.append(_points(level['change']))
  return 'refusals change by ' + ', random latents by '.join(said)


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
    if detector['kind'] == 'probe' and detector['positive'] == label:
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
  found = _random_rates(steering, label, other)
  return f' (random latents of its layer: {found["mean"]:.0%})' if found else ''


def _random(results, label, other) -> str:
  found = _random_rates(results['steering'], label, other)
  if found is None:
    return 'no random latents'
  how = describe_random(results['latents']['random'][label])
  return (
    f'{found["arms"]} random latents {how}, same norm: '
    f'{found["mean"]:.0%} ({found["low"]:.0%} to {found["high"]:.0%})'
  )


def _random_rates(steering, label, other) -> Mapping | None:
  """Refusals under random latents in place of a label's latent."""
  for control in steering['controls']:
    if (control['target'], control['kind']) == (label, 'random latent'):
      return control['classes'][other]['all']
  return None


def _share(estimate) -> str:
  return (
    f'{estimate["value"]:.0%} [{estimate["low"]:.0%}, {estimate["high"]:.0%}] '
    f'of {estimate["n"]}'
  )


def _estimate(estimate) -> str:
  return (
    f'{estimate["value"]:.3f} [{estimate["low"]:.3f}, {estimate["high"]:.3f}]'
  )
