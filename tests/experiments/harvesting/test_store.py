"""A store: what plain readers find in it, and what a kill leaves of it."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
import tensorstore as ts
import zarr

from experiments.harvesting import open_store, store, write_store
from tests.experiments import worlds
from tests.experiments.harvesting import small
from tests.experiments.harvesting.store_slowly import OPTIONS

ROOT = pathlib.Path(__file__).parents[3]
SLOWLY = 'tests.experiments.harvesting.store_slowly'


@pytest.fixture(scope='module')
def rows():
  return small.rows()


@pytest.fixture(scope='module')
def whole(tmp_path_factory, rows):
  """A store that was written at once."""
  folder = tmp_path_factory.mktemp('whole') / 'store'
  return write_store(folder, worlds.model(), rows, **OPTIONS)


def files(folder) -> dict[str, bytes]:
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for path in sorted(pathlib.Path(folder).rglob('*'))
    if path.is_file()
  }


def hf(rows, site, *layers) -> np.ndarray:
  """[n, L, W]."""
  seen = [small.hf_activations()[site, layer] for layer in layers]
  return np.array(
    [[x[row][at] for x in seen] for row, at in enumerate(rows.positions)]
  )


def test_plain_readers_find_what_was_gathered(whole, rows):
  expected = hf(rows, 'resid_post', 3, 1)
  path = whole.folder / 'activations.zarr'
  group = zarr.open_group(path, mode='r')
  assert sorted(group.array_keys()) == ['resid_post', 'z']
  assert group.attrs['model'] == 'tiny' and group.attrs['saes'] == ['a', 'b']
  assert group.attrs['complete'] is True
  array = group['resid_post']
  assert array.shape == (41, 2, 40) and array.attrs['layers'] == [3, 1]
  assert array.attrs['holds'] == 'the bits of bfloat16'
  bits = array[:].view(ml_dtypes.bfloat16)
  np.testing.assert_allclose(bits.astype('f4'), expected, rtol=2**-8, atol=1e-4)
  spec = {
    'driver': 'zarr3',
    'kvstore': {'driver': 'file', 'path': str(path / 'resid_post')},
  }
  other = ts.open(spec, read=True).result().read().result()
  np.testing.assert_array_equal(other, array[:])
  for layer, i in ((3, 0), (1, 1)):
    mine = whole.read('resid_post', layer)
    np.testing.assert_array_equal(mine, bits[:, i].astype('f4'))
  np.testing.assert_array_equal(whole.read('z', 1, 30, 35).shape, (5, 64))
  with pytest.raises(KeyError, match=r'layers \[3, 1\] of resid_post, z'):
    whole.read('resid_post', 2)


def test_float32_and_labels(tmp_path, rows):
  labels = [f'group {i}' for i in range(41)]
  options = OPTIONS | {'dtype': None, 'chunk_rows': 100, 'labels': labels}
  made = write_store(tmp_path / 's', worlds.model(), rows, **options)
  array = zarr.open_array(tmp_path / 's/activations.zarr/resid_post', mode='r')
  assert array.dtype == np.float32
  np.testing.assert_array_equal(array[:, 1], made.read('resid_post', 1))
  np.testing.assert_allclose(array[:], hf(rows, 'resid_post', 3, 1), atol=1e-4)
  assert [row['label'] for row in made.rows] == labels


def test_rows_say_where_they_come_from(whole, rows):
  assert len(whole.rows) == len(rows) == 41
  for number, row in enumerate(whole.rows):
    assert row['row'] == number and row['text'] == rows.texts[number]
    assert row['tokens'] == rows.tokens[number].tolist()
    assert row['position'] == rows.positions[number]
  assert whole.about['tokens'] == ['entity', 'random']
  assert whole.about['windows'] == [8192, 24]  # of the window read back


def test_failed_writes_and_a_kill_leave_the_same_bytes(tmp_path, whole, rows):
  folder = tmp_path / 'store'
  # A limit on the size of files fails writes as a full disk does.
  process = subprocess.Popen(
    [sys.executable, '-m', SLOWLY, str(folder), '600'],
    cwd=ROOT,
    env=os.environ | {'JAX_PLATFORMS': 'cpu'},
    stdout=subprocess.PIPE,
    text=True,
  )
  said = []
  for line in process.stdout:
    said.append(line.strip())
    if line == 'rows 32\n':
      process.send_signal(signal.SIGKILL)
      break
  process.wait()
  process.stdout.close()
  error = said.pop(3)
  assert said == ['rows 8', 'rows 16', 'rows 24', 'rows 32']
  assert 'rows up to 32 could not be written' in error
  assert 'Make space' in error and 'File too large' in error

  done = json.loads((folder / 'progress.json').read_text())['rows']
  assert done in (32, 40)
  assert zarr.open_group(folder / 'activations.zarr').attrs['complete'] is False
  with pytest.raises(ValueError, match=f'{done} of 41 rows'):
    open_store(folder)
  # Half a chunk under its own name is not taken for one.
  chunk = folder / f'activations.zarr/resid_post/c/{done // 8}/0/0'
  chunk.parent.mkdir(parents=True, exist_ok=True)
  chunk.write_bytes(b'half')
  resumed = write_store(folder, worlds.model(), rows, **OPTIONS)
  assert resumed.rows == whole.rows
  mine, theirs = files(folder), files(whole.folder)
  assert mine.keys() == theirs.keys()
  assert [name for name in mine if mine[name] != theirs[name]] == []


def test_a_complete_store_is_not_written_again(whole, rows, monkeypatch):
  monkeypatch.setattr(store, '_fill', None)
  before = files(whole.folder)
  write_store(whole.folder, worlds.model(), rows, **OPTIONS)
  assert files(whole.folder) == before


@pytest.mark.parametrize(
  'changes, message',
  [
    ({'layers': [3]}, r'layers=\[3, 1\] \(now \[3\]\)'),
    ({'sites': ['z']}, r"sites=\['resid_post', 'z'\] \(now \['z'\]\)"),
    ({'dtype': 'float32'}, r'dtype=bfloat16 \(now float32\)'),
    ({'provenance': {'model': 'x'}}, r'model=tiny \(now x\), saes='),
    ({'labels': ['x'] * 41}, 'rows_sha256='),
  ],
)
def test_another_configuration_is_refused(whole, rows, changes, message):
  before = files(whole.folder)
  with pytest.raises(ValueError, match=message):
    write_store(whole.folder, worlds.model(), rows, **OPTIONS | changes)
  assert files(whole.folder) == before


def test_bad_input_is_refused(tmp_path, rows):
  def refused(message, **changes):
    with pytest.raises(ValueError, match=message):
      write_store(tmp_path / 's', worlds.model(), rows, **OPTIONS | changes)
    assert not (tmp_path / 's').exists()

  refused('no layer 5', layers=[5])
  refused('pattern has no vector', sites=['pattern'])
  refused("dtype is 'int8'", dtype='int8')
  refused('2 labels for 41', labels=['a', 'b'])
  with pytest.raises(FileNotFoundError, match='no store'):
    open_store(tmp_path)


def test_no_space_is_said_before_work_starts(tmp_path, rows, monkeypatch):
  usage = shutil.disk_usage(tmp_path)._replace(free=1000)
  monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage)
  monkeypatch.setattr(store, '_fill', None)
  with pytest.raises(OSError, match='MiB more'):
    write_store(tmp_path / 's', worlds.model(), rows, **OPTIONS)
