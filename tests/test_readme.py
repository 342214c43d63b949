"""Commands in README and docs are ones that binaries accept; files exist."""

import importlib
import pathlib
import re
import shlex
import subprocess
import sys

from absl import flags
import pytest

from experiments.runs import define_flags

ROOT = pathlib.Path(__file__).parents[1]
PAGES = [ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md'))]
_BLOCK = re.compile(r'```\w*\n(.*?)```', re.DOTALL)


def _read(page: pathlib.Path) -> str:
  return page.read_text('utf-8')


def _commands() -> list[list[str]]:
  """[module, flag, ...] of every `python -m` command of the project."""
  found = []
  for block in _BLOCK.findall(''.join(map(_read, PAGES))):
    for line in block.replace('\\\n', ' ').splitlines():
      if line.startswith('python -m '):
        found.append(shlex.split(line, comments=True)[2:])
  return found


COMMANDS = _commands()


def test_there_are_commands():
  binaries = {
    f'{folder}.{file.stem}'
    for folder in ('experiments', 'tools')
    for file in (ROOT / folder).glob('*.py')
    if "__name__ == '__main__'" in file.read_text('utf-8')
  } | {
    f'experiments.{file.parent.name}'
    for file in (ROOT / 'experiments').glob('*/__main__.py')
  }
  assert binaries <= {module for module, *_ in COMMANDS} | {
    'tools.check_demo',  # `make` calls it
  }


def test_files_that_are_named_exist():
  text = (ROOT / 'README.md').read_text('utf-8')
  named = set(re.findall(r'\btests/[\w/.]*\w', text))
  named |= set(re.findall(r'\]\(([\w./-]+)', text))
  assert named and not [path for path in named if not (ROOT / path).exists()]


@pytest.mark.parametrize(
  'command', COMMANDS, ids=[' '.join(words)[:60] for words in COMMANDS]
)
def test_flags_exist(command):
  """Every flag is one of the binary's, with a value that it accepts."""
  module, *given = command
  values = flags.FlagValues()
  if _is_study(module):
    define_flags(importlib.import_module(module).Settings, values)
    values([module, *given])
    return
  if _defines_flags(module):
    importlib.import_module(module).define_flags(values)
    values([module, *given])
    return
  # Its flags are global, which one process can have only once.
  subprocess.run(
    [sys.executable, '-m', module, *given, '--only_check_args'],
    check=True,
    cwd=ROOT,
    capture_output=True,
  )


def _is_study(module: str) -> bool:
  """Returns True if its flags come from a dataclass, `Settings`."""
  return (ROOT / module.replace('.', '/') / '__main__.py').is_file()


def _defines_flags(module: str) -> bool:
  """Whether its flags can be defined apart from the global ones."""
  text = (ROOT / (module.replace('.', '/') + '.py')).read_text('utf-8')
  return bool(re.search(r'^def define_flags\(\s*values', text, re.MULTILINE))
