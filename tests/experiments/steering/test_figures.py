"""The report's sections show the numbers, and model output as plain text."""

import copy

import pytest

from experiments.charts import write_report
from experiments.steering import figures


@pytest.fixture(scope='module')
def sections(study):
  return {s.title: s for s in figures.sections(*study)}


def trace(figure, name):
  return next(t for t in figure.data if t.name == name)


def test_bars_and_points(study, sections):
  results, _ = study
  (figure,) = sections['Refusals when latents are added'].figures
  # The first panel is of known entities: city, player, all.
  assert list(trace(figure, '+ unknown').x) == [1, 1, 1]
  assert list(trace(figure, 'original').x) == [0, 0, 0]
  low = trace(figure, '+ unknown').error_x.arrayminus[2]
  counts = next(a for a in results['arms'] if a['name'] == '+ unknown')[
    'counts'
  ]
  assert low == pytest.approx(1 - counts['known']['all']['refusal']['low'])
  points = trace(figure, 'random latents for unknown')
  assert len(points.x) == 4 * 3 and set(points.x) == {0}
  ticks = figure.layout.yaxis.ticktext
  assert list(ticks) == ['city (n = 5)', 'player (n = 5)', 'all (n = 10)']
  # Nothing stands outside its type.
  for each in figure.data:
    assert -0.5 < min(each.y) and max(each.y) < 2.5


def test_stacks_add_up(sections):
  (figure,) = sections['What is said instead'].figures
  for axis in ('x', 'x2'):
    shares = [t.x for t in figure.data if (t.xaxis or 'x') == axis]
    assert len(shares) == 4
    for column in zip(*shares, strict=True):
      assert sum(column) == pytest.approx(1)


def test_dose_response(study, sections):
  # Per target, known first: refusals, divergence, log P(refusal); panels are
  # classes.
  *_, refused, diverged, nearness = sections['Dose and response'].figures
  line = next(t for t in refused.data if t.name == 'latent' and not t.fill)
  assert list(line.x) == pytest.approx([-1, -0.1, 0, 0.1, 1])
  assert list(line.y) == [0, 0, 0, 0, 1]
  below = next(t for t in diverged.data if t.name == 'latent' and not t.fill)
  kl = {
    a['dose']: a['kl']['known']['value']
    for a in study[0]['arms']
    if a['target'] == 'unknown' and a['name'][0] in '+-'
  }
  drawn = dict(zip(below.x, below.y, strict=True))
  assert drawn[0] is None  # a logarithm has no 0
  assert {x: y for x, y in drawn.items() if x} == kl
  assert diverged.layout.yaxis.type == 'log'
  titles = [a.text for a in refused.layout.annotations if a.text]
  assert 'unknown latent, known entities' in titles
  names = {t.name for t in refused.data}
  assert {'random latents', 'random directions'} <= names
  near = next(t for t in nearness.data if t.name == 'latent' and not t.fill)
  assert near.y[-1] > near.y[0]


def test_matched(study, sections):
  section = sections['At matched divergence']
  on_text, figure = section.figures

  def latent(figure):
    """The line in the panel of the unknown latent and known entities."""
    (panel,) = (
      i
      for i, title in enumerate(figure.layout.annotations)
      if title.text
      == 'unknown latent, known entities (0 to +100 points possible)'
    )
    return next(
      t
      for t in figure.data
      if t.name == 'latent' and t.xaxis == f'x{panel + 1}' and not t.fill
    )

  line = latent(figure)
  arms = {a['name']: a for a in study[0]['arms']}
  names = ('+ unknown at dose 0.1', '+ unknown')
  # At the larger dose all known questions flip, and the unknown are left.
  small, large = (arms[n]['kl'] for n in names)
  both = (small['known']['value'] + small['unknown']['value']) / 2
  assert list(line.x) == [
    pytest.approx(both),
    pytest.approx(large['unknown']['value']),
  ]
  assert list(line.y) == [0, 1]
  assert len({t.name for t in figure.data}) == 5
  other = latent(on_text)
  assert list(other.y) == [0, 1]
  assert list(other.x) == pytest.approx(
    [arms[n]['text']['value'] for n in names]
  )
  (table,) = section.tables
  matched = 'questions whose decision does not change'
  rows = [r for r in table.rows if r[:3] == ['unknown', 'known', matched]]
  assert {r[4] for r in rows} == {t.name for t in figure.data}
  low, high = line.x
  mine = {float(r[3]): r[5] for r in rows if r[4] == 'latent'}
  assert min(mine) < high < max(mine)
  for level, said in mine.items():
    if level > high:
      assert said == f'not reached: KL is at most {high:.2g}'
    else:
      change = 100 * max(0, (level - low) / (high - low))
      assert said.startswith(f'{change:+.1f} [')


def test_tables(sections):
  (effects,) = sections['What is said instead'].tables
  row = next(r for r in effects.rows if r[:3] == ['+ unknown', 'known', 'all'])
  assert row[3:6] == ['10', '100.0 %', '+100.0 [+61, +100]']
  assert row[7] == '+10 / -0'
  specific, controls = sections['Refusals when latents are added'].tables
  row = next(
    r
    for r in controls.rows
    if r[:4:3] == ['+ unknown', 'known'] and r[1] == '1'
  )
  assert row[4:6] == ['100.0 %', '0.0 %'] and row[9:] == ['1 of 5', '0.2']
  assert [r[3] for r in specific.rows if r[0] == 'unknown latent'] == [
    '+0',
    '+100',
  ]
  (answers,) = sections['Answers side by side'].tables
  assert answers.rows[0][0] == 'known city'
  assert answers.rows[2] == ['\u2003+ known', 'correct', 'Paris']
  assert answers.rows[3] == ['\u2003+ unknown', 'refusal', 'sorry']


def test_model_output_is_escaped(study, tmp_path):
  results, examples = copy.deepcopy(study)
  evil = '<script>alert(1)</script>\n<b>'
  for example in examples:
    example['text'] = example['question'] = evil
  for target in results['targets'].values():
    target['id'] = evil
  path = tmp_path / 'report.html'
  write_report(path, 'x', [], figures.sections(results, examples))
  page = path.read_text()
  assert 'alert(1)' in page and '<script>alert(1)' not in page
  assert '<b>' not in page.split('</head>')[1].replace('<br>', '')


def test_a_run_without_latents_or_sweep(study):
  """Only the original: no controls, no curves."""
  results, examples = copy.deepcopy(study)
  results['arms'] = results['arms'][:1]
  results |= {'controls': [], 'dose_response': [], 'targets': {}}
  results['specificity'] = []
  found = figures.sections(results, examples)
  assert 'Dose and response' not in [s.title for s in found]
