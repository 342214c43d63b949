"""Checkpoints of training: flipped bits are noticed, and full disks said."""

import json
import resource

import jax
import numpy as np
import pytest

from sae.training.logs import Log, read_metrics
from sae.training.recipe import TrainConfig
from sae.training.snapshots import Snapshots
from sae.training.update import init_state

CONFIG = TrainConfig.short(40, 10, batch_size=32, bucket_size=320)


def state():
  made = init_state(CONFIG, np.ones(1, np.float32), 12, None)
  rng = np.random.default_rng(0)
  noise = lambda x: rng.normal(size=x.shape).astype(np.float32)
  return made._replace(params=jax.tree.map(noise, made.params))


@pytest.fixture(scope='module')
def like():
  return jax.tree.map(jax.numpy.asarray, state())


@pytest.fixture
def folder(tmp_path, like):
  snapshots = Snapshots(tmp_path / 'checkpoints', CONFIG)
  for step in (5, 10):
    snapshots.save(step, like)
  snapshots.close()
  return tmp_path / 'checkpoints'


def restored(folder, like):
  snapshots = Snapshots(folder, CONFIG)
  try:
    return snapshots.restore(like)
  finally:
    snapshots.close()


def test_every_bit_comes_back(folder, like):
  found = restored(folder, like)
  for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(like), strict=True):
    np.testing.assert_array_equal(a, b)


def test_a_flipped_bit_of_an_array_is_noticed(folder, like):
  """Orbax itself gives another number for most of these."""
  arrays = (folder / '10/state/ocdbt.process_0/d').iterdir()
  path = max(arrays, key=lambda path: path.stat().st_size)
  raw = path.read_bytes()
  refused = 0
  for at in range(50, len(raw), len(raw) // 6):
    path.write_bytes(raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :])
    try:
      found = restored(folder, like)
    except ValueError as error:
      assert str(folder / '10') in str(error)
      assert 'Remove that folder to go on from the checkpoint' in str(error)
      refused += 1
    else:  # a bit that no array is read from
      for a, b in zip(
        jax.tree.leaves(found), jax.tree.leaves(like), strict=True
      ):
        np.testing.assert_array_equal(a, b)
  assert refused >= 3


def test_a_checkpoint_without_checksums_is_refused(folder, like):
  path = folder / '10/record/metadata'
  record = json.loads(path.read_text())
  assert record.pop('checksums')
  path.write_text(json.dumps(record))
  with pytest.raises(ValueError, match='10 is damaged, or an earlier version'):
    restored(folder, like)


@pytest.mark.parametrize(
  'content', ['{}', '{"shape": 3, "config": {}}', '[', '']
)
def test_a_damaged_record_is_refused(folder, like, content):
  (folder / '10/record/metadata').write_text(content)
  with pytest.raises(ValueError, match='checkpoints/10.*Remove that folder'):
    restored(folder, like)


def test_a_full_disk_leaves_the_checkpoint_before(folder, like):
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  snapshots = Snapshots(folder, CONFIG)
  resource.setrlimit(resource.RLIMIT_FSIZE, (2500, before[1]))
  try:
    with pytest.raises(OSError, match='checkpoints: a checkpoint could not be'):
      snapshots.save(15, like)
      snapshots.close()
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
  assert not (folder / '15').exists()
  again = Snapshots(folder, CONFIG)
  assert again.latest == 10
  again.close()


def test_a_full_disk_is_said_by_the_log(tmp_path):
  log = Log(tmp_path, num_steps=10, tokens_per_step=1, progress=False)
  metrics = {'l0': 1.0, 'fvu': 2.0, 'dead': 3.0}
  log.write(1, {'run': metrics})
  before = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
  try:
    with pytest.raises(OSError, match=r'metrics\.jsonl could not be .*Make sp'):
      for step in range(2, 40):
        log.write(step, {'run': metrics})
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
  log.close()
  steps = [record['step'] for record in read_metrics(tmp_path)]
  assert steps == list(range(1, len(steps) + 1)) and len(steps) > 3


@pytest.mark.parametrize(
  'line, says',
  [
    ('{"step": 3, "loss"\n', 'line 2 is not JSON'),
    ('\n', 'line 2 is empty'),
    ('[3]\n', 'line 2 holds a list'),
    ('{"step": 3, "loss": NaN}\n', 'line 2 is not JSON: NaN'),
    ('{"step": 3, "step": 4}\n', 'line 2 is not JSON: a key is given twice'),
    ('{"loss": 4}\n', 'line 2: step is None, expected an integer'),
    ('[' * 100_000 + '\n', 'line 2 is nested too deep'),
  ],
)
def test_a_damaged_line_of_the_log_is_named(tmp_path, line, says):
  path = tmp_path / 'metrics.jsonl'
  path.write_text('{"step": 1}\n' + line + '{"step": 9}\n')
  with pytest.raises(ValueError, match=rf'{path}, {says}'):
    read_metrics(tmp_path)
  # What a kill cut short is at the end, without a line break.
  path.write_text('{"step": 1}\n{"step": 3, "lo')
  assert read_metrics(tmp_path) == [{'step': 1}]
