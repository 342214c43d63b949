"""The page over several runs links them all, and names those that failed."""

import functools

import pytest

from experiments.charts import Section, write_report
from experiments.charts.index import find_runs, read_run
from experiments.runs import outputs
from tests.experiments import worlds
from tools import index_reports

NAME = 'run "1" #%<b>'  # of a folder
TITLE = '</script><b>Who?'


def make_run(folder, title=TITLE, **results):
  folder.mkdir(parents=True)
  (folder / outputs.FLAGS_FILE).write_text('--seed=3\n')
  outputs.write_results(folder, {'experiment': 'self_report', **results})
  write_report(
    folder / outputs.REPORT_FILE,
    title,
    ['Refusals rise from 4 % to 81 %.'],
    [Section(title='First'), Section(title='Second & last')],
  )


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
  folder = tmp_path_factory.mktemp('runs')
  make_run(
    folder / NAME,
    mode='reference',
    seed=3,
    model={'folder': '/data/hub/google/gemma-2-2b', 'dtype': 'float32'},
    sae='gemma-scope-2b-pt-res',
  )
  make_run(
    folder / 'paper' / 'inner',
    models={n: {'folder': n, 'fingerprint': 'f'} for n in ('base', 'chat')},
    saes=[{'release': 'r', 'sae_id': str(i)} for i in range(2)]
    + [f'layer_{i}' for i in range(7)],
  )
  broken = folder / 'broken'
  make_run(broken)
  (broken / outputs.RESULTS_FILE).write_text('{"experiment": "ask')
  odd = folder / 'odd'
  make_run(odd)
  (odd / outputs.RESULTS_FILE).write_text('[]')
  (odd / outputs.REPORT_FILE).write_text('<!DOCTYPE html>old')
  killed = folder / 'killed'
  killed.mkdir()
  (killed / outputs.FLAGS_FILE).write_text('')
  make_run(folder / '.hidden.partial')
  stage = folder / NAME / 'latents'  # a stage's results are no run
  stage.mkdir()
  outputs.write_results(stage, {'chosen': []})
  (folder / 'plots').mkdir()
  return folder


start = functools.partial(worlds.run, index_reports)


def test_finds_runs(runs):
  found = {str(run.relative_to(runs)) for run in find_runs([runs])}
  assert found == {NAME, 'paper/inner', 'broken', 'odd', 'killed'}
  # Each once; and a folder that is named is a run, whatever is in it.
  twice = find_runs([runs / 'paper', runs, runs / 'plots'])
  assert len(twice) == 6
  assert read_run(runs / 'plots').problems == [
    'results.json is missing: the run did not finish.',
    'report.html is missing: the run did not finish.',
  ]


def test_reads_runs(runs):
  whole = read_run(runs / NAME)
  assert not whole.problems
  assert whole.results['seed'] == 3 and whole.contents['title'] == TITLE
  (broken,) = read_run(runs / 'broken').problems
  assert broken.startswith('results.json cannot be read: ')
  assert read_run(runs / 'broken').contents['title'] == TITLE
  first, second = read_run(runs / 'odd').problems
  assert 'holds a JSON list' in first
  assert 'older version' in second


CONTENTS = '<script type="application/json" id="contents">{}</script>'


@pytest.mark.parametrize('file', [outputs.RESULTS_FILE, outputs.REPORT_FILE])
@pytest.mark.parametrize(
  'content',
  [
    '',
    '{',
    '\xff',
    'null',
    '{"a": NaN}',
    '[' * 100_000,
    '{"experiment": ' + '{"a": [' * 300 + '1' + ']}' * 300 + '}',
    '{"title": 3, "summary": [], "sections": []}',
    '{"title": "x", "summary": "y", "sections": []}',
    '{"title": "x", "summary": [1], "sections": []}',
    '{"title": "x", "summary": [], "sections": [{"id": 3, "title": "x"}]}',
    '{"title": "x", "summary": [], "sections": ["x"]}',
  ],
)
def test_one_broken_run_is_listed_with_the_others(tmp_path, file, content):
  for name in ('whole', 'broken'):
    make_run(tmp_path / name)
  if file == outputs.REPORT_FILE:
    content = CONTENTS.format(content)
  (tmp_path / 'broken' / file).write_text(content, encoding='latin-1')
  assert start(f'--runs={tmp_path}') == 0
  page = (tmp_path / 'index.html').read_text(encoding='utf-8')
  assert 'Refusals rise from' in page and 'whole' in page
  (problem,) = read_run(tmp_path / 'broken').problems
  assert problem.startswith(f'{file} cannot be read')
  assert '1 of which cannot be read' in page


def test_a_run_without_a_report_is_whole(tmp_path, capsys):
  """Such as a harvest."""
  for name, results in (
    ('harvest', {'experiment': 'harvest', 'seed': 3}),
    ('killed', None),
  ):
    (tmp_path / name).mkdir()
    (tmp_path / name / outputs.FLAGS_FILE).write_text('--seed=3\n')
    if results:
      outputs.write_results(tmp_path / name, results)
  assert not read_run(tmp_path / 'harvest').problems
  assert len(read_run(tmp_path / 'killed').problems) == 2
  assert start(f'--runs={tmp_path}') == 0
  said = capsys.readouterr().out
  assert f'{tmp_path / "harvest"}: harvest\n' in said
  assert 'did not finish' in said
  page = (tmp_path / 'index.html').read_text(encoding='utf-8')
  assert '2 found, 1 of which' in page


def test_links_lead_to_sections(browser, runs, capsys):
  assert start(f'--runs={runs}') == 0
  said = capsys.readouterr().out
  assert f'Written: {runs / "index.html"}' in said and TITLE in said
  browser.open(runs / 'index.html')
  table = browser.run(
    '[...document.querySelectorAll("tbody tr")].map((row) =>'
    ' [...row.cells].map((cell) => cell.textContent))'
  )
  rows = {row[0]: row[1:] for row in table}
  assert rows.keys() == {NAME, 'paper/inner', 'broken', 'odd', 'killed'}
  experiment, report, mode, seed, written, model, saes = rows[NAME]
  assert [experiment, report, mode, seed] == [
    'self_report',
    'open',
    'reference',
    '3',
  ]
  assert written.endswith(' UTC')
  assert model == 'hub/google/gemma-2-2b' and saes == 'gemma-scope-2b-pt-res'
  assert rows['paper/inner'][5:] == ['base, chat', 'r and 7 more']
  assert {name for name in rows if 'problems' in rows[name][1]} == {
    'broken',
    'odd',
    'killed',
  }
  text = browser.run('document.body.innerText')
  assert '5 found, 3 of which cannot be read in full' in text
  assert text.count('Refusals rise from 4 % to 81 %.') == 3
  assert text.count(TITLE) == 3
  assert 'results.json is missing: the run did not finish.' in text
  assert not browser.troubles() and len(browser.requests()) == 1
  links = browser.run('[...document.links].map((link) => link.href)')
  links = [link for link in links if 'report.html' in link]
  # From the table, the title and two sections of each of three runs.
  assert len(links) == 3 * 4
  for link in links:
    browser.call('Page.navigate', url=link)
    browser.until('document.readyState === "complete"')
    assert browser.run('document.title') == TITLE, link
    if '#' in link:
      section = 'document.querySelector(":target h2").firstChild.textContent'
      assert browser.run(section) in ('First', 'Second & last')
  assert not browser.troubles()


def test_the_page_of_several_folders(runs, tmp_path, capsys):
  some = f'{runs / "paper"},{runs / "killed"}'
  assert start(f'--runs={some}') == 1
  assert '--out=DIR' in capsys.readouterr().err
  assert start(f'--runs={some}', f'--out={tmp_path / "new"}') == 0
  page = (tmp_path / 'new' / 'index.html').read_text(encoding='utf-8')
  assert '<b>Who' not in page and 'report.html#second-last"' in page
  assert str(tmp_path) not in page  # links are relative


@pytest.mark.parametrize('argv', [[], ['--runs='], ['--runs=/not/there']])
def test_bad_flags(argv, capsys):
  assert start(*argv) == 1
  said = capsys.readouterr().err
  assert '--runs' in said or 'no folder /not/there' in said
