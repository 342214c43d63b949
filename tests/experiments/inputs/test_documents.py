"""Documents are read as written, and what is malformed is named."""

import hashlib
import json

import pytest

from experiments.inputs import documents
from experiments.inputs.documents import DocumentFile


def write(path, content):
  content = content.encode() if isinstance(content, str) else content
  path.write_bytes(content)
  return path


@pytest.mark.parametrize(
  'separator, content, expected',
  [
    ('line', 'a b\n\n c \r\n  \nd', [(1, 'a b'), (3, ' c '), (5, 'd')]),
    ('blank_line', '\na\nb\n \n\nc\n', [(2, 'a\nb'), (6, 'c')]),
    ('line', '\ufeffa\nb\u2028c\n', [(1, 'a'), (2, 'b\u2028c')]),
  ],
)
def test_text(tmp_path, separator, content, expected):
  path = write(tmp_path / 'a.txt', content)
  file = DocumentFile(path, separator=separator)
  assert list(file.read()) == expected
  scan = file.scan()
  assert scan.num_documents == len(expected)
  assert scan.sha256 == hashlib.sha256(content.encode()).hexdigest()


def test_jsonl(tmp_path):
  lines = [{'body': 'x\ny', 'n': 1}, {'body': ' '}, {'body': 'é'}]
  content = '\n\n'.join(map(json.dumps, lines))
  file = DocumentFile(write(tmp_path / 'a.jsonl', content), field='body')
  assert list(file.read()) == [(1, 'x\ny'), (5, 'é')]
  assert file.scan().num_empty == 1


def test_a_range_is_found_without_reading_from_the_start(tmp_path, monkeypatch):
  monkeypatch.setattr(documents, '_MARK_EVERY', 4)
  content = ''.join(f'{i}\n\n' for i in range(30))
  file = DocumentFile(write(tmp_path / 'a.txt', content))
  before = list(file.read(13, 22))
  file.scan()
  assert len(file._marks) == 8
  assert list(file.read(13, 22)) == before
  assert before == [(2 * i + 1, str(i)) for i in range(13, 22)]
  assert [text for _, text in file.read(28)] == ['28', '29']


@pytest.mark.parametrize(
  'content, expected',
  [
    ('{"text": "a"}\n{"text": \n', r'a\.jsonl, line 2 is not JSON'),
    ('{"text": "a", "n": ' + '9' * 5000 + '}', 'line 1 is not JSON'),
    ('[' * 100_000, 'line 1 is nested too deep'),
    ('{"text": "a", "text": "b"}', "'text' is given twice"),
    ('{"text": "a", "n": NaN}', 'NaN is no JSON number'),
    ('{"text": "a"}\n[1]\n', 'line 2: expected an object .* got a list'),
    ('{"body": "a"}\n', r"line 1: .* got an object with 'body'"),
    ('{"text": 3}\n', "line 1: 'text' is a int, expected a string"),
    ('{"text": "\\ud800"}\n', 'line 1: .* not Unicode'),
    (b'{"text": "\xff"}\n', 'line 1: not UTF-8'),
    ('\n \n', 'has no document'),
    ('', 'has no document'),
  ],
)
def test_malformed(tmp_path, content, expected):
  file = DocumentFile(write(tmp_path / 'a.jsonl', content))
  with pytest.raises(ValueError, match=expected):
    file.scan()


def test_refused_files(tmp_path):
  with pytest.raises(FileNotFoundError, match='no text file .*none.txt'):
    DocumentFile(tmp_path / 'none.txt')
  with pytest.raises(ValueError, match="ends in '.gz'"):
    DocumentFile(write(tmp_path / 'a.gz', 'x'))
