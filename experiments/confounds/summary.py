"""The answer in some sentences."""

from collections.abc import Mapping


def summary(results: Mapping) -> list[str]:
  """Returns some sentences of numbers that say what was measured."""
  said = []
  for i, reader in enumerate(results['readers']):
    alike, adjusted = results['alike'][i], results['adjusted'][i]['fires']
    raw, matched = (alike[way]['difference'] for way in ('raw', 'matched'))
    said.append(
      f'{reader["name"]}: AUROC {_estimate(reader["auroc"])}. It fires on '
      f'{_percent(raw)} more of its class than of the other (n = {raw["n"]}); '
      f'among names that are alike {_percent(matched)} (n = {matched["n"]}), '
      f'by regression {_percent(adjusted["adjusted"])}, a change of '
      f'{_percent(adjusted["change"])}.'
    )
  balance = results['names_alone']['balance']
  said.append(
    f'Tokens of names, fitted and read on {balance["n"]} names: AUROC '
    f'{balance["auroc"]:.3f}; with shuffled labels '
    f'{_estimate(balance["shuffled"])}. Fitted on train and read on test: '
    f'{_estimate(results["names_alone"]["tokens"]["mean"])}.'
  )
  for label, one in results['shuffled'].items():
    said.append(
      f'The best {label} latent of train, {one["latent"]}, separates test by '
      f'{_estimate(one["observed"])}; in {one["mean"]["n"]} runs with shuffled '
      f'labels the best does by {_estimate(one["mean"])}.'
    )
  for one in results['likelihood'] or ():
    if one['latent']:
      said.append(
        f'{one["name"]} on {one["r"]["n"]} tokens of text: r with the '
        f"token's probability {_estimate(one['r'])}."
      )
  return said


def _estimate(found: Mapping) -> str:
  """Returns a number with its interval."""
  if found['value'] is None:
    return 'not defined'
  said = f'{found["value"]:.3f}'
  if found['low'] is None:
    return said
  return f'{said} [{found["low"]:.3f}, {found["high"]:.3f}]'


def _percent(found: Mapping) -> str:
  """Returns the same in percentage points."""
  if found['value'] is None:
    return 'not defined'
  said = f'{100 * found["value"]:+.1f} %'
  if found['low'] is None:
    return said
  return f'{said} [{100 * found["low"]:+.1f}, {100 * found["high"]:+.1f}]'
