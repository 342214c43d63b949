"""The binary on the bundled world, whose entities are known or not by design.

What the model was trained on says where the answer must be: at the name's
tokens in the first layer (all that differs between the prompts), and at the
last token in the last one.
"""

import json
import re

import numpy as np
import pytest

from experiments import inputs
from experiments.entities import read_entities, write_records
from experiments.latents import read_arrays
from experiments.miniworld.world import KNOWN, WorldConfig, make_world
from experiments.patching import MAPS
from experiments.patching import __main__ as patch_activations
from tests.experiments import worlds

KIND = 'player'
PAIRS, L, T, N = 12, 8, 8, 4
FEW = ('--run=', f'--types={KIND}', f'--pairs={PAIRS}')


@pytest.fixture(scope='module')
def labels(tmp_path_factory):
  """Answers as they would be of a model that knows what it was taught."""
  world = make_world(WorldConfig())
  taught = {e.name for group in KNOWN for e in world.entities(group)}
  records = worlds.records(
    read_entities(str(inputs.ENTITIES)), lambda entity: entity.name in taught
  )
  folder = tmp_path_factory.mktemp('labels')
  write_records(folder, records)
  return folder


@pytest.fixture(scope='module')
def out(labels, tmp_path_factory):
  folder = tmp_path_factory.mktemp('out') / 'patching'
  assert (
    worlds.run(
      patch_activations,
      f'--out={folder}',
      f'--labels={labels}',
      '--compare=resid_pre',
      *FEW,
    )
    == 0
  )
  return folder


@pytest.fixture(scope='module')
def results(out):
  return json.loads((out / 'results.json').read_text())


def test_the_answer_moves_from_the_name_to_the_last_token(results):
  found = results['types'][KIND]
  assert found['tokens'][3:5] == ['name 1', 'name 2']
  for direction in ('denoising', 'noising'):
    one = found[direction]
    assert one['defined']
    assert one['differences']['known']['value'] > 4
    assert abs(one['differences']['unknown']['value']) < 1
    assert one['flow'][0]['token'] in (3, 4)
    # A word of a name is known in no other name: the world's own design.
    share = one['flow'][0]['moved']
    assert share['low'] > 0.8 if direction == 'noising' else share['high'] < 0.4
    assert one['flow'][-1]['token'] == T - 1
    assert one['flow'][-1]['moved']['low'] > 0.8
    value = np.array(one['maps']['resid_pre']['moved']['value'])
    assert value.shape == (L, T)
    assert abs(value[0, T - 1]) < 1e-5 and not value[:, :3].any()
    p = np.array(one['maps']['resid_pre']['p_adjusted'], float)
    assert p[-1, -1] <= 0.05
    assert np.isnan(p[:, :3]).all()


def test_costs_and_ends(results):
  costs = results['costs']
  (row,) = costs['maps']
  assert row['largest_difference'] < 1e-4  # of logits, which reach 30
  assert row['operations'] < 2 * row['minimal_operations']
  assert row['naive_operations'] > 4 * row['operations']
  nothing, everything = costs['ends']
  assert abs(nothing['moved']) < 1e-5
  assert everything['moved'] == pytest.approx(1, abs=1e-5)


def test_effects_of_each_pair(out, results):
  shares = read_arrays(out / 'effects.safetensors')
  assert len(shares) == 2 * len(MAPS)
  for name in MAPS:
    one = shares[f'{KIND}/denoising/{name}']
    want = results['types'][KIND]['denoising']['maps'][name]['moved']
    assert one.shape == (L, T if name[0] != 'z' else N, PAIRS)
    assert want['n'] == PAIRS
    np.testing.assert_allclose(one.mean(-1), want['value'], atol=1e-5)
  lines = [json.loads(x) for x in (out / 'pairs.jsonl').open()]
  assert len(lines) == PAIRS
  both = results['types'][KIND]['denoising']['differences']
  known = np.mean([line['known_difference'] for line in lines])
  assert known == pytest.approx(both['known']['value'], rel=1e-4)
  assert re.match('The player .* has played for', lines[0]['known'])


def test_a_page_with_figures(out):
  page = (out / 'report.html').read_text()
  for title in ('Denoising', 'Noising', 'Attribution and exact', 'cost'):
    assert title in page
  # What compiles functions is not drawn: the page's policy forbids it.
  assert '"type":"scatter"' in page and '"type":"scattergl"' not in page


def test_the_same_command_goes_on(out):
  before = (out / 'results.json').read_bytes()
  assert worlds.run(patch_activations, f'--flagfile={out / "flags.txt"}') == 0
  assert (out / 'results.json').read_bytes() == before


def test_only_the_first_by_attribution(out, labels, results, tmp_path):
  """The cells that are run are the same numbers; the others are gaps."""
  folder = tmp_path / 'few'
  assert (
    worlds.run(
      patch_activations,
      f'--out={folder}',
      f'--labels={labels}',
      *FEW,
      '--compare=',
      '--verify=6',
    )
    == 0
  )
  few = json.loads((folder / 'results.json').read_text())
  assert few['types'][KIND]['chosen_on'] == PAIRS / 2
  assert few['costs'] is None
  for name in MAPS:
    some, whole = (
      each['types'][KIND]['denoising']['maps'][name] for each in (few, results)
    )
    value = np.array(some['moved']['value'], float)
    run = np.isfinite(value)
    assert run.sum() == some['cells_run'] == 6
    np.testing.assert_array_equal(
      value[run], np.array(whole['moved']['value'], float)[run]
    )


@pytest.mark.parametrize(
  'arguments, said',
  [
    (['--types=planet'], 'planet'),
    (['--compare=pattern'], 'pattern'),
    (['--relation_tokens=9'], '--relation_tokens'),
    (['--labels=nowhere'], 'nowhere'),
  ],
)
def test_what_is_wrong_is_said_before_any_work(
  labels, tmp_path, capsys, arguments, said
):
  folder = tmp_path / 'out'
  arguments = [f'--out={folder}', f'--labels={labels}', *FEW, *arguments]
  assert worlds.run(patch_activations, *arguments) == 1
  assert said in capsys.readouterr().err
  assert not folder.exists()
