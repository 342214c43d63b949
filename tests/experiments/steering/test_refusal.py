"""The binary on a planted world in files: a run's latents, and named ones."""

import json

import numpy as np
import pytest

from experiments.steering import refusal
from tests.experiments import worlds

FEW = (
  '--questions=3',
  '--num_random=2',
  '--sweep=0.5',
  '--max_new_tokens=8',
  '--rows_per_batch=12',
)


def steer(world, out, *arguments):
  return worlds.run(
    refusal,
    f'--chat_model={world / "chat"}',
    f'--sae={world / "saes"}',
    f'--entities={world / "entities"}',
    f'--out={out}',
    *arguments,
  )


def arms_of(results, kind):
  return [a for a in results['steering']['arms'] if a['kind'] == kind]


def test_a_runs_latents(world, tmp_path, capsys):
  out = tmp_path / 'out'
  arguments = (f'--run={world / "run"}', '--dose=1', *FEW)
  assert steer(world, out, *arguments) == 0
  said = capsys.readouterr().out
  assert '+ unknown, known entities: 6 of 6 refused, 100.0%' in said
  assert '+ known, unknown entities: 0 of 6 refused' in said
  results = json.loads((out / 'results.json').read_text())
  targets = results['steering']['targets']
  assert targets['unknown']['id'] == 'resid_post.1/0'
  assert targets['unknown']['dose'] == pytest.approx(1)
  assert targets['known']['controls'] == ['resid_post.1/3', 'resid_post.1/4']
  assert targets['known']['controls_drawn'].startswith('as the run chose them')
  assert len(arms_of(results, 'mean difference')) == 2
  lines = (out / 'answers.jsonl').read_text().splitlines()
  assert len(lines) == len(results['steering']['arms']) * 12
  records = [json.loads(line) for line in lines]
  for arm in results['steering']['arms']:
    for name in ('known', 'unknown'):
      of = [
        record['kl']
        for record in records
        if (record['arm'], record['class']) == (arm['name'], name)
      ]
      assert arm['kl'][name]['value'] == pytest.approx(np.mean(of))
      if arm['kind'] == 'original':
        assert set(of) == {0}
  # Where it would decline, it is far from itself.
  answers = [r for r in records if r['arm'] == '- unknown']
  first = [r['kl_first'] for r in answers if r['class'] == 'unknown']
  assert min(first) > max(
    r['kl_first'] for r in answers if r['class'] == 'known'
  )
  assert (out / 'report.html').stat().st_size > 1e6
  # Again: nothing is answered anew, and flags.txt is the same run.
  before = (out / 'results.json').read_bytes()
  assert worlds.run(refusal, f'--flagfile={out / "flags.txt"}') == 0
  assert (out / 'results.json').read_bytes() == before


def test_named_latents(world, tmp_path):
  """One label alone, its dose chosen on validation, uniform controls."""
  out = tmp_path / 'out'
  assert (
    steer(
      world,
      out,
      '--unknown_latent=resid_post.1/0',
      f'--labels={world / "run" / "labels" / "records"}',
      '--goal=0.5',
      '--weight_ablation=',
      *FEW,
    )
    == 0
  )
  results = json.loads((out / 'results.json').read_text())
  (target,) = results['steering']['targets'].values()
  assert target['choice']['split'] == 'validation'
  assert target['choice']['reached'] and target['source'].startswith('chosen')
  assert target['controls_drawn'].startswith('uniform')
  assert len(target['controls']) == 2
  assert 'resid_post.1/0' not in target['controls']
  assert not arms_of(results, 'weight ablation')
  assert not arms_of(results, 'mean difference')


@pytest.mark.parametrize(
  'arguments, said',
  [
    (['--run='], '--run'),
    (['--run=', '--unknown_latent=resid_post.1/0'], '--labels'),
    (['--run=', '--unknown_latent=resid_post.1/99'], 'has 6 latents'),
    (['--run=', '--unknown_latent=resid_post.0/1'], 'no SAE of layer 0'),
    (['--run=', '--unknown_latent=mlp_out.1/1'], 'mlp_out'),
    (['--run=', '--unknown_latent=15'], 'SITE.LAYER/LATENT'),
    (
      [
        '--run=',
        '--unknown_latent=resid_post.1/0',
        '--known_latent=resid_post.1/0',
      ],
      'latent are both resid_post.1/0',
    ),
    (['--run=nowhere', '--dose=1'], 'nowhere'),
    (['--run=RUN', '--dose=1', '--sweep=0.5,-1'], '--sweep=0.5,-1'),
    (['--run=RUN', '--dose=1', '--layers=1'], "flag 'layers'"),
    (['--run=RUN', '--dose=1', '--sweep=a'], '--sweep=a'),
    (['--run=RUN', '--dose=1', '--weight_ablation=all'], 'weight_ablation'),
  ],
)
def test_what_is_wrong_is_said_before_any_work(
  world, tmp_path, capsys, arguments, said
):
  arguments = [a.replace('RUN', str(world / 'run')) for a in arguments]
  assert steer(world, tmp_path / 'out', *arguments) == 1
  assert said in capsys.readouterr().err
  assert not (tmp_path / 'out').exists()
