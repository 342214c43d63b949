"""The binary on a planted world in files: a run's latents, and named ones."""

import json

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import steer_refusal
from experiments.entities import (
  Entity,
  Record,
  write_entities,
  write_records,
)
from experiments.harvesting import GroupSums, write_sums
from experiments.latents import Groups
import gemma_jax as gj
from sae.gemma_scope import save_gemma_scope
from sae.jumprelu import JumpReLUSAE, Origin, Weights
from tests.experiments import worlds
from tests.experiments.steering import planted

# Latent 0 makes the model refuse, latent 1 makes it answer.
ROWS = np.stack([planted.S, -planted.S, *planted.NOTHING])
ATTRIBUTES = {
  'player': {'place_birth': 'Paris', 'date_birth': '1980'},
  'city': {'country': 'Paris', 'location': 'Point(1 2)'},
}
FEW = (
  '--questions=3',
  '--num_random=2',
  '--sweep=0.5',
  '--max_new_tokens=8',
  '--rows_per_batch=12',
)


@pytest.fixture(scope='module')
def world(tmp_path_factory):
  """chat/, saes/, entities/, and a finished run/ with labels and sums."""
  folder = tmp_path_factory.mktemp('world')
  gj.save_checkpoint(planted.model(), folder / 'chat')
  planted.backend().save(str(folder / 'chat' / 'tokenizer.json'))
  width = len(ROWS)
  weights = Weights(
    W_enc=jnp.asarray(ROWS.T),
    W_dec=jnp.asarray(ROWS),
    b_enc=jnp.zeros(width),
    b_dec=jnp.zeros(planted.D),
    threshold=jnp.zeros(width),
  )
  origin = Origin(site='resid_post', layer=planted.LAYER)
  save_gemma_scope(JumpReLUSAE(weights, origin), folder / 'saes', l0=1)

  entities, records = {}, {}
  for names, right in ((planted.ALL_KNOWN, True), (planted.ALL_UNKNOWN, False)):
    for kind, each in names.items():
      for name in each:
        entity = Entity(name, kind, ATTRIBUTES[kind])
        entities.setdefault(kind, []).append(entity)
        for attribute, answer in entity.attributes.items():
          label = 'correct' if right else 'error'
          record = Record(
            entity=name,
            entity_type=kind,
            prompt_type=f'{kind}_{attribute}',
            correct_answer=answer,
            prompt='?',
            question=None,
            greedy_completion='x',
            sampled_completions=('x',) * 3,
            string_matching_greedy_label=label,
            string_matching_sampled_labels=(label,) * 3,
            label=label,
          )
          records.setdefault(record.prompt_type, []).append(record)
  write_entities(folder / 'entities', entities)
  run = folder / 'run'
  write_records(run / 'labels' / 'records', records)
  _write_run(run)
  return folder


def _write_run(run):
  """What steering reads of a finished run."""
  groups = Groups(('city', 'player'))
  rng = np.random.default_rng(0)
  totals = rng.standard_normal((groups.count, planted.D))
  (run / 'harvest').mkdir(parents=True)
  F, G = len(ROWS), groups.count
  sums = GroupSums(
    site='resid_post',
    layer=planted.LAYER,
    n=np.full(G, 5),
    active=np.zeros((G, F), np.int64),
    total=np.zeros((G, F)),
    squares=np.zeros((G, F)),
    stream_total=totals,
    stream_gram=None,
    norm_total=np.ones(G),
  )
  write_sums(run / 'harvest' / 'sums.safetensors', [sums])
  latent = lambda i: f'resid_post.{planted.LAYER}/{i}'
  found = {
    'types': ['city', 'player'],
    'chosen': {'known': [{'id': latent(1)}], 'unknown': [{'id': latent(0)}]},
    'random': {
      'known': {'of': latent(1), 'ids': [latent(3), latent(4)]},
      'unknown': {'of': latent(0), 'ids': [latent(5), latent(2)]},
    },
  }
  results = {'latents': found, 'labels': {'source': 'generated'}}
  (run / 'results.json').write_text(json.dumps(results))


def steer(world, out, *arguments):
  return worlds.run(
    steer_refusal,
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
  assert targets['known']['controls_drawn'] == 'as the run chose them'
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
  assert worlds.run(steer_refusal, f'--flagfile={out / "flags.txt"}') == 0
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
      '--orthogonalise=',
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
  assert not arms_of(results, 'orthogonalised')
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
    (['--run=nowhere', '--dose=1'], 'nowhere'),
    (['--run=RUN', '--dose=1', '--sweep=0.5,-1'], '--sweep=0.5,-1'),
    (['--run=RUN', '--dose=1', '--layers=1'], '--layers'),
    (['--run=RUN', '--dose=1', '--sweep=a'], '--sweep=a'),
    (['--run=RUN', '--dose=1', '--orthogonalise=all'], 'orthogonalise'),
  ],
)
def test_what_is_wrong_is_said_before_any_work(
  world, tmp_path, capsys, arguments, said
):
  arguments = [a.replace('RUN', str(world / 'run')) for a in arguments]
  assert steer(world, tmp_path / 'out', *arguments) == 1
  assert said in capsys.readouterr().err
  assert not (tmp_path / 'out').exists()
