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
    '.'.join(file.relative_to(ROOT).with_suffix('').parts)
    for folder in ('experiments', 'tools')
    for file in (ROOT / folder).rglob('*.py')
    if "__name__ == '__main__'" in file.read_text('utf-8')
  }
  binaries = {name.removesuffix('.__main__') for name in binaries}
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
  file = _file_of(module)
  text = file.read_text('utf-8')
  binary = lambda: importlib.import_module(
    '.'.join(file.relative_to(ROOT).with_suffix('').parts)
  )
  if re.search(r'^def define_flags\(\s*values', text, re.MULTILINE):
    binary().define_flags(values)
    values([module, *given])
    return
  if re.search(r'^  start\(Settings,', text, re.MULTILINE):
    define_flags(binary().Settings, values)
    values([module, *given])
    return
  # Its flags are global, which one process can have only once.
  subprocess.run(
    [sys.executable, '-m', module, *given, '--only_check_args'],
    check=True,
    cwd=ROOT,
    capture_output=True,
  )


def _file_of(module: str) -> pathlib.Path:
  """The file that `python -m` runs."""
  place = ROOT / module.replace('.', '/')
  return place / '__main__.py' if place.is_dir() else place.with_suffix('.py')
