"""The binary on the planted world: the circuit, the default, the page."""

import json

import pytest
from safetensors.numpy import load_file

from experiments.circuits import __main__ as trace_circuit
from tests.experiments import worlds
from tests.experiments.circuits import world

FEW = (
  '--questions=4',
  '--num_random=2',
  '--max_new_tokens=4',
  '--rows_per_batch=16',
  '--alpha_unknown=2',
)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return world.write(tmp_path_factory.mktemp('world'))


def test_the_planted_circuit(folder, tmp_path, capsys):
  out = tmp_path / 'out'
  flags = world.arguments(folder, out)
  assert worlds.run(trace_circuit, *flags, *FEW) == 0
  said = capsys.readouterr().out
  # Of 16 questions three differ without their entity, which is few.
  assert 'Whether the model declines or answers by default is open' in said
  assert '(n = 3: all that differs then among 16 questions)' in said
  results = json.loads((out / 'results.json').read_text())
  assert results['metric']['refusals'].keys() == {'sorry'}
  assert results['metric']['answers'].keys() == {'Paris'}
  assert results['metric']['first_token_tells']['value'] == 1
  edits = {edit['name']: edit for edit in results['causes']}
  for name in ('+ unknown', 'unknown ablated'):
    circuit = [c for c in edits[name]['components'] if c['in_circuit']]
    assert [c['name'] for c in circuit] == ['z.1/0 last']
  assert edits['+ unknown']['amount']['alpha'] == 2
  # The known latent reads and writes what no token has.
  for name in ('+ known', 'known ablated'):
    assert not edits[name]['traced']
  effects = load_file(out / 'effects.safetensors')
  assert effects['+ unknown/carried'].shape[1] == len(
    effects['+ unknown/total']
  )
  assert (out / 'report.html').stat().st_size > 1e6
  # Again: nothing is traced anew, and flags.txt is the same run.
  before = (out / 'results.json').read_bytes()
  made = [f.stat().st_mtime_ns for f in sorted(out.glob('causes/*/*'))]
  assert worlds.run(trace_circuit, f'--flagfile={out / "flags.txt"}') == 0
  assert (out / 'results.json').read_bytes() == before
  assert made == [f.stat().st_mtime_ns for f in sorted(out.glob('causes/*/*'))]
  # Other questions: the old answers are thrown away.
  assert worlds.run(trace_circuit, *flags, *FEW, '--questions=3') == 0
  results = json.loads((out / 'results.json').read_text())
  assert results['causes'][0]['questions'] == 6
  assert '--questions=3' in (out / 'flags.txt').read_text()


@pytest.mark.parametrize(
  'argument, said',
  [
    ('--causes=pray', 'steer, ablate'),
    ('--goal=0.2', 'goal is 0.2'),
    ('--run=nowhere', 'nowhere'),
  ],
)
def test_what_is_wrong_is_said_before_any_work(
  folder, tmp_path, capsys, argument, said
):
  flags = world.arguments(folder, tmp_path / 'out')
  assert worlds.run(trace_circuit, *flags, *FEW, argument) == 1
  assert said in capsys.readouterr().err
  assert not (tmp_path / 'out').exists()
