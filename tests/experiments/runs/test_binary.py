"""What ends a study with a sentence, and what with a traceback."""

import dataclasses
import pathlib
import re

from absl import flags
import pytest

from experiments import runs
from experiments.runs import binary
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


def run(work) -> int:
  values = flags.FlagValues()
  names = runs.define_flags(Settings, values)
  values(['test', '--out=x'])
  return binary.run(Settings, lambda settings, keep: work(), values, names)


@pytest.mark.parametrize(
  ('work', 'said'),
  [
    (lambda: gj.parse_site('mlp_oot'), 'Error: Unknown site'),
    (lambda: sae.list_saes('gemma-scope-3b'), "Error: 'gemma-scope-3b' is not"),
  ],
)
def test_names_that_users_give(work, said, capsys):
  assert run(work) == 1
  assert capsys.readouterr().err.startswith(said)


def test_a_key_that_a_program_lacks_is_no_error_of_the_user():
  with pytest.raises(KeyError, match='lacking'):
    run(lambda: {}['lacking'])


def test_no_program_takes_its_own_faults_for_the_users():
  for path in EXPERIMENTS.rglob('*.py'):
    for caught in re.findall(
      r'except \(?([^:]*?)\)? as error:\s+return outputs\.failed',
      path.read_text(encoding='utf-8'),
    ):
      broad = {'KeyError', 'TypeError', 'IndexError', 'AttributeError'}
      broad |= {'LookupError', 'Exception'}
      assert not broad & set(re.findall(r'\w+', caught)), path
