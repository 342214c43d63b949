"""Tables of what `self_report` found."""

from experiments.charts import Table, style
from experiments.latents.class_look import TITLES
from experiments.steering import MEAN_DIFFERENCE, STEERED, WRONG_SIGN

ALL = 'all'
# Compared with the original, in this order.
SHOWN = (
  STEERED,
  MEAN_DIFFERENCE,
  WRONG_SIGN,
)
# The class of entities that a latent is silent on.
OTHER = {'known': 'unknown', 'unknown': 'known'}


def effect_table(results) -> Table:
  metric, rows = results['metric'], []
  for arm in results['arms']:
    if arm['kind'] not in SHOWN:
      continue
    for name, scopes in arm['classes'].items():
      for scope, cell in scopes.items():
        effect = cell[metric]['effect']
        rows.append(
          [
            arm['name'],
            name,
            scope,
            style.number(cell[metric]['mean']['value']),
            style.number(effect['value']),
            f'[{style.number(effect["low"])}, {style.number(effect["high"])}]',
            str(effect['n']),
            style.number(effect['q']) if 'q' in effect else '',
          ]
        )
  return Table(
    columns=['arm', 'entities', 'type', 'mean', 'change', '95 %', 'n', 'q'],
    rows=rows,
  )


def example_table(results, examples, per_class) -> Table:
  metric = results['metric']
  steered = {
    arm['target']: arm['name']
    for arm in results['arms']
    if arm['kind'] == STEERED
  }
  original, rows = results['arms'][0]['name'], []
  for name in TITLES:
    arm = steered.get(OTHER[name], original)

    def moved(example, arm=arm):
      values = example['arms']
      return abs(values[arm][metric] - values[original][metric])

    mine = [e for e in examples if e['class'] == name]
    for each in sorted(mine, key=moved, reverse=True)[:per_class]:
      rows.append(
        [
          name,
          each['question'],
          style.number(each['arms'][original][metric]),
          arm if arm != original else '',
          style.number(each['arms'][arm][metric]),
        ]
      )
  return Table(
    columns=['entities', 'question', 'original', 'arm', 'steered'], rows=rows
  )
