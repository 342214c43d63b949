"""The map of layers and doses on the planted world, whose answer is known."""

import json
import shutil

import numpy as np
import pytest
import scipy.stats

from experiments.steering import layers
from experiments.steering.arms import Arm
from experiments.steering.layer_map import describe
from tests.experiments import worlds


@pytest.fixture(scope='module')
def run(world, tmp_path_factory):
  """A finished run that says which latent is best in its one layer."""
  folder = tmp_path_factory.mktemp('runs') / 'run'
  shutil.copytree(world / 'run', folder)
  file = folder / 'results.json'
  results = json.loads(file.read_text())
  results['latents']['layers'] = {
    label: [{'site': 'resid_post', 'layer': 1, 'latent': latent}]
    for label, latent in (('known', 1), ('unknown', 0))
  }
  file.write_text(json.dumps(results))
  return folder


def steer(world, out, *arguments):
  return worlds.run(
    layers,
    f'--chat_model={world / "chat"}',
    f'--sae={world / "saes"}',
    '--layers=1',
    f'--entities={world / "entities"}',
    f'--out={out}',
    '--questions=3',
    '--max_new_tokens=8',
    '--rows_per_batch=12',
    *arguments,
  )


def test_map(world, run, tmp_path, capsys):
  out = tmp_path / 'out'
  arguments = (f'--run={run}', '--sweep=0.01,1')
  assert steer(world, out, *arguments) == 0
  said = capsys.readouterr().out
  assert 'the largest of 2 cells is resid_post.1/0 at dose 1' in said
  assert '+100 points' in said and 'in layers 1.' in said
  records = json.loads((out / 'results.json').read_text())['map']
  assert len(records) == 2 * 2 * 2  # labels, kinds, doses
  latents = {
    (r['label'], r['dose']): r for r in records if r['kind'] == 'steered'
  }
  # S makes it decline what it knows; its reverse makes it answer the rest.
  for label, refused in (('unknown', 1), ('known', 0)):
    small, large = latents[label, 0.01], latents[label, 1]
    assert small['change']['value'] == 0
    assert large['refused']['value'] == refused
    assert small['kl']['value'] < large['kl']['value']
    assert large['change']['n'] == 6
  # Every number is one of answers.jsonl.
  answers = [json.loads(x) for x in (out / 'answers.jsonl').open()]
  for label in ('known', 'unknown'):
    kl = [
      a['kl']
      for a in answers
      if a['arm'] == f'latent resid_post.1/{label == "known":d} to {label} '
      'at dose 1'
    ]
    assert latents[label, 1]['kl']['value'] == pytest.approx(sum(kl) / len(kl))
  before = (out / 'results.json').read_bytes()
  assert worlds.run(layers, f'--flagfile={out / "flags.txt"}') == 0
  assert (out / 'results.json').read_bytes() == before


@pytest.mark.parametrize(
  ('arguments', 'says'),
  [
    (['--sweep=0'], '--sweep=0'),
    (['--sweep='], '--sweep is empty'),
    (['--sweep=0.1,.10'], '--sweep=0.1,0.1 has a dose twice'),
    (['--run=nowhere'], 'nowhere'),
    (['--run=', '--labels=LABELS'], '--run'),
    (['--layers=0'], 'layer 0'),
  ],
)
def test_errors(world, run, tmp_path, capsys, arguments, says):
  given = [f'--run={run}'] if '--run' not in str(arguments) else []
  labels = str(run / 'labels' / 'records')
  given += [each.replace('LABELS', labels) for each in arguments]
  assert steer(world, tmp_path / 'out', *given) == 1
  assert says in capsys.readouterr().err
  assert not (tmp_path / 'out').exists()


def test_intervals_resample_entities():
  """Two questions per entity that are always the same: half as many units."""
  rng = np.random.default_rng(0)
  arms = [Arm(name='original', kind='original')]
  arms.append(Arm(name='x', kind='steered', site='s', layer=1, dose=1.0))
  flips, refused = rng.random(40) < 0.3, rng.random(40) < 0.5
  asked = [
    {'type': 'city', 'entity': str(i), 'arm': arm.name, 'kl': float(i)}
    | {'outcome': 'refusal' if refused[i] ^ (flips[i] & add) else 'broken'}
    for add, arm in enumerate(arms)
    for i in range(40)
  ]
  once, twice = (
    describe([], {'known': arms}, {'known': asked * times})[0]
    for times in (1, 2)
  )
  for name in ('refused', 'change', 'broken', 'kl'):
    assert twice[name]['n'] == 2 * once[name]['n'] == 80
    for part in ('value', 'low', 'high'):
      assert twice[name][part] == pytest.approx(once[name][part])
  want = scipy.stats.bootstrap(
    [np.where(refused, -1, 1) * flips],
    np.mean,
    n_resamples=20_000,
    method='percentile',
    random_state=1,
  ).confidence_interval
  found = [once['change'][part] for part in ('low', 'high')]
  np.testing.assert_allclose(found, want, atol=0.03)
