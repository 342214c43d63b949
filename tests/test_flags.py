"""The flags of every program: what is no sensible number never starts one."""

import importlib.util
import pathlib
import re

from absl import app, flags
import pytest

from experiments import runs

ROOT = pathlib.Path(__file__).parent.parent
PROGRAMS = [
  path.relative_to(ROOT).as_posix()
  for folder in ('experiments', 'tools')
  for path in sorted((ROOT / folder).rglob('*.py'))
  if "__name__ == '__main__'" in path.read_text(encoding='utf-8')
  # It does without this project's code, flags included.
  and path.name != 'recompute_demo.py'
]
# Of no use as a number anywhere.
NONSENSE = (
  *('nan', 'inf', '-inf', '1e400', '-1e300', '1e18', str(10**18), '9' * 5000),
  *('one', '1;2', '0x10', '1 2'),
)


@pytest.fixture
def program(request, monkeypatch):
  """A program, imported where no other's flags are defined."""
  absl = {'verbosity': flags.FLAGS['verbosity']}  # which programs set
  monkeypatch.setitem(vars(flags.FLAGS), '__flags', absl)
  for name in ('__flags_by_module', '__key_flags_by_module'):
    monkeypatch.setitem(vars(flags.FLAGS), name, {})
  spec = importlib.util.spec_from_file_location('program', ROOT / request.param)
  program = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(program)
  return program


def define(program) -> dict[str, flags.Flag]:
  """Defines a program's flags in FLAGS; returns them by name."""
  return {
    name: flags.FLAGS[name] for name in runs.define_flags(program.Settings)
  }


def numbers(found) -> dict[str, flags.Flag]:
  return {
    name: flag
    for name, flag in found.items()
    if isinstance(getattr(flag.parser, 'item', flag.parser), runs.Number)
  }


def is_number(text) -> bool:
  try:
    float(text)
  except ValueError:
    return False
  return True


@pytest.mark.parametrize('program', PROGRAMS, indirect=True)
def test_numbers_are_finite_and_bounded(program):
  defined = define(program)
  found = numbers(defined)
  for name, flag in found.items():
    for text in NONSENSE:
      with pytest.raises(
        flags.IllegalFlagValueError, match=f'--{name}=.*must be a'
      ):
        flag.parse(text)
    # In a list, after one that is taken.
    if flag.default and isinstance(flag.default, list):
      with pytest.raises(flags.IllegalFlagValueError, match=f'--{name}='):
        flag.parse(f'{flag.default[0]},nan')
    if 'seed' in name:
      with pytest.raises(flags.IllegalFlagValueError, match='from 0'):
        flag.parse('-1')
  for name, flag in defined.items():
    parts = flag.default if isinstance(flag.default, list) else [flag.default]
    if flag.flag_type() != 'bool' and any(map(is_number, map(str, parts))):
      assert name in found, f'--{name}={flag.default} is not checked.'


@pytest.mark.parametrize(
  'program',
  [
    'experiments/sae_training/train.py',
    'experiments/sae_training/evaluate.py',
    'experiments/factual_recall/__main__.py',
    'tools/convert_sae.py',
  ],
  indirect=True,
)
def test_help_has_the_flags_of_all_modules(program, monkeypatch):
  monkeypatch.setattr(app, 'run', lambda main, **parsing: None)
  runs.start(program.Settings, program.work)
  shown = flags.FLAGS.main_module_help()
  for name in set(flags.FLAGS) - {'verbosity'}:
    assert re.search(rf'--(\[no\])?{name}:', shown), name


@pytest.mark.parametrize(
  ('program', 'useless'),
  [
    ('experiments/patching/__main__.py', {'sae', 'width', 'l0', 'layers'}),
    ('experiments/steering/refusal.py', {'layers'}),
    ('experiments/confounds/__main__.py', {'layers', 'num_random'}),
    ('experiments/attention/knock_out.py', {'layers', 'num_random'}),
  ],
  indirect=['program'],
)
def test_no_program_takes_flags_that_it_does_not_read(program, useless):
  assert not useless & define(program).keys()


def test_programs_are_found():
  assert 'experiments/factual_recall/__main__.py' in PROGRAMS
  assert 'tools/benchmark_sae.py' in PROGRAMS
  assert len(PROGRAMS) >= 31


def test_flags_come_from_dataclasses():
  for folder in ('experiments', 'tools'):
    for path in sorted((ROOT / folder).rglob('*.py')):
      found = 'from absl' in path.read_text(encoding='utf-8')
      inside = path.parent == ROOT / 'experiments' / 'runs'
      assert inside or not found, f'{path} defines flags by hand'
