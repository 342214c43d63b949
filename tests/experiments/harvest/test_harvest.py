"""The binary: what it leaves, what it drops, what it refuses."""

import json
import re

from absl import flags
import numpy as np
import pytest
from safetensors.numpy import load_file

from experiments.entities import Entity, write_entities
from experiments.harvest import __main__ as harvest
from experiments.harvest import open_store, plan
from experiments.runs import define_flags, read_flags
from sae import Origin, load_sae, save_gemma_scope
from tests.experiments import worlds
from tests.experiments.activations import small

NAMES = ('Paris', 'San Diego', 'art party', 'The', 'Łódź')
LAYERS = (1, 3)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """A model, SAEs of two layers, entities of two types and a file."""
  folder = tmp_path_factory.mktemp('harvest')
  worlds.save(folder / 'model')
  one = small.saes()[1]
  for layer in LAYERS:
    one.origin = Origin(site='resid_post', layer=layer)
    save_gemma_scope(one, folder / 'saes', l0=5, normalise=True)
  entities = {
    kind: [Entity(name, kind, {attribute: 'x'}) for name in NAMES]
    for kind, attribute in (('city', 'country'), ('song', 'album'))
  }
  write_entities(folder / 'entities', entities)
  return folder


def run(folder, out, *arguments) -> int:
  return worlds.run(
    harvest,
    f'--out={out}',
    f'--model={folder}/model',
    f'--sae={folder}/saes',
    f'--entities={folder}/entities',
    '--batch_size=16',
    *arguments,
  )


def prepare(folder, out, *arguments) -> plan.HarvestPlan:
  """What would be run."""
  values = flags.FlagValues()
  define_flags(harvest.Settings, values)
  values(
    [
      'test',
      f'--out={out}',
      f'--model={folder}/model',
      f'--sae={folder}/saes',
      f'--entities={folder}/entities',
      *arguments,
    ]
  )
  return plan.prepare(read_flags(harvest.Settings, values), lambda: None)


def read(out) -> dict:
  return json.loads((out / 'results.json').read_text())


def test_scores_are_those_of_the_store(folder, tmp_path, capsys):
  out = tmp_path / 'out'
  assert run(folder, out, '--store', '--layers=1,3') == 0
  results = read(out)
  assert results['groups'] == {'city': 5, 'song': 5}
  rows = results['rows']
  assert (rows['prompts'], rows['unique'], rows['dropped']) == (10, 10, {})
  assert rows['tokens'] == ['entity'] and rows['windows'] == [128]
  assert set(results['seconds']) == {'loading', 'store', 'scores'}
  assert set(results['tokens_per_second']) == {'store', 'scores'}
  assert [sae['layer'] for sae in results['saes']] == [1, 3]

  store = open_store(out / 'store')
  assert [row['text'] for row in store.rows[:2]] == [
    "The city 'Paris'",
    "The city 'San Diego'",
  ]
  labels = np.array([row['label'] for row in store.rows])
  assert store.about['model'] == results['model']
  assert store.about['saes'] == results['saes']
  sums = load_file(out / 'sums.safetensors')
  for layer in LAYERS:
    sae = load_sae(folder / 'saes', f'layer_{layer}/width_24/average_l0_5')
    x = store.read('resid_post', layer)
    f = small.latents(sae, x)
    for group, name in enumerate(('city', 'song')):
      of = f'resid_post.{layer}'
      np.testing.assert_array_equal(
        sums[f'{of}/active'][group], (f[labels == name] > 1e-6).sum(0)
      )
      np.testing.assert_allclose(
        sums[f'{of}/total'][group], f[labels == name].sum(0), atol=1e-4
      )
      np.testing.assert_allclose(
        sums[f'{of}/stream_total'][group], x[labels == name].sum(0), atol=1e-4
      )
  said = capsys.readouterr().out
  assert '10 prompts, 10 of them different' in said and 'tokens/s' in said

  # The flags that it wrote repeat it; the store is found, not written again.
  before = (out / 'results.json').read_bytes()
  assert worlds.run(harvest, f'--flagfile={out}/flags.txt') == 0
  assert read(out)['rows'] == json.loads(before)['rows']
  assert read(out)['tokens_per_second']['store'] == 0
  # Another configuration is refused, and nothing is touched.
  kept = (out / 'flags.txt').read_bytes()
  assert run(folder, out, '--store', '--layers=1') == 1
  assert 'layers=' in capsys.readouterr().err
  assert (out / 'flags.txt').read_bytes() == kept


def test_a_file_with_groups_and_what_cannot_be_read(folder, tmp_path):
  lines = [
    {'text': 'The city Paris?', 'entity': 'Paris', 'group': 'known'},
    {'text': 'art', 'id': 'no question'},
    {'text': 'The city Paris?', 'entity': 'Paris', 'group': 'known'},
    {'text': '  '},
    {'text': 'The party is San Diego?', 'entity': [13, 22], 'group': 'other'},
    {'text': 'Parties ' * 70 + '?', 'id': 'long'},
  ]
  file = tmp_path / 'prompts.jsonl'
  file.write_text('\n'.join(map(json.dumps, lines)))
  out = tmp_path / 'out'
  text = f'--text={file}'
  assert run(folder, out, text, '--tokens=?', '--layers=1') == 0
  results = read(out)
  assert results['groups'] == {'known': 1, 'other': 1, 'text': 0}
  rows = results['rows']
  assert (rows['prompts'], rows['unique'], rows['duplicates']) == (5, 2, 1)
  assert sum(rows['dropped'].values()) == 2
  assert {one['id']: one['reason'] for one in rows['dropped_prompts']} == {
    'no question': 'the substring does not occur',
    'long': 'truncated: the token lies outside the window',
  }
  sums = load_file(out / 'sums.safetensors')
  assert sums['resid_post.1/n'].tolist() == [1, 1, 0]

  # The entity of each prompt instead, to a store alone.
  out = tmp_path / 'entities'
  arguments = ['--tokens=entity', '--noscores', '--store', '--layers=1,0']
  made = prepare(folder, out, text, *arguments, '--site=z,hook_resid_pre')
  assert made.sites == ['z', 'resid_pre'] and made.layers == [0, 1]
  assert made.saes == [] and made.num_layers == 2
  assert [made.groups[group] for group in made.group_of] == ['known', 'other']


def test_modes(folder, tmp_path):
  file = tmp_path / 'text.txt'
  documents = [f'{i} {i + 1} {i + 2} {i + 3}' for i in range(100, 140)]
  file.write_text('\n'.join(documents))
  kept = {}
  for mode in ('default', 'reference'):
    arguments = [f'--text={file}', '--window=8', f'--mode={mode}']
    made = prepare(folder, tmp_path / mode, *arguments)
    kept[mode] = len(made.rows)
    assert made.rows.choices == ['random'] and made.rows.denominator == 40
    denominator = {'default': 'valid_positions', 'reference': 'all_documents'}
    assert made.settings.pile_denominator == denominator[mode]
  assert kept['reference'] < kept['default'] == 40


def test_questions(folder, tmp_path):
  made = prepare(folder, tmp_path / 'out', '--prompt=question')
  assert made.rows.texts[0] == (
    "What country contains the city of 'Paris'? The country that contains the "
    "city 'Paris' is"
  )
  assert made.rows.ids[0] == 'city_country/Paris'
  assert made.groups == ['city', 'song'] and len(made.rows) == 10


@pytest.mark.parametrize(
  'arguments, message',
  [
    (['--noscores'], 'nothing to do'),
    (['--layers=2'], 'no SAE of layer 2'),
    (['--layers=9'], 'layers from 0'),
    (['--noscores', '--store', '--layers=7'], 'no layer 7'),
    (['--noscores', '--store', '--site=pattern'], '--site=pattern'),
    (['--tokens=zebra'], 'None of 10 prompts.*substring does not occur'),
    (['--tokens=model'], 'chat=True'),
    (['--text=none.txt'], 'no text file none.txt'),
    (['--entities=none'], 'no folder of entities none'),
  ],
)
def test_bad_input_is_refused_first(
  folder, tmp_path, capsys, monkeypatch, arguments, message
):
  monkeypatch.setattr(harvest, 'load', None)
  assert run(folder, tmp_path / 'out', *arguments) == 1
  error = capsys.readouterr().err
  assert error.startswith('Error: ')
  assert re.search(message, error), error
  assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
  'line, message',
  [
    ({'text': 'The city', 'entity': 'Paris'}, "entity 'Paris' does not stand"),
    ({'text': 'Romeo', 'entity': 'Rome'}, "entity 'Rome' does not stand"),
    ({'text': 'The city', 'entity': [4, 20]}, r'is \[4, 20\]'),
    ({'text': 'The city', 'entity': 7}, "'entity' is 7"),
  ],
)
def test_malformed_lines_are_named(folder, tmp_path, capsys, line, message):
  file = tmp_path / 'prompts.jsonl'
  file.write_text(json.dumps({'text': 'fine'}) + '\n' + json.dumps(line))
  assert run(folder, tmp_path / 'out', f'--text={file}') == 1
  error = capsys.readouterr().err
  assert 'line 2' in error and re.search(message, error), error
