"""Docstrings and comments are sentences: what can be told mechanically is."""

import ast
import io
import pathlib
import re
import tokenize

import pytest

ROOT = pathlib.Path(__file__).parent.parent
FILES = [
  path
  for package in ('gemma_jax', 'sae', 'experiments', 'tools')
  for path in sorted((ROOT / package).rglob('*.py'))
]
# A fragment where a sentence, or the description of an argument, begins.
FRAGMENTS = (
  re.compile(r'^\s*(Of|Whether|Likewise)\b'),
  re.compile(r'^\s+[\w*]+(, [\w*]+)*: (Of|Whether|Likewise)\b'),
  re.compile(r': (Its|Theirs|Ditto)\.$'),
)


# A comment that begins with one of these says nothing by itself.
COMMENT = re.compile(r'# (Of|Whether|Likewise|Its|Theirs|Ditto|Or)\b')


def comments(path: pathlib.Path):
  """Yields the first line of every comment."""
  before, text = 0, path.read_text('utf-8')
  for token in tokenize.generate_tokens(io.StringIO(text).readline):
    if token.type == tokenize.COMMENT:
      if token.start[0] != before + 1:
        yield token.string
      before = token.start[0]


def docstrings(path: pathlib.Path):
  for node in ast.walk(ast.parse(path.read_text('utf-8'))):
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    if isinstance(node, kinds) and (text := ast.get_docstring(node, False)):
      yield getattr(node, 'name', path.stem), text


def fragments(text: str) -> list[str]:
  """Lines of a docstring that begin as no sentence does."""
  paragraph, found = True, []
  for line in text.splitlines():
    begins = paragraph or re.match(r'^\s+[\w*]+(, [\w*]+)*: ', line)
    if begins and any(fragment.search(line) for fragment in FRAGMENTS):
      found.append(line.strip())
    paragraph = not line.strip() or line.rstrip().endswith(':')
  return found


@pytest.mark.parametrize(
  ('text', 'count'),
  [
    ('Returns the share\n  of what is known.', 0),
    ('Of all draws.', 1),
    ('A thing.\n\n  Args:\n    seed: Of all draws.', 1),
    ('A thing.\n\n  Args:\n    one, two: Whether it is.', 1),
    ('A thing.\n\n  Args:\n    tokenizer: Its.', 1),
    ('A thing.\n\n  Whether it is so is not known.', 1),
    ('A thing.\n\n  Args:\n    seed: The seed\n      of all draws.', 0),
  ],
)
def test_fragments_are_found(text, count):
  assert len(fragments(text)) == count


def test_docstrings_have_none():
  found = [
    f'{path.relative_to(ROOT)}, {name}: {line}'
    for path in FILES
    for name, text in docstrings(path)
    for line in fragments(text)
  ]
  assert not found, '\n'.join(found)


def test_comments_have_none():
  found = [
    f'{path.relative_to(ROOT)}: {line}'
    for path in FILES
    for line in comments(path)
    if COMMENT.match(line)
  ]
  assert not found, '\n'.join(found)
