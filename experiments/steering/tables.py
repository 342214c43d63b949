"""What steering did, in tables and words; figures are in figures.py."""

from collections.abc import Iterator, Mapping, Sequence

from experiments.charts import Table
from experiments.latents import CLASSES
from experiments.steering import arms as arms_lib
from experiments.steering.kl_matched import LEVELS, MATCHED
from experiments.steering.outcomes import REFUSAL, by_arm
from experiments.steering.summary import ALL


def effect_table(results: Mapping) -> Table:
  """Returns each arm against the original, over all types and for each."""
  rows = []
  for arm in results['arms']:
    if arm['kind'] in arms_lib.SWEEP_KINDS:
      continue
    for name, scopes in arm['effects'].items():
      for scope, effect in scopes.items():
        if scope != ALL and arm['kind'] != arms_lib.STEERED:
          continue
        counts = arm['counts'][name][scope]
        rows.append(
          [
            arm['name'],
            name,
            scope,
            str(effect['n']),
            percent(counts[REFUSAL]['value']),
            signed(effect['differences'][REFUSAL]),
            signed(effect['by_entity'], value=False),
            f'+{effect["gained"]} / -{effect["lost"]}',
            f'{effect["p"]:.2g}',
            f'{effect["q"]:.2g}' if 'q' in effect else '',
            signed(effect['differences']['correct'], bounds=False),
            signed(effect['differences']['hallucination'], bounds=False),
          ]
        )
  columns = 'arm|entities|type|n|refused|change in points|by entity|flips|p|q'
  columns = f'{columns}|correct|hallucination'
  return Table(columns=columns.split('|'), rows=rows)


def control_table(results: Mapping) -> Table:
  """Returns each latent among its random controls at every dose."""
  rows = [
    [
      f'{sign} {control["target"]}',
      f'{control["dose"]:.3g}',
      f'{cell["arms"]} {control["kind"]}s',
      name,
      percent(cell[key]),
      percent(cell['mean']),
      '' if cell['sd'] is None else percent(cell['sd']),
      f'{percent(cell["low"])} to {percent(cell["high"])}',
      signed(cell[f'{key}_excess']),
      f'{cell[f"{key}_rank"]} of {cell["arms"] + 1}',
      f'{cell[f"{key}_p"]:.2g}',
    ]
    for control in results['controls']
    for name, scopes in control['classes'].items()
    for scope, cell in scopes.items()
    if scope == ALL
    for sign, key in (('+', 'steered'), ('-', 'reversed'))
  ]
  columns = 'arm|dose|controls|entities|refused|their mean|sd|range|difference'
  return Table(columns=f'{columns}|rank|p'.split('|'), rows=rows)


def specificity_table(results: Mapping) -> Table:
  """Returns, for each target and dose, what makes its effect its own."""
  mark = {True: 'yes', False: 'no'}
  rows = [
    [
      f'{one["target"]} latent',
      one['asked_about'],
      f'{here["dose"]:.3g}',
      f'{100 * here["change"]:+.0f}',
      f'{100 * here["reversed"]:+.0f}',
      ', '.join(f'{kind}s {p:.2g}' for kind, p in here['p'].items()),
      mark[here['sufficient']],
      mark[here['sign_flips']],
      mark[here['beyond_controls']],
      mark[here['specific']],
    ]
    for one in results['specificity']
    for here in one['doses']
  ]
  columns = 'target|entities|dose|change in points|with the opposite sign'
  columns += '|p among controls|large|sign matters|beyond controls|specific'
  return Table(columns=columns.split('|'), rows=rows)


def verdict(one: Mapping) -> str:
  """Says at which doses a target's effect is its own, if at any."""
  about = f'questions about {one["asked_about"]} entities'
  if not one['doses']:
    return (
      f'Without controls, nothing says whether the {one["target"]} latent is '
      'specific.'
    )
  if not one['specific_doses']:
    return (
      f'There is no specific dose of the {one["target"]} latent for {about}: '
      'at none of those tried is the change large, gone with the opposite '
      'sign, and beyond all random latents and directions.'
    )
  doses = ', '.join(f'{dose:.3g}' for dose in one['specific_doses'])
  others = [
    f'{here["dose"]:.3g} ({100 * here["change"]:+.0f} points)'
    for here in one['doses']
    if not here['specific']
  ]
  said = f'The {one["target"]} latent is specific for {about} at dose {doses}.'
  return said + (f' It is not at {", ".join(others)}.' if others else '')


def example_table(
  results: Mapping, examples: Sequence[Mapping], per_class: int
) -> Table:
  """Returns some questions under the original, the latents, a random arm."""
  records = by_arm(examples)
  names = ['original']
  for kind in (arms_lib.STEERED, arms_lib.RANDOM_LATENT):
    firsts = {}
    for arm in results['arms']:
      if arm['kind'] == kind:
        firsts.setdefault(arm['target'], arm['name'])
    names += firsts.values()
  rows = []
  for entity_class in CLASSES:
    asked = [
      i
      for i, record in enumerate(records['original'])
      if record['class'] == entity_class
    ]
    asked.sort(
      key=lambda i: -len({records[name][i]['outcome'] for name in names})
    )
    for i in asked[:per_class]:
      question = records['original'][i]
      correct = question['correct_answer']
      said = f'{question["question"]} (correct: {correct})'
      rows.append([f'{entity_class} {question["type"]}', '', said])
      rows += [
        [f'\u2003{name}', records[name][i]['outcome'], _line(records[name][i])]
        for name in names
      ]
  return Table(columns=['arm', 'outcome', 'question and answers'], rows=rows)


def matched_table(results: Mapping) -> Table:
  """Returns each line at each level that a line of its panel reaches."""
  return Table(
    columns=[
      'target',
      'entities',
      'KL of',
      'nats/token',
      'direction',
      'change in points',
      'latent minus it',
      'single arms',
    ],
    rows=list(_matched_rows(results)),
  )


def _matched_rows(results) -> Iterator[list[str]]:
  for one in results['matched_kl']:
    for i, level in enumerate(LEVELS):
      cells = [(line, line['levels'][i]) for line in one['lines']]
      if all(cell['change']['value'] is None for _, cell in cells):
        continue
      for line, cell in cells:
        yield [
          one['target'],
          one['class'],
          MATCHED[one['matched_on']],
          f'{level:g}',
          line['line'],
          _change(line, cell),
          _difference(line, cell),
          _spread(cell['spread']),
        ]


def _change(line, cell) -> str:
  if cell['change']['value'] is None:
    most = line['largest_kl']
    return 'not reached' + (
      '' if most is None else f': KL is at most {most:.2g}'
    )
  return signed(cell['change'])


def _difference(line, cell) -> str:
  none = line['line'] == 'latent' or cell['latent_minus']['value'] is None
  return '' if none else signed(cell['latent_minus'])


def _spread(spread) -> str:
  """Returns the range of single random arms; nothing for one arm."""
  if spread['arms'] == 1 or not spread['reaching']:
    return ''
  return (
    f'{100 * spread["low"]:+.0f} to {100 * spread["high"]:+.0f} '
    f'({spread["reaching"]} of {spread["arms"]})'
  )


def amounts(results) -> Iterator[str]:
  """Yields how much of each latent was added, in all units, in words."""
  settings = results['settings']
  for label, target in results['targets'].items():
    stream, choice = target['stream_norm'], target['choice']
    said = (
      f'The {label} latent is {target["id"]}. Its decoder row, of norm '
      f'{target["direction_norm"]:.3g}, was added {target["alpha"]:.4g} times '
      f'({target["source"]}): {target["dose"]:.2f} times the mean norm of the '
      f'stream there, {stream["value"]:.4g} (n = {stream["n"]} questions). '
      f'Steered tokens: {settings["positions"]}'
      f'{", and all generated ones" if settings["generated"] else ""}.'
    )
    if choice:
      layers = len({each['id'] for each in choice['tried']})
      goal = 'reached' if choice['reached'] else 'missed'
      said += (
        f' Latent and dose have the largest effect of {len(choice["tried"])} '
        f'tried ({layers} latents, one per layer) on {choice["n"]} validation '
        f'questions, less what the opposite sign does: '
        f'{percent(choice["effect"])}, which {goal} the goal of '
        f'{percent(choice["goal"])}.'
      )
    yield said


def _line(record) -> str:
  """Returns an answer on one line."""
  return ' '.join(record['text'].split()) or '(nothing)'


def percent(share: float) -> str:
  """Returns a share, in per cent."""
  return f'{100 * share:.1f} %'


def signed(
  estimate: Mapping, *, value: bool = True, bounds: bool = True
) -> str:
  """Returns a difference in percentage points."""
  low, high = estimate['low'], estimate['high']
  said = [f'{100 * estimate["value"]:+.1f}'] if value else []
  if bounds and low is not None:
    said.append(f'[{100 * low:+.0f}, {100 * high:+.0f}]')
  return ' '.join(said)
