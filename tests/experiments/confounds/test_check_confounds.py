"""The binary on the bundled world, whose truth is known.

Two types of MiniWorld with whole matchings of known and of unseen names, in
which every word stands once in each class; labels are the world's own.
"""

import dataclasses
import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from experiments import inputs
from experiments.activations import make_rows
from experiments.confounds import __main__ as check_confounds
from experiments.confounds.prompt_variants import labelled
from experiments.confounds.reselection import best_latents
from experiments.entities import (
  Entity,
  activation_prompt,
  write_entities,
  write_records,
)
from experiments.inputs.study_inputs import known_and_unknown
from experiments.latents import stream_firing
from experiments.miniworld.world import WorldConfig, make_world
from tests.experiments import worlds

TYPES = ('city', 'player')
FEW = (
  '--text_documents=80',
  '--text_window=32',
  '--num_permutations=30',
  '--num_shuffles=12',
  '--num_splits=4',
  '--refusals=3',
  '--max_new_tokens=8',
)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """entities/ of two types, records/ of what is known, familiar/ names.

  And latents.txt, flags that name the best latents of train.
  """
  folder = tmp_path_factory.mktemp('names')
  about = json.loads((inputs.BUNDLE / 'run.json').read_text())
  world = make_world(WorldConfig(**about['world']))
  entities, taught = {}, {e.name for e in world.entities('held_out')}
  for group in ('held_out', 'unseen'):
    for entity in world.entities(group):
      if entity.type in TYPES:
        # Of one split of the world: here all of them are split anew.
        one = dataclasses.replace(entity, split=None)
        entities.setdefault(entity.type, []).append(one)
  write_entities(folder / 'entities', entities)
  write_records(
    folder / 'records',
    worlds.records(entities, lambda entity: entity.name in taught),
  )
  tail = [
    Entity(
      world.lexicon.name(*pair),
      TYPES[i % 2],
      entities[TYPES[i % 2]][0].attributes,
    )
    for i, pair in enumerate(world.pairs['tail'][:40])
  ]
  write_entities(
    folder / 'familiar',
    {kind: [one for one in tail if one.type == kind] for kind in TYPES},
  )
  people = known_and_unknown(entities, folder / 'records')
  lines = [
    f'--{label}_latent={ids[0]}\n' for label, ids in best(people).items()
  ]
  (folder / 'latents.txt').write_text(''.join(lines))
  return folder


def best(people):
  """Label -> ids of one latent, of the layers of `make demo`."""
  reader = inputs.open_model(str(inputs.BASE))
  saes = [
    one.load(reader)
    for one in inputs.choose_saes(
      str(inputs.SAES), reader.config, layers=[1, 2, 3, 4]
    )
  ]
  found, entities = labelled(people, 'train')
  rows = make_rows(
    inputs.read_tokenizer(reader), list(map(activation_prompt, found))
  )
  return best_latents(
    list(stream_firing(reader.load(), saes, rows)),
    entities,
    entities.known,
    np.ones(len(found), bool),
    [np.ones(sae.width, bool) for sae in saes],
    1,
  )


def check(folder, out, *arguments):
  return worlds.run(
    check_confounds,
    f'--entities={folder / "entities"}',
    f'--labels={folder / "records"}',
    f'--familiar={folder / "familiar"}',
    f'--out={out}',
    '--run=',
    f'--flagfile={folder / "latents.txt"}',
    *FEW,
    *arguments,
  )


@pytest.fixture(scope='module')
def out(folder, tmp_path_factory):
  out = tmp_path_factory.mktemp('out') / 'run'
  assert check(folder, out, f'--other_saes={inputs.SAES}') == 0
  return out


@pytest.fixture(scope='module')
def results(out):
  return json.loads((out / 'results.json').read_text())


def latents(found):
  """Those of the two latents, known first."""
  return [one for one in found if one['latent']]


def test_tokens_tell_nothing_and_adjusting_changes_nothing(results):
  alone = results['names_alone']
  assert alone['balance']['auroc'] == pytest.approx(0.5, abs=0.01)
  assert alone['balance']['shuffled']['low'] > 0.65
  for name in ('tokens', 'surprisal', 'token frequency'):
    one = alone['covariates'][name]['mean']
    assert one['low'] <= 0.5 <= one['high']
  for alike, adjusted in zip(
    results['alike'], results['adjusted'], strict=True
  ):
    raw, matched = (alike[way]['difference'] for way in ('raw', 'matched'))
    assert matched['n'] > 100
    assert matched['low'] <= raw['value'] <= matched['high']
    change = adjusted['fires']['change']
    assert abs(change['value']) < 0.03
    # Whole names that text has are the known ones.
    assert alike['matched on name frequency']['n'] == 0
    assert alike['matched on name frequency']['difference']['value'] is None
    assert adjusted['fires, name frequency too']['explained'] > 0.9


def test_latents_know_pairs_not_words(results):
  known, unknown = latents(results['readers'])
  assert known['auroc']['low'] > 0.5 and unknown['auroc']['low'] > 0.7
  known, unknown = (one['kinds'] for one in latents(results['changed']))
  for kind in ('mixed', 'familiar'):
    # As on other names that are unknown.
    fires = unknown[kind]['fires']
    assert fires['high'] > unknown['unknown']['fires']['low']
    assert fires['low'] > unknown['known']['fires']['high']
    assert known[kind]['fires']['high'] < known['known']['fires']['value']
  assert unknown['mixed']['flips']['gained'] > 20
  # Some mixed names are of the world's other known entities.
  assert unknown['mixed']['flips']['lost'] < 10
  assert unknown['mixed']['flips']['p_holm'] < 1e-4
  # It is the pair that is known, under whatever type.
  assert unknown['wrong type']['fires']['value'] < 0.75
  assert any(one.startswith('typo: ') for one in results['skipped'])


def test_the_search_finds_nothing_where_nothing_is(results):
  for label in ('known', 'unknown'):
    one = results['shuffled'][label]
    assert abs(one['mean']['value']) < 0.1
    assert one['observed']['low'] > max(one['shuffled']) - 0.1
    assert results['null'][label]['p_value']['value'] == 1 / 31
    same = results['other_saes'][str(inputs.SAES)][label]
    assert same['counterparts']['by_decoder']['latent'] == same['latent']
    assert same['counterparts']['by_decoder']['cosine'] == pytest.approx(1)
    assert same['counterparts']['by_firing']['firing'] == pytest.approx(1)
    assert len(results['stability'][label]['splits']) == 4


def test_chat_text_and_norms(results, out):
  contexts = latents(results['chat'])[1]['contexts']
  assert contexts['base model']['correlation']['value'] == pytest.approx(1)
  assert all(one['auroc']['low'] > 0.6 for one in contexts.values())
  refusals = results['refusals']
  assert refusals['known']['refused']['n'] == 6
  assert refusals['mixed']['refused']['value'] > 0.5
  assert refusals['familiar']['refused']['value'] > 0.5
  assert [one['layer'] for one in results['norms']['layers']] == list(range(8))
  arrays = load_file(out / 'effects.safetensors')
  n = results['likelihood'][0]['r']['n']
  assert arrays['text_logp'].shape == (n,) and n > 500
  lines = (out / 'examples.jsonl').read_text().splitlines()
  records = [json.loads(line) for line in lines]
  assert arrays['values'].shape == (4, len(records))
  # What is stored gives the numbers again.
  reader = results['readers'][2]
  fires = np.array([r['fires'][reader['name']] for r in records])
  mine = [r['kind'] == 'test' and r['label'] == 'unknown' for r in records]
  assert fires[mine].mean() == pytest.approx(
    reader['fires']['unknown']['value']
  )
  asked = [r for r in records if 'refused' in r and r['kind'] == 'familiar']
  assert len(asked) == refusals['familiar']['refused']['n']
  assert (out / 'report.html').stat().st_size > 1e6


def test_again_nothing_is_run(out, monkeypatch):
  before = (out / 'results.json').read_bytes()
  monkeypatch.setattr(
    'gemma_jax.CheckpointReader.load',
    lambda *_: pytest.fail('the model was loaded'),
  )
  assert worlds.run(check_confounds, f'--flagfile={out / "flags.txt"}') == 0
  assert (out / 'results.json').read_bytes() == before


@pytest.mark.parametrize(
  'arguments, said',
  [
    (['--text=nowhere.txt'], 'nowhere.txt'),
    (['--frequencies=counts.csv'], '.json'),
    (['--other_saes=nowhere'], 'nowhere'),
    (['--familiar=nowhere'], 'nowhere'),
    (['--known_latent=resid_post.6/9999'], '9999'),
  ],
)
def test_what_is_wrong_is_said_before_any_work(
  folder, tmp_path, capsys, arguments, said
):
  assert check(folder, tmp_path / 'out', *arguments) == 1
  assert said in capsys.readouterr().err
  assert not (tmp_path / 'out').exists()
