"""Ledgers after kills, other runs, and other people's editors."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import textwrap

import pytest

from experiments.knowledge_probing.ledger import Ledger, read_objects

ROOT = pathlib.Path(__file__).parents[3]
OURS = {'model': 'm', 'seed': 0}
ROWS = [
  {'id': 'b', 'text': 'Zoë \u2028 and\nmore', 'p': 0.1 + 0.2},
  {'id': 'a', 'text': '', 'list': [1, None]},
]


def test_rows_come_back_in_order_and_go_on(tmp_path):
  path = tmp_path / 'new' / 'samples.jsonl'
  ledger = Ledger(path, OURS)
  assert ledger.read() == {} and ledger.missing(['a', 'b']) == ['a', 'b']
  ledger.append(ROWS)
  ledger.append([])
  again = Ledger(path, OURS)
  assert list(again.read().values()) == ROWS == list(ledger.read().values())
  assert list(again.read()) == ['b', 'a']
  assert again.missing(['c', 'a', 'd']) == ['c', 'd']
  lines = path.read_text(encoding='utf-8').split('\n')
  assert len(lines) == 3 and lines[2] == ''
  assert lines[0].startswith('{"id": "b", "p": 0.30000000000000004, "text"')
  key = json.loads((tmp_path / 'new' / 'samples.jsonl.key.json').read_text())
  assert key == OURS


@pytest.mark.parametrize('cut', [1, 3, 12])
def test_a_truncated_last_line_is_dropped(tmp_path, cut):
  path = tmp_path / 'samples.jsonl'
  Ledger(path, OURS).append([{'id': 'whole'}, {'id': 'Zoë', 'text': 'ë' * 9}])
  whole = path.read_bytes()
  path.write_bytes(whole[:-cut])  # perhaps inside a character
  ledger = Ledger(path, OURS)
  assert list(ledger.read()) == ['whole']
  assert path.read_bytes() == whole[: whole.index(b'\n') + 1]
  ledger.append([{'id': 'Zoë', 'text': 'ë' * 9}])
  assert path.read_bytes() == whole


def test_a_kill_in_mid_write(tmp_path):
  path = tmp_path / 'samples.jsonl'
  code = """
    import sys
    from experiments.knowledge_probing.ledger import Ledger
    ledger = Ledger(sys.argv[1], {'model': 'm', 'seed': 0})
    i = 0
    while True:
      ledger.append({'id': str(i + k), 'text': 'x' * 20_000} for k in range(9))
      i += 9
      print(i, flush=True)
  """
  process = subprocess.Popen(
    [sys.executable, '-c', textwrap.dedent(code), os.fspath(path)],
    stdout=subprocess.PIPE,
    cwd=ROOT,
    text=True,
  )
  for line in process.stdout:
    told = int(line)
    if told >= 90:
      break
  process.send_signal(signal.SIGKILL)
  process.wait()
  told = int([str(told), *process.stdout.read().split()][-1])
  process.stdout.close()
  ledger = Ledger(path, OURS)
  # All that was reported is there, and what is there is whole.
  assert len(ledger.read()) >= told
  assert list(ledger.read()) == [str(i) for i in range(len(ledger.read()))]
  assert {len(row['text']) for row in ledger.read().values()} == {20_000}


def test_another_identity_is_refused(tmp_path):
  path = tmp_path / 'samples.jsonl'
  Ledger(path, OURS)
  # Nothing is in it yet, so that nothing is lost.
  Ledger(path, {**OURS, 'seed': 1}).append(ROWS)
  with pytest.raises(ValueError, match=r'seed=1 \(now 0\)') as error:
    Ledger(path, OURS)
  assert 'model' not in str(error.value)
  assert Ledger(path, {**OURS, 'seed': 1}).read()
  anew = Ledger(path, OURS, redo=True)
  assert anew.read() == {} and path.read_bytes() == b''
  anew.append(ROWS)
  assert len(Ledger(path, OURS).read()) == 2
  assert Ledger(path, OURS, redo=True).read() == {}


def test_lines_of_nobody_are_refused(tmp_path):
  path = tmp_path / 'samples.jsonl'
  Ledger(path, OURS).append(ROWS)
  (tmp_path / 'samples.jsonl.key.json').unlink()
  with pytest.raises(ValueError, match='samples.jsonl has 2 lines'):
    Ledger(path, OURS)


@pytest.mark.parametrize(
  'content, said',
  [
    (b'{"id": "a"}\n{"id": "b"\n{"id": "c"}\n', 'line 2 is not JSON'),
    (b'{"id": "a"}\n\xff\n', 'line 2 is not JSON.*utf-8'),
    (b'\0\0\0\n', 'line 1 is not'),
    (b'["a"]\n', 'line 1 holds a JSON list'),
    (b'{"id": "a"}\n{"name": "b"}\n', "line 2 has 'id' None"),
    (b'{"id": 7}\n', "line 1 has 'id' 7, expected a text"),
    (b'{"id": "a"}\n{"id": "a"}\n', "line 2 has 'id' 'a', which an earlier"),
  ],
)
def test_malformed_lines(tmp_path, content, said):
  path = tmp_path / 'samples.jsonl'
  Ledger(path, OURS)
  path.write_bytes(content)
  with pytest.raises(ValueError, match=said) as error:
    Ledger(path, OURS)
  assert str(path) in str(error.value)
  assert path.read_bytes() == content


@pytest.mark.parametrize(
  'rows, said',
  [
    ([{'id': 'c'}, {'id': 'a'}], "'a'"),
    ([{'id': 'c'}, {'id': 'c'}], "'c'"),
    ([{'id': 'c', 'p': float('nan')}], 'not JSON compliant'),
    ([{'id': 'c'}, {}], 'None'),
  ],
)
def test_bad_rows_write_nothing(tmp_path, rows, said):
  path = tmp_path / 'samples.jsonl'
  ledger = Ledger(path, OURS)
  ledger.append(ROWS)
  before = path.read_bytes()
  with pytest.raises(ValueError, match=said):
    ledger.append(rows)
  assert path.read_bytes() == before and list(ledger.read()) == ['b', 'a']


def test_windows_line_ends_and_an_empty_file(tmp_path):
  path = tmp_path / 'samples.jsonl'
  path.write_bytes(b'')
  ledger = Ledger(path, OURS)
  ledger.append(ROWS)
  path.write_bytes(path.read_bytes().replace(b'\n', b'\r\n'))
  ledger = Ledger(path, OURS)
  assert list(ledger.read().values()) == ROWS
  ledger.append([{'id': 'c'}])
  assert list(Ledger(path, OURS).read()) == ['b', 'a', 'c']


def test_objects_of_a_file_from_elsewhere(tmp_path):
  path = tmp_path / 'questions.jsonl'
  path.write_bytes('\ufeff{"a": "\u2028"}\r\n\n  \n{"b": 1}'.encode())
  assert read_objects(path) == [(1, {'a': '\u2028'}), (4, {'b': 1})]
  with pytest.raises(FileNotFoundError, match='nothing.jsonl'):
    read_objects(tmp_path / 'nothing.jsonl')
