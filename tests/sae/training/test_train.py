"""Training as a whole: recovery, resuming, logs, and what stops it."""

import functools
import json
import os
import pathlib
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sae.jumprelu import Origin
from sae.training.activation_buffer import ActivationsEnded
from sae.training.logs import read_metrics
from sae.training.monitor import TrainingDiverged
from sae.training.recipe import TrainConfig
from sae.training.train import train
from tools.synthetic_dictionary import SyntheticDictionary

D = 12


def config(**changes):
  defaults = {'batch_size': 32, 'bucket_size': 32 * 10, 'sparsity': 0.02}
  num_steps = changes.pop('num_steps', 40)
  return TrainConfig.short(40, num_steps, **(defaults | changes))


def rows(n=32 * 100, seed=0):
  rng = np.random.default_rng(seed)
  x = rng.standard_normal((n, D)) * np.linspace(0.5, 3, D)
  return x.astype(np.float32)


def pieces(x, size=70):
  return (x[at : at + size] for at in range(0, len(x), size))


def same(a, b):
  for x, y in zip(
    jax.tree.leaves([[s.weights() for s in row] for row in a.saes]),
    jax.tree.leaves([[s.weights() for s in row] for row in b.saes]),
    strict=True,
  ):
    np.testing.assert_array_equal(x, y)


class Killed(Exception):
  pass


def killed_at(x, row):
  """The stream, until a row."""
  at = 0
  for piece in pieces(x):
    if at > row:
      raise Killed
    yield piece
    at += len(piece)


@pytest.mark.parametrize(
  'row', [pytest.param(400, marks=pytest.mark.slow), 900]
)
def test_resumed_equals_uninterrupted_bit_for_bit(tmp_path, row):
  x = rows()
  whole = train(config(), pieces(x), out=tmp_path / 'a', log_every=4)
  with pytest.raises(Killed):
    train(config(), killed_at(x, row), out=tmp_path / 'b', log_every=4)
  resumed = train(config(), pieces(x), out=tmp_path / 'b', log_every=4)
  same(whole, resumed)
  logs = [read_metrics(tmp_path / name) for name in 'ab']
  assert [r['step'] for r in logs[0]] == [r['step'] for r in logs[1]]
  for a, b in zip(*logs, strict=True):
    assert a['loss'] == b['loss'] and a['l0'] == b['l0']
  # Finished: nothing is read or trained again.
  again = train(config(), iter([]), out=tmp_path / 'b')
  same(whole, again)
  assert again.metrics is None


@pytest.mark.slow
def test_killed_again_and_again(tmp_path):
  """kill -9 at random moments; the result is that of a run left alone."""
  command = [sys.executable, '-m', 'tests.sae.training.train_forever']
  root = pathlib.Path(__file__).parents[3]
  environment = os.environ | {'TQDM_DISABLE': '1', 'PYTHONPATH': str(root)}

  def start(folder):
    return subprocess.Popen(
      [*command, str(folder)],
      cwd=root,
      env=environment,
      stdout=subprocess.PIPE,
      stderr=subprocess.DEVNULL,
      text=True,
    )

  alone = start(tmp_path / 'alone')
  want = [line for line in alone.stdout if line.startswith('digest')]
  assert alone.wait() == 0 and len(want) == 1
  rng = np.random.default_rng()  # other moments in every test run
  total = 240 * 32
  kills = sorted(rng.integers(800, total - 400, 2))
  for row in kills:
    run = start(tmp_path / 'killed')
    for line in run.stdout:
      if line.startswith('row') and int(line.split()[1]) >= row:
        run.send_signal(signal.SIGKILL)
        break
    assert run.wait() == -signal.SIGKILL, kills
  last = start(tmp_path / 'killed')
  lines = last.stdout.read().splitlines()
  assert last.wait() == 0
  assert lines[-1] == want[0].strip(), f'kills at rows {kills}'
  first_row = int(lines[0].split()[1])
  assert first_row > 50, 'the last run began anew instead of resuming'


def test_another_configuration_is_not_resumed(tmp_path):
  train(config(num_steps=10), pieces(rows()), out=tmp_path)
  with pytest.raises(ValueError, match=r'sparsity=0.02 \(now 0.5\)'):
    train(config(num_steps=10, sparsity=0.5), pieces(rows()), out=tmp_path)
  with pytest.raises(ValueError, match='of width 12; the stream gives'):
    with pytest.raises(Killed):
      train(config(), killed_at(rows(), 700), out=tmp_path / 'other')
    train(config(), pieces(rows()[:, :5]), out=tmp_path / 'other')
  with pytest.raises(ValueError, match=r'num_steps=10 \(now 5\)'):
    train(config(num_steps=5, decay='none', decay_steps=0), [], out=tmp_path)


@pytest.mark.parametrize('item', ['state/d', 'record'])
def test_a_damaged_checkpoint_is_named(tmp_path, item):
  train(config(num_steps=10), pieces(rows()), out=tmp_path)
  folder = tmp_path / 'checkpoints' / '10' / item
  files = [path for path in folder.iterdir() if path.is_file()]
  assert files
  for path in files:
    path.write_bytes(path.read_bytes()[:10])
  with pytest.raises(ValueError, match='checkpoints/10 cannot be restored'):
    train(config(num_steps=10), pieces(rows()), out=tmp_path)


def test_nan_in_the_activations(tmp_path):
  x = rows()
  x[5, 3] = np.nan
  with pytest.raises(TrainingDiverged, match=r'rows \[5\] .* NaN') as caught:
    train(config(), pieces(x), out=tmp_path / 'first')
  assert caught.value.step == 0 and caught.value.checkpoint is None
  x = rows()
  x[32 * 27, 3] = np.inf  # in the third bucket
  with pytest.raises(TrainingDiverged, match='NaN or infinity') as caught:
    train(config(), pieces(x), out=tmp_path / 'later', log_every=2)
  assert 20 <= caught.value.step < 30
  with pytest.raises(ValueError, match='overflows float32; divide'):
    train(config(), pieces(1e25 * rows()))
  good = caught.value.checkpoint
  assert good == (tmp_path / 'later/checkpoints/20').resolve()
  assert good.is_dir()
  # The checkpoint is good: with the activations mended, training goes on.
  train(config(), pieces(rows()), out=tmp_path / 'later')


def test_divergence(tmp_path):
  wild = config(learning_rate=1e4, threshold_learning_rate=0.01)
  with pytest.raises(TrainingDiverged, match='learning_rate') as caught:
    train(wild, pieces(rows()), out=tmp_path)
  assert caught.value.step < 40


def test_a_large_mean_is_no_divergence():
  """The variance is 2 % of the mean squared norm."""
  data = SyntheticDictionary(32, 48, mean_l0=4.0)
  x = next(data.batches(64 * 100))
  x -= x.mean(0)
  far = np.random.default_rng(0).standard_normal(32)
  x += far * np.sqrt(49 * (x**2).sum(1).mean() / (far**2).sum())
  cfg = TrainConfig.fast(
    d_in=32, width=64, num_steps=100, batch_size=64, sparsity=1e-3
  )
  trained = train(cfg, pieces(x.astype(np.float32)))
  assert trained.metrics[0][0]['fvu'] < 1
  one = np.ones((40, 12), np.float32)  # no variance at all
  train(config(batch_size=1, bucket_size=10), pieces(one))


def test_too_few_activations(tmp_path):
  with pytest.raises(
    ActivationsEnded, match='num_steps=25 .* 20 of 40 updates'
  ):
    train(config(), pieces(rows(n=32 * 25)), out=tmp_path)
  # What was trained is kept, and goes on once there is more.
  whole = train(config(), pieces(rows()))
  same(train(config(), pieces(rows()), out=tmp_path), whole)


def test_logs(tmp_path):
  cfg = config(sparsity=(0.01, 0.05))
  train(cfg, pieces(rows()), out=tmp_path, log_every=10)
  records = read_metrics(tmp_path)
  assert [r['step'] for r in records] == [10, 10, 20, 20, 30, 30, 40, 40]
  assert {r['run'] for r in records} == {'sparsity=0.01', 'sparsity=0.05'}
  assert records[-1]['tokens'] == 40 * 32
  for name in ('loss', 'l0', 'fvu', 'dead', 'window', 'threshold_50'):
    assert all(np.isfinite(r[name]) for r in records)
  assert len(list((tmp_path / 'tensorboard').glob('events.*'))) == 1
  from tensorboardX.proto import event_pb2

  values = {}
  for event in tensorboard_events(tmp_path / 'tensorboard', event_pb2.Event):
    for value in event.summary.value:
      values[value.tag, event.step] = value.simple_value
  for r in records:
    got = values[f'{r["run"]}/l0'.replace('=', '_'), r['step']]
    assert got == pytest.approx(r['l0'], rel=1e-6)


def tensorboard_events(folder, Event):
  """TFRecords: length (8), its checksum (4), the event, its checksum (4)."""
  data = next(folder.glob('events.*')).read_bytes()
  while data:
    n = int.from_bytes(data[:8], 'little')
    yield Event.FromString(data[12 : 12 + n])
    data = data[16 + n :]


def test_a_line_cut_short_by_a_kill_is_dropped(tmp_path):
  train(config(num_steps=10), pieces(rows()), out=tmp_path)
  whole = read_metrics(tmp_path)
  with open(tmp_path / 'metrics.jsonl', 'a') as file:
    file.write(json.dumps(whole[-1])[:40])
  assert read_metrics(tmp_path) == whole


def test_weights_and_biases_is_optional(monkeypatch, tmp_path):
  monkeypatch.setitem(sys.modules, 'wandb', None)
  with pytest.raises(ImportError, match=r'knowledge-awareness-jax\[wandb\]'):
    train(config(), pieces(rows()), wandb_project='p')
  logged, opened = [], []

  class Wandb:
    @staticmethod
    def init(project, config, id, resume):
      opened.append((project, config['width'], id, resume))
      return Wandb

    @staticmethod
    def log(values, step):
      logged.append((step, values))

    @staticmethod
    def finish():
      logged.append('finished')

  monkeypatch.setitem(sys.modules, 'wandb', Wandb)
  train(config(), pieces(rows()), wandb_project='p', log_every=20)
  assert opened == [('p', config().width, None, 'allow')]
  assert logged[-1] == 'finished'
  assert logged[-2][0] == 40 and 'sae/l0' in logged[-2][1]
  # A run that goes on stays one run; one that is over opens none.
  opened.clear()
  run = functools.partial(
    train, config(), out=tmp_path, wandb_project='p', log_every=10
  )
  with pytest.raises(Killed):
    run(killed_at(rows(), 700))
  for _ in range(2):
    run(pieces(rows()))
  assert len(opened) == 2 and opened[0] == opened[1] and opened[0][2]


def test_origins_and_the_only_sae():
  x = np.stack([rows(), rows(seed=1)])
  stream = lambda: (x[:, at : at + 64] for at in range(0, x.shape[1], 64))
  layers = [Origin(site='resid_post', layer=i) for i in (3, 7)]
  trained = train(config(), stream(), origins=layers)
  assert [row[0].origin.layer for row in trained.saes] == [3, 7]
  with pytest.raises(ValueError, match='2 sources with 1 runs'):
    _ = trained.sae
  with pytest.raises(ValueError, match='1 origins for 2 sources'):
    train(config(), stream(), origins=layers[:1])


def test_zero_activations():
  with pytest.raises(ValueError, match='are 0'):
    train(config(), pieces(0 * rows()))


def test_on_a_mesh_resumed_on_one_device(tmp_path):
  """Checkpoints are whole arrays, whatever they were split over."""
  axes = (jax.sharding.AxisType.Auto,) * 2
  mesh = jax.make_mesh((2, 4), ('data', 'model'), axes)
  with pytest.raises(Killed):
    train(
      config(), killed_at(rows(), 700), out=tmp_path, mesh=mesh, log_every=10
    )
  resumed = train(config(), pieces(rows()), out=tmp_path, log_every=10)
  whole = train(config(), pieces(rows()), log_every=10)
  for a, b in zip(resumed.sae.weights(), whole.sae.weights(), strict=True):
    np.testing.assert_allclose(a, b, atol=2e-4)


def test_few_updates_find_a_dictionary():
  """300 of them, at about the true L0."""
  data = SyntheticDictionary(32, 64, mean_l0=3.0)
  cfg = TrainConfig.fast(
    d_in=32,
    width=128,
    num_steps=300,
    batch_size=256,
    bucket_size=2560,
    sparsity=0.03,
  )
  sae = train(cfg, lambda first: data.batches(256, first_row=first)).sae
  x = next(data.batches(4096, first_row=4096 * 1000))
  error = ((np.asarray(sae(x)) - x) ** 2).sum()
  assert error < 0.1 * ((x - x.mean(0)) ** 2).sum()
  assert (sae.encode(x) > 0).sum(1).mean() == pytest.approx(3.0, rel=0.25)
  assert data.recovered(np.asarray(sae.W_dec[...])).mean() > 0.85


@pytest.mark.parametrize(
  'recipe, num_steps, changes',
  [
    (TrainConfig.fast, 1000, {'d_in': 32}),
    (TrainConfig.short, 2500, {'learning_rate': 0.02}),
  ],
)
def test_the_controller_reaches_its_target(recipe, num_steps, changes):
  """From either side, within 5 %, and the dictionary is found."""
  data = SyntheticDictionary(32, 48, mean_l0=4.0, zipf_exponent=0.5)
  cfg = recipe(
    width=64,
    num_steps=num_steps,
    batch_size=256,
    bucket_size=256 * 100,
    sparsity=(1e-3, 0.1),
    target_l0=(4.0, 4.0),
    **changes,
  )
  trained = train(cfg, lambda first: data.batches(256, first_row=first))
  held_out = next(data.batches(8192, first_row=8192 * 1000))
  for sae in trained.saes[0]:
    l0 = float((sae.encode(jnp.asarray(held_out)) > 0).sum(1).mean())
    assert l0 == pytest.approx(4.0, rel=0.05)
    assert data.recovered(np.asarray(sae.W_dec[...])).mean() > 0.9
