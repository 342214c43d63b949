"""A tiny world, made from nothing, is public files that public code reads."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest

from experiments import inputs
from experiments.entities import read_entities
from experiments.miniworld.recipes import make_recipe
from experiments.miniworld.world import make_world
import gemma_jax as gj
from sae.formats.loading import load_sae

COMMAND = [sys.executable, '-m', 'tools.train_miniworld', '--size=tiny']


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  out = tmp_path_factory.mktemp('miniworld') / 'tiny'
  done = subprocess.run(
    [*COMMAND, f'--out={out}', '--must_pass=false'],
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr[-2000:]
  return out


def test_what_is_there(folder):
  names = {path.name for path in folder.iterdir()}
  assert names == {
    'base',
    'chat',
    'saes',
    'entities',
    'rare',
    'text.txt',
    'audit.json',
    'run.json',
  }
  found = json.loads((folder / 'audit.json').read_text())['found']
  assert found['shortcut_auroc'] == pytest.approx(0.5, abs=0.03)
  assert len(found['positions_along_known_axis']) == 4
  saes = json.loads((folder / 'audit.json').read_text())['saes']
  assert [one['layer'] for one in saes] == [0, 1, 2, 3]
  assert all(one['entity_fvu'] > 0 < one['entity_l0'] for one in saes)
  assert found['chat_held_out_n'] == 4 * 24 * 3


def test_the_bundled_world_was_trained_by_this_recipe():
  want = json.loads((inputs.BUNDLE / 'run.json').read_text())
  recipe = dataclasses.asdict(make_recipe('small', 0))
  got = json.loads(json.dumps(recipe))
  assert got.keys() == want.keys()
  for name in got:
    assert got[name] == want[name], name


@pytest.mark.parametrize('where', ['tiny', 'bundle'])
def test_no_choice_was_made_on_what_is_tested(folder, where):
  """Test and validation served no tuning, and nothing it was stopped by."""
  size = 'tiny' if where == 'tiny' else 'small'
  world = make_world(make_recipe(size, 0).world)
  root = folder if where == 'tiny' else inputs.BUNDLE
  names = {}
  for kind, group in read_entities(root / 'entities').items():
    for entity in group:
      names.setdefault(entity.split, set()).add(entity.name)
      assert entity.type == kind
  of = lambda *groups: {e.name for g in groups for e in world.entities(g)}
  assert names['test'] == of('held_out', 'unseen')
  assert names['validation'] == of('validation', 'unseen_validation')
  assert names['train'] == of('tuning', 'unseen_train')
  used = of('tuning', 'stopping', 'unseen_stopping')
  assert not used & (names['test'] | names['validation'])
  rare = read_entities(root / 'rare')
  assert {e.name for of in rare.values() for e in of} == of('rare')


@pytest.mark.parametrize('name', ['base', 'chat'])
def test_transformers_loads_it_and_agrees(folder, name):
  transformers = pytest.importorskip('transformers')
  torch = pytest.importorskip('torch')
  theirs = transformers.AutoModelForCausalLM.from_pretrained(
    folder / name, dtype='float32', attn_implementation='eager'
  )
  reader = transformers.AutoTokenizer.from_pretrained(folder / name)
  tokenizer = gj.Tokenizer.from_pretrained(folder / name)
  chat = [{'role': 'user', 'content': 'Where was born the player X?'}]
  text = reader.apply_chat_template(
    chat, tokenize=False, add_generation_prompt=True
  )
  assert text == tokenizer.chat_text(chat)
  ids = reader.apply_chat_template(
    chat, add_generation_prompt=True, return_dict=True
  )['input_ids']
  assert list(ids) == tokenizer.tokenize_chat(chat).ids
  with torch.no_grad():
    want = theirs(torch.tensor([ids])).logits.numpy()
  model = gj.load_checkpoint(folder / name)
  got = gj.run(model, np.array([ids]), logits_at='all').logits
  np.testing.assert_allclose(got, want, atol=1e-4)
  assert (tokenizer.end_of_turn_id in model.config.eos_ids) == (name == 'chat')


def test_saes_say_what_they_read(folder):
  config = gj.load_checkpoint(folder / 'base').config
  files = sorted((folder / 'saes').glob('layer_*/width_*/average_l0_*'))
  assert len(files) == config.num_layers
  for layer, path in enumerate(files):
    sae = load_sae(path)
    assert (sae.origin.site, sae.origin.layer) == ('resid_post', layer)
    assert sae.d_in == config.d_model


def test_done_is_done_and_other_flags_are_refused(folder):
  before = (folder / 'base' / 'model.safetensors').stat().st_mtime_ns
  done = subprocess.run(
    [*COMMAND, f'--out={folder}', '--must_pass=false'], capture_output=True
  )
  assert done.returncode == 0
  assert (folder / 'base' / 'model.safetensors').stat().st_mtime_ns == before
  refused = subprocess.run(
    [*COMMAND, f'--out={folder}', '--seed=1'], capture_output=True, text=True
  )
  assert refused.returncode == 1
  assert 'has the work of another run' in refused.stderr


@pytest.mark.slow
def test_same_bytes_after_a_kill(folder, tmp_path):
  """Killed in pre-training and resumed, it is the world made in one go."""
  out = tmp_path / 'again'
  process = subprocess.Popen([*COMMAND, f'--out={out}', '--must_pass=false'])
  snapshot = out / 'work' / 'base.safetensors'
  while not snapshot.exists():
    assert process.poll() is None
  process.kill()
  process.wait()
  subprocess.run([*COMMAND, f'--out={out}', '--must_pass=false'], check=True)
  for path in sorted(folder.rglob('*.*')):
    again = out / path.relative_to(folder)
    assert path.read_bytes() == again.read_bytes(), path
