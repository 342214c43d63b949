"""The binary on a planted world in files, where attention never moves."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from experiments.attention import shift as shift_attention
from tests.experiments import worlds
from tests.experiments.attention import statements

FEW = ('--num_random=2', '--questions=4')
LATENTS = (
  '--known_latent=resid_post.0/1',
  '--unknown_latent=resid_post.0/0',
)


@pytest.fixture(scope='module')
def base(tmp_path_factory):
  """model/, and saes/ of layer 0: no attention follows the last layer."""
  folder = tmp_path_factory.mktemp('base')
  statements.save(folder / 'model')
  statements.save_saes(folder / 'saes', 0)
  return folder


def shift(world, base, out, *arguments):
  return worlds.run(
    shift_attention,
    f'--model={base / "model"}',
    f'--sae={base / "saes"}',
    *LATENTS,
    f'--entities={world / "entities"}',
    f'--run={world / "run"}',
    f'--out={out}',
    *arguments,
  )


def test_attention_that_is_uniform(world, base, tmp_path, capsys):
  out = tmp_path / 'out'
  assert shift(world, base, out, *FEW) == 0
  said = capsys.readouterr().out
  assert '0 of 2 heads move further than random latents move any' in said
  results = json.loads((out / 'results.json').read_text())
  assert results['prompts']['known'] == {'n': 8, 'entities': 8}
  assert results['added']['known']['dose'] == pytest.approx(0.5)
  examples = [
    json.loads(line) for line in (out / 'examples.jsonl').open(encoding='utf-8')
  ]
  arrays = load_file(out / 'effects.safetensors')
  before = np.concatenate([arrays[f'{c}.before'] for c in ('known', 'unknown')])
  # The planted model attends to all tokens alike, whatever is added.
  sizes = [1 + len(example['text'].split()) for example in examples]  # BOS
  uniform = 1 / np.array(sizes)
  np.testing.assert_allclose(before[:, 1, 0, 0, 0], uniform, rtol=1e-5)
  np.testing.assert_allclose(before[:, 1, 0, 1, 0], 2 * uniform, rtol=1e-5)
  moved = {'attention': [], 'value_weighted': [], 'output_weighted': []}
  for change in results['changes']:
    assert change['num_controls'] == 2
    moved[change['measure']].append(abs(change['mean']['change']['value']))
  assert max(moved['attention']) < 1e-6
  # Values of unknown entities do move: steering changes the stream's norm.
  assert max(moved['value_weighted']) > 1e-3
  assert (out / 'report.html').stat().st_size > 1e6
  again = (out / 'results.json').read_bytes()
  assert worlds.run(shift_attention, f'--flagfile={out / "flags.txt"}') == 0
  assert (out / 'results.json').read_bytes() == again


def test_as_published(world, base, tmp_path):
  out = tmp_path / 'out'
  assert shift(world, base, out, *FEW, '--mode=reference', '--alpha=2') == 0
  results = json.loads((out / 'results.json').read_text())
  assert results['added']['unknown']['alpha'] == 2
  assert results['added']['unknown']['source'] == 'given'
  first = results['changes'][0]
  assert first['reference']['of'] == 2
  assert first['reference']['rejections'] == 0


@pytest.mark.parametrize(
  'arguments, said',
  [
    (['--unknown_latent=resid_post.1/0'], 'no SAE of layer 1'),
    (['--unknown_latent=resid_post.0/99'], 'has 6 latents'),
    (['--labels=nowhere'], 'nowhere'),
  ],
)
def test_what_is_wrong_is_said_before_any_work(
  world,
  base,
  tmp_path,
  capsys,
  arguments,
  said,
):
  out = tmp_path / 'out'
  assert shift(world, base, out, *arguments) == 1
  assert said in capsys.readouterr().err
  assert not out.exists()
