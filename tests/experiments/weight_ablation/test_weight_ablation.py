"""The binary on the planted world: without N nobody is declined."""

import json

import numpy as np
import pytest
from safetensors.numpy import save_file
import transformers

from experiments.weight_ablation import __main__ as weight_ablation
import gemma_jax as gj
from tests.experiments import worlds
from tests.experiments.circuits import world
from tests.experiments.steering import planted

FEW = (
  '--questions=3',
  '--num_random=2',
  '--max_new_tokens=4',
  '--rows_per_batch=12',
)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  return world.write(tmp_path_factory.mktemp('world'))


def refusals(results, arm):
  (found,) = [a for a in results['steering']['arms'] if a['name'] == arm]
  return {
    name: scopes['all']['refusal']['count']
    for name, scopes in found['counts'].items()
  }


def test_a_latents_direction(folder, tmp_path, capsys):
  text = tmp_path / 'text.txt'
  text.write_text('Where was born the player Kim1 Lee1?\nParis Paris\n')
  out = tmp_path / 'out'
  flags = [*world.arguments(folder, out), *FEW, f'--text={text}']
  assert worlds.run(weight_ablation, *flags) == 0
  assert 'exact, unknown entities: 0.0%' in capsys.readouterr().out
  results = json.loads((out / 'results.json').read_text())
  assert refusals(results, 'original') == {'known': 0, 'unknown': 6}
  # Here no gain stands behind what writes it: both ways are the same.
  for way in ('exact', 'reference'):
    assert refusals(results, way) == {'known': 0, 'unknown': 0}
    assert max(results['written'][way].values()) < 1e-6
  assert results['written']['original']['embedding'] > 0.1
  by_class = {(r['arm'], r['class']): r for r in results['random']}
  assert by_class['exact', 'unknown']['change'] == -1
  assert by_class['exact', 'unknown']['random'] == [0, 0]
  assert results['text'].keys() == {'exact', 'reference', 'exact, tied'}
  assert results['text']['exact']['kl']['n'] == 2
  lines = (out / 'answers.jsonl').read_text().splitlines()
  assert len(lines) == 12 * (1 + 2 + 2)
  assert (out / 'report.html').stat().st_size > 1e6
  # What was saved answers what was evaluated, in HF.
  hf = transformers.AutoModelForCausalLM.from_pretrained(out / 'exact')
  assert not hf.config.tie_word_embeddings
  assert (out / 'exact' / 'tokenizer.json').is_file()
  embed = gj.load_checkpoint(out / 'exact').embed[...]
  np.testing.assert_allclose(embed @ world.N, 0, atol=1e-6)
  before = (out / 'results.json').read_bytes()
  again = worlds.run(weight_ablation, f'--flagfile={out / "flags.txt"}')
  assert again == 0
  assert (out / 'results.json').read_bytes() == before
  # Other draws are other questions; the old answers are thrown away.
  asked = lambda: [
    json.loads(line)['question']
    for line in (out / 'answers.jsonl').read_text().splitlines()[:12]
  ]
  drawn = {'0': asked()}
  for seed in ('1', '42'):
    other = [*flags, '--num_random=0', '--nosave', f'--seed={seed}']
    assert worlds.run(weight_ablation, *other) == 0
    assert f'--seed={seed}' in (out / 'flags.txt').read_text()
    drawn[seed] = asked()
  assert drawn['0'] != drawn['1'] and len(set(drawn['1'])) == 12
  # The published draw is that of 42, whatever --seed is.
  published = [*other, '--seed=1', '--mode=reference']
  assert worlds.run(weight_ablation, *published) == 0
  assert asked() == drawn['42'] != drawn['1']


def test_a_direction_of_a_file(folder, tmp_path):
  """One that nothing reads: nothing happens, and nothing is saved."""
  path = tmp_path / 'nothing.safetensors'
  save_file({'d': planted.NOTHING[1]}, path)
  out = tmp_path / 'out'
  flags = [*world.arguments(folder, out), *FEW, f'--direction={path}']
  flags += ['--ways=exact', '--nosave', '--num_random=0']
  assert worlds.run(weight_ablation, *flags) == 0
  results = json.loads((out / 'results.json').read_text())
  assert refusals(results, 'exact') == {'known': 0, 'unknown': 6}
  assert results['direction']['cosine_with_latent'] == 0
  assert not results['checkpoints'] and not (out / 'exact').exists()
  assert results['text'] == {} and results['random'] == []


@pytest.mark.parametrize(
  'arguments, said',
  [
    (['--ways=all'], 'exact, reference'),
    (['--direction=nowhere'], 'nowhere'),
    (['--text=nowhere.txt'], 'nowhere.txt'),
  ],
)
def test_what_is_wrong_is_said_before_any_work(
  folder, tmp_path, capsys, arguments, said
):
  flags = world.arguments(folder, tmp_path / 'out')
  assert worlds.run(weight_ablation, *flags, *FEW, *arguments) == 1
  assert said in capsys.readouterr().err
  assert not (tmp_path / 'out').exists()
