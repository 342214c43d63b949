"""The main job on files of real formats, and its answers to bad input.

A rehearsal: a random Gemma 2 with the layers and heads of 2B but narrow, a
tokenizer with byte fallback, SAEs in Gemma Scope's layout, Wikidata's rows.
What such a model "knows" is made up; that all of it is carried through, and
comes out the same again, is what is tested.
"""

import dataclasses
import json
import re
import shutil

from absl import flags
import jax
import numpy as np
import pytest

from experiments.entities import read_entities, write_entities, write_records
from experiments.entity_recognition import __main__ as entity_recognition
from experiments.entity_recognition.pipeline import RecognitionStages
from experiments.entity_recognition.plan import prepare
from experiments.entity_recognition.settings import Settings
from experiments.inputs import SAESpec
from experiments.inputs.recognition_run import RecognitionRun
from experiments.runs import define_flags, read_flags
import gemma_jax as gj
from sae.formats.gemma_scope import save_gemma_scope
from sae.jumprelu import JumpReLUSAE, Origin, Weights
from tests.experiments import worlds
from tests.gemma_jax.text import tiny_tokenizer
from tests.real_data import SAMPLES

TYPES = ('city', 'player')
LAYERS = (5, 12, 14)
D, F = 32, 64
FEW = (
  '--types=city,player',
  '--questions=2',
  '--num_random=2',
  '--num_permutations=20',
  '--sweep=0.5',
  '--dose=1',
  '--text_documents=30',
)


def config(**changes) -> gj.ModelConfig:
  L = changes.get('num_layers', 26)
  return gj.FAMILIES['gemma2'].config(
    **{
      'num_layers': L,
      'local_layers': tuple(i % 2 == 0 for i in range(L)),
      'd_model': D,
      'd_ff': 48,
      'num_heads': 8,
      'num_kv_heads': 4,
      'head_dim': 8,
      'query_pre_attn_scalar': 8,
      'vocab_size': tiny_tokenizer.ours().vocab_size,
      'eos_ids': (1, 6),
    }
    | changes
  )


def save_model(folder, seed, **changes):
  gj.save_checkpoint(
    gj.init_model(config(**changes), jax.random.key(seed)), folder
  )
  tiny_tokenizer.save(folder)


def save_saes(folder, width=D):
  for layer in LAYERS:
    rng = np.random.default_rng(layer)
    rows = rng.standard_normal((F, width)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    weights = Weights(
      W_enc=jax.numpy.asarray(rows.T),
      W_dec=jax.numpy.asarray(rows),
      b_enc=jax.numpy.zeros(F),
      b_dec=jax.numpy.zeros(width),
      threshold=jax.numpy.full(F, 2.0),
    )
    origin = Origin(site='resid_post', layer=layer)
    save_gemma_scope(JumpReLUSAE(weights, origin), folder, l0=4 + layer)


@pytest.fixture(scope='module')
def world(tmp_path_factory):
  folder = tmp_path_factory.mktemp('rehearsal')
  save_model(folder / 'base', 0)
  save_model(folder / 'it', 1)
  save_saes(folder / 'narrow-scope-2b-pt-res')
  every = read_entities(SAMPLES / 'wikidata')
  chosen = {kind: every[kind][:40] for kind in TYPES}
  write_entities(folder / 'wikidata', chosen)
  write_records(folder / 'labels', records(chosen))
  lines = worlds.texts(40)
  (folder / 'text.txt').write_text('\n'.join(lines) + '\n')
  return folder


def records(entities):
  """Every other entity is known."""
  known = [entity for group in entities.values() for entity in group[::2]]
  return worlds.records(entities, lambda entity: entity in known, samples=10)


def arguments(world, out, *more, **replaced):
  given = {
    'model': world / 'base',
    'chat_model': world / 'it',
    'sae': world / 'narrow-scope-2b-pt-res',
    'entities': world / 'wikidata',
    'labels': world / 'labels',
    'text': world / 'text.txt',
    'out': out,
  } | replaced
  named = [f'--{name}={value}' for name, value in given.items() if value]
  return [*named, *FEW, *more]


def run(world, out, *more, **replaced):
  given = arguments(world, out, *more, **replaced)
  return worlds.run(entity_recognition, *given)


@pytest.fixture(scope='module')
def finished(world, tmp_path_factory):
  out = tmp_path_factory.mktemp('finished') / 'out'
  assert run(world, out) == 0
  return out


def copy(finished, tmp_path):
  """A run may be moved; returns where it is, and its results."""
  out = tmp_path / 'out'
  shutil.copytree(finished, out)
  return out, json.loads((out / 'results.json').read_text())


def harvest(world, out, *more, **replaced):
  """The sums of that stage, by layer."""
  values = flags.FlagValues()
  define_flags(Settings, values)
  values(['x', *arguments(world, out, *more, **replaced)])
  settings = read_flags(Settings, values)
  work = RecognitionStages(prepare(settings), settings)
  people, _ = work.label()
  sums, _, _ = work.harvest(people)
  return {one.layer: one for one in sums}


def test_rehearsal(world, finished, tmp_path, capsys):
  out, results = copy(finished, tmp_path)
  test = results['latents']['entities']['test']
  assert test == {kind: {'known': 8, 'unknown': 8} for kind in TYPES}
  assert [each['layer'] for each in results['latents']['saes']] == list(LAYERS)
  assert results['harvest']['text']['prompts'] == 30
  names = results['splits']['test']['known']['city']
  assert len(names) == 8 and not set(names) & set(
    results['splits']['train']['known']['city']
  )
  its = RecognitionRun(str(out))
  for layer in LAYERS:
    named = SAESpec(
      source=str(world / 'narrow-scope-2b-pt-res'),
      sae_id=f'layer_{layer}/width_64/average_l0_{4 + layer}',
      layer=layer,
    )
    its.check_sae(named, named.load(gj.CheckpointReader(world / 'base')))
  its.check_model('chat', gj.CheckpointReader(world / 'it'))
  original = results['steering']['arms'][0]
  assert original['kind'] == 'original'
  assert original['counts']['known']['all']['n'] == 2 * len(TYPES)
  answers = (out / 'answers.jsonl').read_text().splitlines()
  arms = len(results['steering']['arms'])
  assert len(answers) == arms * 2 * 2 * len(TYPES)
  page = (out / 'report.html').read_text()
  assert 'Which latents know' in page and 'http://' not in page[:2000]

  # Again: every stage is there, and gives the same.
  kept = (out / 'harvest' / 'sums.safetensors').stat().st_mtime_ns
  assert run(world, out) == 0
  said = capsys.readouterr()
  assert 'Estimate' in said.out and str(out / 'report.html') in said.err
  assert json.loads((out / 'results.json').read_text()) == results
  assert (out / 'harvest' / 'sums.safetensors').stat().st_mtime_ns == kept


def test_a_stage_that_was_cut_short_is_made_again(world, finished, tmp_path):
  out, before = copy(finished, tmp_path)
  shutil.rmtree(out / 'latents')
  (out / 'harvest' / 'key.json').unlink()
  assert run(world, out) == 0
  assert json.loads((out / 'results.json').read_text()) == before


def test_saes_that_were_trained_anew_in_the_same_folder(world, tmp_path):
  """Here: their latents in the opposite order."""
  folder = tmp_path / 'narrow-scope-2b-pt-res'
  shutil.copytree(world / 'narrow-scope-2b-pt-res', folder)
  out = tmp_path / 'out'
  first = harvest(world, out, sae=folder)
  for file in folder.rglob('params.npz'):
    weights = dict(np.load(file))
    for name, array in weights.items():
      if name != 'b_dec':
        weights[name] = array[..., ::-1] if name == 'W_enc' else array[::-1]
    np.savez(file, **weights)
  again = harvest(world, out, sae=folder)
  for layer in LAYERS:
    assert (first[layer].active != again[layer].active).any()
    np.testing.assert_array_equal(
      first[layer].active, again[layer].active[:, ::-1]
    )


def test_other_words_of_the_text_are_read_anew(world, tmp_path):
  """They are other places of the same documents."""
  first = harvest(world, tmp_path / 'out')
  again = harvest(world, tmp_path / 'out', '--seed=1')
  fresh = harvest(world, tmp_path / 'fresh', '--seed=1')
  for layer in LAYERS:
    np.testing.assert_array_equal(again[layer].active, fresh[layer].active)
    assert (again[layer].active[-1] != first[layer].active[-1]).any()
    np.testing.assert_array_equal(
      again[layer].active[:-1], first[layer].active[:-1]
    )


def test_labels_of_another_run_are_refused(world, tmp_path, capsys):
  """And what that run leaves stays."""
  out = tmp_path / 'out'
  (out / 'labels' / 'chunks').mkdir(parents=True)
  (out / 'labels' / 'chunks' / '000000.json').write_text('[]')
  (out / 'labels' / 'run.json').write_text('{"seed": 5}')
  (out / 'flags.txt').write_text('--seed=5\n')
  assert run(world, out, labels='') == 1
  assert 'the work of another run' in capsys.readouterr().err
  assert (out / 'flags.txt').read_text() == '--seed=5\n'


def test_other_settings_do_the_steering_again(world, finished, tmp_path):
  """And nothing before it; a run that was killed since goes on."""
  out, before = copy(finished, tmp_path)
  written = lambda stage: {
    file: file.stat().st_mtime_ns
    for file in (out / stage).rglob('*')
    if file.is_file()
  }
  stages = ('harvest', 'latents')
  kept = {stage: written(stage) for stage in stages}
  assert run(world, out, '--dose=0.7') == 0
  after = json.loads((out / 'results.json').read_text())
  assert {stage: written(stage) for stage in stages} == kept
  assert after['steering']['targets']['known']['dose'] == pytest.approx(0.7)
  assert before['steering']['targets']['known']['dose'] == pytest.approx(1.0)

  # As if killed before the last answers and divergences.
  for name in ('answers', 'divergence'):
    max((out / 'steering' / name).glob('0*.json')).unlink()
  kept = written('steering')
  assert run(world, out, '--dose=0.7') == 0
  assert json.loads((out / 'results.json').read_text()) == after
  there = written('steering')
  assert len(there) == len(kept) + 2
  now = {file for file, time in kept.items() if there[file] != time}
  assert {file.name for file in now} <= {'run.json'}


@pytest.mark.parametrize(
  'replaced, expected',
  [
    ({'model': 'nowhere/at/all'}, 'nowhere'),
    ({'sae': 'gemma-scope-9b-pt-res'}, 'is of another model'),
    ({'sae': '{world}/wide'}, r'reads vectors of 48.*has 32'),
    ({'chat_model': '{world}/short'}, r'num_layers=3, the base model .* 26'),
    ({'entities': '{world}/broken'}, r"record 0.*'entity_type'"),
    ({'labels': '{world}/few'}, r'lacks \d+ of the answers'),
    ({'labels': '{world}/unknown_only'}, r'known .* of type .city.'),
    ({'text': '{world}/absent.txt'}, 'no text file'),
  ],
)
def test_bad_input(world, tmp_path, capsys, replaced, expected):
  if not (world / 'wide').exists():
    save_saes(world / 'wide', width=48)
    save_model(world / 'short', 0, num_layers=3)
    shutil.copytree(world / 'wikidata', world / 'broken')
    (world / 'broken' / 'city.json').write_text('[{"entity": "X"}]')
    shutil.copytree(world / 'labels', world / 'few')
    (world / 'few' / 'city_country.json').unlink()
    entities = read_entities(world / 'wikidata')
    write_records(
      world / 'unknown_only',
      {
        name: [
          dataclasses.replace(
            record, string_matching_sampled_labels=('error',) * 10
          )
          for record in group
        ]
        for name, group in records(entities).items()
      },
    )
  replaced = {k: v.format(world=world) for k, v in replaced.items()}
  assert run(world, tmp_path / 'out', **replaced) == 1
  error = capsys.readouterr().err
  assert error.startswith('Error: ')
  assert re.search(expected, error, re.DOTALL), error
  assert not (tmp_path / 'out' / 'results.json').exists()


def test_types_that_are_not_there(world, tmp_path, capsys):
  assert run(world, tmp_path / 'out', '--types=song') == 1
  assert 'no entities of type song' in capsys.readouterr().err
