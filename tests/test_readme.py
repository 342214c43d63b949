"""Commands in README and docs are ones that binaries accept; files exist."""

import importlib
import pathlib
import re
import shlex

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
    'tools.recompute_demo',  # a script by itself
  }


def test_readme_takes_a_minute():
  assert len(_read(ROOT / 'README.md').splitlines()) <= 150


def test_files_that_are_named_exist():
  for page in PAGES:
    text = _read(page)
    named = {
      ROOT / path for path in re.findall(r'(?<!\w/)\btests/[\w/.]*\w', text)
    }
    links = re.findall(r'\]\(([\w./-]+)', text)
    named |= {page.parent / path for path in links}
    assert not [path for path in named if not path.exists()], page


@pytest.mark.parametrize(
  'command', COMMANDS, ids=[' '.join(words)[:60] for words in COMMANDS]
)
def test_flags_exist(command):
  """Every flag is one of the binary's, with a value that it accepts."""
  module, *given = command
  if (ROOT / module.replace('.', '/')).is_dir():
    module += '.__main__'
  values = flags.FlagValues()
  define_flags(importlib.import_module(module).Settings, values)
  values([module, *given])
