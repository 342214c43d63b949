"""The binary that runs all others, with stand-ins for them."""

import dataclasses
import json

import pytest

from experiments.paper import Claim
from experiments.paper import __main__ as reproduce_paper
from experiments.paper.programs import Program
from tests.experiments import worlds

_SCRIPT = """
import json, pathlib, sys
out, value = pathlib.Path(sys.argv[1]), json.loads(sys.argv[2])
with open(out.parent / 'ran.txt', 'a') as file:
  file.write(out.name + '\\n')
if value is None:
  sys.exit(3)
out.mkdir(exist_ok=True)
(out / 'flags.txt').write_text('')
(out / 'results.json').write_text(
  json.dumps({'experiment': out.name, 'value': value})
)
"""


@dataclasses.dataclass(frozen=True, kw_only=True)
class StandIn(Program):
  """Writes its flag as its result, or fails."""

  def command(self, out):
    return ['-c', _SCRIPT, out, self.flags['value']]


def _claim(name, published):
  return Claim(
    section='numbers',
    what=f'of {name}',
    published=published,
    low=published - 0.1,
    high=published + 0.1,
    source='nowhere',
    experiment=name,
    at='value',
  )


@pytest.fixture
def reproduce(tmp_path, monkeypatch):
  """Runs the binary with the values of two programs; what it left."""
  names = ('entity_recognition', 'self_report')
  monkeypatch.setattr(
    reproduce_paper,
    'read_claims',
    lambda family: [_claim(names[0], 1.0), _claim(names[1], 2.0)],
  )

  def run(first, second, *arguments):
    def programs(*_, seed, only=names, **__):
      shared = {'mode': 'default', 'seed': str(seed)}
      found = [
        StandIn(name=names[0], flags={**shared, 'value': first}),
        StandIn(
          name=names[1], flags={**shared, 'value': second}, needs=names[:1]
        ),
      ]
      return [each for each in found if each.name in only]

    monkeypatch.setattr(reproduce_paper, 'programs', programs)
    code = worlds.run(reproduce_paper, f'--out={tmp_path}', *arguments)
    results = json.loads((tmp_path / 'results.json').read_text())
    verdicts = [row['ours']['verdict'] for row in results['claims']]
    ran = (tmp_path / 'ran.txt').read_text().split()
    return code, verdicts, ran

  return run


def test_runs_in_order_and_compares(reproduce, tmp_path, capsys):
  code, verdicts, ran = reproduce('1.05', '3')
  assert (code, verdicts) == (0, ['inside', 'outside'])
  assert ran == ['entity_recognition', 'self_report']
  assert '2 claims: 1 inside, 1 outside' in capsys.readouterr().out
  for page in ('report.html', 'index.html'):
    assert (tmp_path / page).is_file()


def test_the_block_of_the_docs_is_what_the_command_writes(reproduce, tmp_path):
  page = tmp_path / 'page.md'
  text = 'a\n<!-- claims -->\n{}\n<!-- end of claims -->\nb\n'
  page.write_text(text.format('old'))
  reproduce('1.05', '3', f'--docs={page}')
  table = """
2 claims: 1 inside, 1 outside, 0 no interval, 0 missing

| claim | bound | ours | 95 % interval | n | verdict | bound set |
| --- | --- | --- | --- | --- | --- | --- |
| of entity_recognition | 1 [0.9, 1.1] | 1.05 |  |  | inside |  |
| of self_report | 2 [1.9, 2.1] | 3 |  |  | outside |  |
"""
  assert page.read_text() == text.format(table)


def test_a_page_without_a_place_is_refused_before_work(tmp_path, capsys):
  page = tmp_path / 'page.md'
  page.write_text('no marks')
  out = tmp_path / 'out'
  assert worlds.run(reproduce_paper, f'--out={out}', f'--docs={page}') == 1
  assert 'no place for the table' in capsys.readouterr().err
  assert page.read_text() == 'no marks' and not out.exists()


def test_finished_ones_are_not_run_again(reproduce):
  reproduce('1', '2')
  *_, ran = reproduce('1', '2.05')
  assert ran == ['entity_recognition', 'self_report', 'self_report']


def test_failure_is_said_and_what_needs_it_is_left_out(reproduce, capsys):
  code, verdicts, ran = reproduce('null', '2')
  assert (code, verdicts) == (1, ['missing', 'missing'])
  assert ran == ['entity_recognition']
  assert 'exit code 3' in capsys.readouterr().out
  code, verdicts, ran = reproduce('1', '2')
  assert (code, verdicts) == (0, ['inside', 'inside'])


def test_results_of_an_interrupted_rerun_are_not_compared(reproduce):
  reproduce('1', '2')
  _, verdicts, _ = reproduce('null', '2')
  assert verdicts[0] == 'missing'


def test_what_went_on_from_changed_results_runs_again(reproduce):
  """As with another --text, which the first program alone may take."""
  reproduce('1', '2')
  *_, ran = reproduce('1.05', '2')
  assert ran == ['entity_recognition', 'self_report'] * 2


def test_results_of_other_flags_are_not_compared(reproduce, tmp_path):
  reproduce('1', '2')
  code, verdicts, ran = reproduce('1', '2', '--seed=1', '--only=self_report')
  assert (code, verdicts) == (1, ['missing'] * 2)
  assert ran == ['entity_recognition', 'self_report']
  first, second = json.loads((tmp_path / 'results.json').read_text())['claims']
  assert first['ours']['why'].endswith('has finished with other flags')
  assert 'needs entity_recognition' in second['ours']['why']
  # With the first flags all is there as it was.
  assert reproduce('1', '2')[1:] == (['inside'] * 2, ran)
  # Of other results than those that are there now.
  _, verdicts, _ = reproduce('1.05', '2', '--only=entity_recognition')
  assert verdicts == ['inside', 'missing']


@pytest.mark.parametrize('file', ['results.json', '.finished.json'])
@pytest.mark.parametrize('content', ['', '{"claimed', '{}'])
def test_what_is_damaged_runs_again(reproduce, tmp_path, file, content):
  reproduce('1', '2')
  (tmp_path / 'self_report' / file).write_text(content)
  code, verdicts, ran = reproduce('1', '2')
  assert (code, verdicts) == (0, ['inside', 'inside'])
  assert ran == ['entity_recognition', 'self_report', 'self_report']


def test_says_what_is_missing(capsys):
  assert worlds.run(reproduce_paper) == 1
  assert '--out' in capsys.readouterr().err
  assert worlds.run(reproduce_paper, '--out=x', '--family=gemma-2-2b') == 1
  assert '--entities' in capsys.readouterr().err
