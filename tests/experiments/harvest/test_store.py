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

from experiments.harvest import open_store, store_writing, write_store
from tests.experiments import worlds
from tests.experiments.activations import small
from tests.experiments.harvest.store_slowly import OPTIONS

ROOT = pathlib.Path(__file__).parents[3]
SLOWLY = 'tests.experiments.harvest.store_slowly'


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


def chunk(site='resid_post', number=2) -> str:
  return f'activations.zarr/{site}/c/{number}/0/0'


@pytest.fixture
def copy(tmp_path, whole):
  """The whole store in a folder that a test may damage."""
  return pathlib.Path(shutil.copytree(whole.folder, tmp_path / 'copy'))


@pytest.mark.parametrize('number', [0, 2, 5])
def test_a_chunk_that_is_gone_is_missed(copy, rows, number):
  (copy / chunk('z', number)).unlink()
  says = f'z/c/{number}/0/0 does not exist.*z of rows {number * 8} .*Remove'
  with pytest.raises(FileNotFoundError, match=says):
    open_store(copy)
  with pytest.raises(FileNotFoundError, match=says):
    write_store(copy, worlds.model(), rows, **OPTIONS)


def test_rows_that_are_not_written_read_as_nan(copy):
  (copy / chunk()).unlink()
  array = zarr.open_array(copy / 'activations.zarr/resid_post', mode='r')
  gone = array[16:24].view(ml_dtypes.bfloat16)
  assert np.isnan(gone.astype('f4')).all()
  assert np.isfinite(array[24:].view(ml_dtypes.bfloat16).astype('f4')).all()


def flip(raw, at):
  return raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]


@pytest.mark.parametrize(
  'damage',
  [
    lambda raw: flip(raw, 0),
    lambda raw: flip(raw, len(raw) - 20),  # in the index
    lambda raw: raw[:64] + bytes(64) + raw[128:],
    lambda raw: bytes(len(raw)),
    lambda raw: raw[:-1],
    lambda raw: raw[4:],
    lambda raw: raw + b'x',
    lambda raw: b'',
  ],
)
def test_a_damaged_chunk_is_refused(copy, damage):
  path = copy / chunk()
  path.write_bytes(damage(path.read_bytes()))
  store = open_store(copy)
  with pytest.raises(ValueError, match=rf'{path}.*Remove the folder'):
    store.read('resid_post', 3)
  # The others are as good as before.
  assert store.read('resid_post', 3, 24).shape == (17, 40)


def edit(path, **changes):
  content = json.loads(path.read_text()) | changes
  path.write_text(json.dumps(content))


@pytest.mark.parametrize(
  'name, damage, says',
  [
    ('rows.jsonl', lambda raw: raw[:-2], 'rows.jsonl is missing or not the'),
    ('rows.jsonl', lambda raw: flip(raw, 12), 'rows.jsonl is missing or not'),
    ('rows.jsonl', lambda raw: b'', 'rows.jsonl is missing or not'),
    ('store.json', lambda raw: raw[:-9], 'store.json is not JSON'),
    ('store.json', lambda raw: b'', 'store.json is empty'),
    (
      'store.json',
      lambda raw: raw.replace(b'    3,\n    1\n', b'    1,\n    3\n'),
      'must say the same',
    ),
    (
      'store.json',
      lambda raw: raw.replace(b'"num_rows": 41', b'"num_rows": 40'),
      'must say the same',
    ),
    (
      'store.json',
      lambda raw: raw.replace(b'"format": 2,', b''),
      'store.json has format None, expected 2: an earlier version',
    ),
    ('progress.json', lambda raw: b'{"rows": "41"}', "has rows '41', expected"),
    ('progress.json', lambda raw: b'{"rows": 48}', 'has 48 rows, expected 41'),
    ('progress.json', lambda raw: b'[41]', 'holds a JSON list'),
    ('activations.zarr/zarr.json', lambda raw: b'{}', 'must say the same'),
  ],
)
def test_a_damaged_description_is_refused(copy, name, damage, says):
  path = copy / name
  path.write_bytes(damage(path.read_bytes()))
  with pytest.raises(ValueError, match=says) as error:
    open_store(copy)
  assert 'Remove the folder, and repeat' in str(error.value)


def test_an_array_of_another_form_is_refused(copy):
  path = copy / 'activations.zarr/resid_post/zarr.json'
  for changes in (
    {'fill_value': 0},
    {'attributes': {}},
    {'shape': [40, 2, 40]},
  ):
    before = path.read_bytes()
    edit(path, **changes)
    with pytest.raises(ValueError, match='resid_post of layer 3 is damaged'):
      open_store(copy).read('resid_post', 3)
    path.write_bytes(before)
  open_store(copy).read('resid_post', 3)


def test_nesting_does_not_crash_the_process(copy, rows):
  path = copy / 'activations.zarr/resid_post/zarr.json'
  path.write_text('{"shape": ' + '[' * 100_000 + ']' * 100_000 + '}')
  with pytest.raises(ValueError, match=f'{path} is nested too deep'):
    open_store(copy)
  edit(copy / 'progress.json', rows=40)
  with pytest.raises(ValueError, match=f'{path} is nested too deep'):
    write_store(copy, worlds.model(), rows, **OPTIONS)


def test_a_store_without_checksums_is_not_gone_on_with(copy, rows):
  edit(copy / 'progress.json', rows=40)
  about = json.loads((copy / 'store.json').read_text())
  del about['format']
  (copy / 'store.json').write_text(json.dumps(about))
  with pytest.raises(ValueError, match=r'format=None \(now 2\)'):
    write_store(copy, worlds.model(), rows, **OPTIONS)


def test_progress_that_no_run_leaves_is_refused(copy, rows):
  edit(copy / 'progress.json', rows=35)
  with pytest.raises(ValueError, match='has 35 rows, expected 41, or whole'):
    write_store(copy, worlds.model(), rows, **OPTIONS)


def test_rows_that_there_are_not(whole):
  for start, stop in ((0, 42), (-1, None), (5, 4)):
    with pytest.raises(IndexError, match='has rows 0 to 40'):
      whole.read('z', 1, start, stop)


def test_a_complete_store_is_not_written_again(whole, rows, monkeypatch):
  monkeypatch.setattr(store_writing, '_fill', None)
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
  refused(r'layers are \[3, 3\], expected each', layers=[3, 3])
  refused(r"sites are \['z', 'z'\], expected each", sites=['z', 'z'])
  refused("dtype is 'int8'", dtype='int8')
  refused('2 labels for 41', labels=['a', 'b'])
  with pytest.raises(FileNotFoundError, match='no store'):
    open_store(tmp_path)


def test_no_space_is_said_before_work_starts(tmp_path, rows, monkeypatch):
  usage = shutil.disk_usage(tmp_path)._replace(free=1000)
  monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage)
  monkeypatch.setattr(store_writing, '_fill', None)
  with pytest.raises(OSError, match='MiB more'):
    write_store(tmp_path / 's', worlds.model(), rows, **OPTIONS)
