"""What ends a study with a sentence, and what with a traceback."""

import dataclasses
import pathlib
import re

from absl import flags
import jax
import pytest

from experiments import runs
from experiments.runs import binary
from experiments.runs.out_of_memory import explain_out_of_memory
import gemma_jax as gj
import sae

EXPERIMENTS = pathlib.Path(binary.__file__).parents[1]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
  """A study.

  Attributes:
    out: Folder for everything.
  """

  out: str


@pytest.fixture
def run(tmp_path):
  def run(work, **options) -> int:
    values = flags.FlagValues()
    names = runs.define_flags(Settings, values)
    values(['test', f'--out={tmp_path}/out'])
    study = Settings, lambda settings, keep: work()
    return binary.run(*study, values, names, **options)

  return run


@pytest.mark.parametrize(
  ('work', 'said'),
  [
    (lambda: gj.parse_site('mlp_oot'), 'Error: Unknown site'),
    (lambda: sae.list_saes('gemma-scope-3b'), "Error: 'gemma-scope-3b' is not"),
  ],
)
def test_names_that_users_give(run, work, said, capsys):
  assert run(work) == 1
  assert capsys.readouterr().err.startswith(said)


def test_a_key_that_a_program_lacks_is_no_error_of_the_user(run):
  with pytest.raises(KeyError, match='lacking'):
    run(lambda: {}['lacking'])


def test_what_work_returns_is_shown_or_is_the_exit_code(run, capsys):
  assert run(lambda: 'Found.') == 0
  said = capsys.readouterr()
  assert said.out == 'Found.\n' and said.err.startswith('Written: ')
  assert run(lambda: 3) == 3 and run(lambda: 0) == 0
  said = capsys.readouterr()
  assert (said.out, said.err) == ('', '')


def test_memory_that_runs_out(run, capsys):
  def work():
    with explain_out_of_memory('Lower --batch_size.'):
      raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: 7 GB\nat 0x0')

  assert run(work) == 1
  said = capsys.readouterr().err
  assert said.startswith('Error: Lower --batch_size.\nWhat JAX said: RES')
  assert '0x0' not in said


@pytest.mark.parametrize('argument', ['--oot=x', 'x', '--out'])
def test_wrong_flags(argument, capsys):
  values = flags.FlagValues()
  runs.define_flags(Settings, values)
  for refused in (1, 2):
    with pytest.raises(SystemExit) as caught:
      binary.parse(['test', '--out=y', argument], values, refused=refused)
    assert caught.value.code == refused
    assert capsys.readouterr().err.startswith('Error: ')


def test_wrong_input_has_an_exit_code_of_ones_own(run):
  assert run(lambda: gj.parse_site('mlp_oot'), refused=2) == 2


def test_no_program_takes_its_own_faults_for_the_users():
  for path in EXPERIMENTS.rglob('*.py'):
    for caught in re.findall(
      r'except \(?([^:]*?)\)? as error:\s+(?:return )?outputs\.failed',
      path.read_text(encoding='utf-8'),
    ):
      broad = {'KeyError', 'TypeError', 'IndexError', 'AttributeError'}
      broad |= {'LookupError', 'Exception'}
      assert not broad & set(re.findall(r'\w+', caught)), path
