"""The report's sections show the numbers, and model output as plain text."""

import copy

import pytest

from experiments.report import steering_figures
from experiments.report.page import write_report


@pytest.fixture(scope='module')
def sections(study):
  return {s.title: s for s in steering_figures.sections(*study)}


def trace(figure, name):
  return next(t for t in figure.data if t.name == name)


def test_bars_and_points(study, sections):
  results, _ = study
  (figure,) = sections['Refusals when latents are added'].figures
  # The first panel is of known entities: city, player, all.
  assert list(trace(figure, '+ unknown').y) == [1, 1, 1]
  assert list(trace(figure, 'original').y) == [0, 0, 0]
  low = trace(figure, '+ unknown').error_y.arrayminus[2]
  counts = next(a for a in results['arms'] if a['name'] == '+ unknown')[
    'counts'
  ]
  assert low == pytest.approx(1 - counts['known']['all']['refusal']['low'])
  points = trace(figure, 'random latents for unknown')
  assert len(points.x) == 4 * 3 and set(points.y) == {0}
  ticks = figure.layout.xaxis.ticktext
  assert list(ticks) == ['city (n = 5)', 'player (n = 5)', 'all (n = 10)']
  # Nothing stands outside its type.
  for each in figure.data:
    assert -0.5 < min(each.x) and max(each.x) < 2.5


def test_stacks_add_up(sections):
  (figure,) = sections['What is said instead'].figures
  for axis in ('x', 'x2'):
    shares = [t.x for t in figure.data if (t.xaxis or 'x') == axis]
    assert len(shares) == 4
    for column in zip(*shares, strict=True):
      assert sum(column) == pytest.approx(1)


def test_dose_response(sections):
  (figure,) = sections['Dose and response'].figures
  # Columns are targets, known first; rows are classes, known first.
  (line,) = (
    t for t in figure.data if t.name == 'latent' and (t.xaxis or 'x') == 'x2'
  )
  assert list(line.x) == pytest.approx([-1, 0, 0.1, 1])
  assert list(line.y) == [0, 0, 0, 1]
  titles = [a.text for a in figure.layout.annotations if a.text]
  assert 'unknown latent, known entities' in titles


def test_tables(sections):
  (effects,) = sections['What is said instead'].tables
  row = next(r for r in effects.rows if r[:3] == ['+ unknown', 'known', 'all'])
  assert row[3:6] == ['10', '100.0 %', '+100.0 [+61, +100]']
  assert row[7] == '+10 / -0'
  (controls,) = sections['Refusals when latents are added'].tables
  row = next(r for r in controls.rows if r[:3:2] == ['+ unknown', 'known'])
  assert row[3:5] == ['100.0 %', '0.0 %'] and row[8:] == ['1 of 5', '0.2']
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
  write_report(path, 'x', [], steering_figures.sections(results, examples))
  page = path.read_text()
  assert 'alert(1)' in page and '<script>alert(1)' not in page
  assert '<b>' not in page.split('</head>')[1].replace('<br>', '')


def test_a_run_without_latents_or_sweep(study):
  """Only the original: no controls, no curves."""
  results, examples = copy.deepcopy(study)
  results['arms'] = results['arms'][:1]
  results |= {'controls': [], 'dose_response': [], 'targets': {}}
  found = steering_figures.sections(results, examples)
  assert 'Dose and response' not in [s.title for s in found]
