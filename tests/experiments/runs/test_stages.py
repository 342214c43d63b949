"""Stages and chunks: found by what they are of, and by what they hold."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from experiments.latents import read_arrays, write_arrays
from experiments.runs.stages import Chunks, digest, stage

ROOT = pathlib.Path(__file__).parents[3]
IDENTITY = {'model': 'a', 'seeds': (1, 2)}


def make(folder):
  write_arrays(folder / 'x.safetensors', {'x': np.arange(3)})
  (folder / 'about.json').write_text('{"a": 1}')


def test_a_stage_is_found_by_its_identity(tmp_path, capsys):
  assert not stage(tmp_path / 's', IDENTITY, make)
  assert stage(tmp_path / 's', IDENTITY, make)
  assert not stage(tmp_path / 's', IDENTITY | {'model': 'b'}, make)
  assert not capsys.readouterr().err


DAMAGE = {
  'an empty key': lambda at: (at / 'key.json').write_text(''),
  'half a key': lambda at: (at / 'key.json').write_text('{"identity": {'),
  'a list': lambda at: (at / 'key.json').write_text('[]'),
  'no files': lambda at: (at / 'key.json').write_text(
    json.dumps({'identity': json.loads(json.dumps(IDENTITY))})
  ),
  'truncated arrays': lambda at: (at / 'x.safetensors').write_bytes(
    (at / 'x.safetensors').read_bytes()[:-1]
  ),
  'empty arrays': lambda at: (at / 'x.safetensors').write_bytes(b''),
  'other numbers': lambda at: write_arrays(
    at / 'x.safetensors', {'x': np.arange(1, 4)}
  ),
  'other text': lambda at: (at / 'about.json').write_text('{"a": 2}'),
  'a file less': lambda at: (at / 'about.json').unlink(),
  'a folder': lambda at: (
    (at / 'about.json').unlink(),
    (at / 'about.json').mkdir(),
  ),
}


@pytest.mark.parametrize('damage', DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_stage_is_made_again_with_a_word(tmp_path, capsys, damage):
  folder = tmp_path / 's'
  stage(folder, IDENTITY, make)
  damage(folder)
  assert not stage(folder, IDENTITY, make)
  said = capsys.readouterr().err
  assert str(folder) in said and 'made again' in said
  assert read_arrays(folder / 'x.safetensors')['x'].tolist() == [0, 1, 2]
  assert stage(folder, IDENTITY, make)


def test_a_stage_of_another_run_is_taken_by_its_contents(tmp_path):
  """Folders can be moved."""
  stage(tmp_path / 's', IDENTITY, make)
  shutil.move(tmp_path / 's', tmp_path / 't')
  assert stage(tmp_path / 't', IDENTITY, make)


def test_chunks_come_back(tmp_path):
  content = [[1, 2.5, float('nan')], {'a': '\ud800\u2028'}]
  Chunks(tmp_path, IDENTITY).write('0', content)
  kept = Chunks(tmp_path, IDENTITY)
  assert kept.names() == ['0'] and kept.read('1') is None
  assert repr(kept.read('0')) == repr(content)
  nothing = Chunks(None, IDENTITY)
  nothing.write('0', content)
  assert nothing.read('0') is None and nothing.names() == []


@pytest.mark.parametrize(
  'damage, why',
  [
    (lambda text: '', 'cannot be used'),
    (lambda text: text[:-9], 'cannot be used'),
    (lambda text: '[]', 'cannot be used'),
    (lambda text: text.replace('[7]', '[8]'), 'it was changed'),
  ],
)
def test_a_damaged_chunk_is_done_again(tmp_path, capsys, damage, why):
  Chunks(tmp_path, IDENTITY).write('0', [7])
  file = tmp_path / '0.json'
  file.write_text(damage(file.read_text()))
  assert Chunks(tmp_path, IDENTITY).read('0') is None
  said = capsys.readouterr().err
  assert str(file) in said and why in said


def test_chunks_say_whose_they_are(tmp_path, capsys):
  """Those that another run wrote meanwhile are not taken."""
  mine = Chunks(tmp_path, IDENTITY)
  theirs = Chunks(tmp_path, IDENTITY | {'model': 'b'})
  mine.write('0', 'mine')
  theirs.write('1', 'theirs')
  assert mine.read('0') == 'mine' and mine.read('1') is None
  assert 'of other work' in capsys.readouterr().err


def test_chunks_of_another_identity(tmp_path):
  Chunks(tmp_path / 'c', IDENTITY).write('0', 1)
  other = IDENTITY | {'model': 'b'}
  with pytest.raises(ValueError, match='another run, with model=a .now b'):
    Chunks(tmp_path / 'c', other)
  assert Chunks(tmp_path / 'c', IDENTITY).read('0') == 1
  (tmp_path / 'c' / 'run.json').write_text('')
  with pytest.raises(ValueError, match='run.json is empty.*Delete'):
    Chunks(tmp_path / 'c', IDENTITY)
  again = Chunks(tmp_path / 'c', other, redo=True)
  assert again.names() == []
  again.write('0', 2)
  assert Chunks(tmp_path / 'c', other).read('0') == 2


ROWS = [
  {'id': 'b', 'text': 'Zoë \u2028 and\nmore', 'p': 0.1 + 0.2},
  {'id': 'a', 'text': '', 'list': [1, None]},
]


def test_rows_come_back_in_order_and_go_on(tmp_path):
  kept = Chunks(tmp_path / 'new', IDENTITY)
  assert list(kept.rows()) == []
  kept.append(iter(ROWS))
  kept.append([])
  for i in range(10):  # '000010' comes after '000009'
    Chunks(tmp_path / 'new', IDENTITY).append([{'id': i}])
  again = list(Chunks(tmp_path / 'new', IDENTITY).rows())
  assert again == ROWS + [{'id': i} for i in range(10)]
  assert list(Chunks(None, IDENTITY).rows()) == []


def test_rows_with_numbers_that_are_not_finite_write_nothing(tmp_path):
  kept = Chunks(tmp_path, IDENTITY)
  kept.append(ROWS)
  with pytest.raises(ValueError, match='not JSON compliant'):
    kept.append([{'id': 'c'}, {'id': 'd', 'p': float('nan')}])
  assert list(kept.rows()) == ROWS and kept.names() == ['000000']


def test_a_damaged_piece_of_rows_alone_is_lost(tmp_path, capsys):
  kept = Chunks(tmp_path, IDENTITY)
  for row in ROWS:
    kept.append([row])
  file = tmp_path / '000000.json'
  file.write_text(file.read_text()[:-9])
  assert list(Chunks(tmp_path, IDENTITY).rows()) == ROWS[1:]
  assert str(file) in capsys.readouterr().err


def test_a_kill_in_mid_write(tmp_path):
  code = """
    import sys
    from experiments.runs.stages import Chunks
    kept = Chunks(sys.argv[1], {'model': 'm', 'seed': 0})
    i = 0
    while True:
      kept.append({'id': i + k, 'text': 'x' * 20_000} for k in range(9))
      i += 9
      print(i, flush=True)
  """
  process = subprocess.Popen(
    [sys.executable, '-c', textwrap.dedent(code), os.fspath(tmp_path)],
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
  rows = list(Chunks(tmp_path, {'model': 'm', 'seed': 0}).rows())
  # All that was reported is there, and what is there is whole.
  assert len(rows) >= told
  assert [row['id'] for row in rows] == list(range(len(rows)))
  assert {len(row['text']) for row in rows} == {20_000}


def test_digest_tells_all_bytes():
  x = np.arange(12.0).reshape(3, 4)
  every = [x, x.astype(np.float32), x.T, x[::-1], x.reshape(4, 3)]
  assert len({digest(each) for each in every}) == 5
  assert digest(x[:, ::2]) == digest(x[:, ::2].copy())
  assert digest([x, x]) == digest(x, x) != digest(x)
