"""What experiments after recognition work on, from flags."""

import dataclasses
import functools
import shutil

from absl import flags
import pytest

from experiments.entities import (
  Entity,
  read_entities,
  write_entities,
  write_records,
)
from experiments.inputs import sae_fingerprint
from experiments.inputs.settings import (
  BaseStudy,
  ChatStudy,
  ControlledLatents,
  SAELayers,
)
from experiments.inputs.study_inputs import open_inputs
from experiments.runs import define_flags, outputs, read_flags
from sae.formats.gemma_scope import save_gemma_scope
from sae.jumprelu import JumpReLUSAE
from tests.experiments import worlds
from tests.experiments.steering import planted, planted_files


@dataclasses.dataclass(frozen=True, kw_only=True)
class Latents(ChatStudy, ControlledLatents):
  """A study of chosen latents."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layers(ChatStudy, SAELayers):
  """A study of the chat model, of no latent in particular."""


def _open(*arguments, model='chat', latents=True):
  chat = Latents if latents else Layers
  settings = chat if model == 'chat' else BaseStudy
  values = flags.FlagValues()
  define_flags(settings, values)
  values(['x', *arguments])
  given = read_flags(settings, values)
  keep_flags = functools.partial(
    outputs.write_flags, given.out, values, ['out']
  )
  return open_inputs(given, keep_flags)


@pytest.fixture
def given(world):
  return (
    f'--chat_model={world / "chat"}',
    f'--sae={world / "saes"}',
    f'--entities={world / "entities"}',
    f'--out={world / "out"}',
  )


def test_of_a_run(world, given):
  found = _open(*given, f'--run={world / "run"}', '--num_random=2')
  assert found.run == str(world / 'run')
  assert found.people.types == ('city', 'player')
  assert set(found.targets) == {'known', 'unknown'}
  for target in found.targets.values():
    assert len(target.controls) == 2
    assert target.mean_difference is not None
  assert found.drawn['known'].startswith('as the run chose them, of the same')


def test_of_labels_and_named_latents(world, given):
  found = _open(
    *given,
    f'--labels={world / "run" / "labels" / "records"}',
    '--unknown_latent=resid_post.1/0',
  )
  assert found.run is None
  assert set(found.targets) == {'unknown'}
  assert 'uniform' in found.drawn['unknown']


def test_without_latents(world, given):
  run = f'--run={world / "run"}'
  assert _open(*given, run, latents=False).targets == {}


@pytest.mark.parametrize(
  ('arguments', 'says'),
  [
    ([], 'make demo'),
    (['--run='], '--known_latent'),
    (['--run=nowhere'], 'nowhere'),
  ],
)
def test_errors(given, arguments, says, monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)  # no out/demo here
  with pytest.raises((ValueError, OSError), match=says):
    _open(*given, *arguments)


def test_splits_are_the_runs(world, given, tmp_path):
  """Whatever other entities there are, and whatever folder they are in."""
  run = tmp_path / 'moved'
  shutil.copytree(world / 'run', run)
  shutil.rmtree(run / 'labels')  # which nobody needs any more
  entities = read_entities(world / 'entities')
  entities['city'] += [
    Entity(f'More{i} Town{i}', 'city', entities['city'][0].attributes)
    for i in range(9)
  ]
  more = tmp_path / 'more'
  write_entities(more, entities)
  people = _open(*given, f'--run={run}', latents=False).people
  again = _open(
    *given, f'--run={run}', f'--entities={more}', latents=False
  ).people
  assert again == people
  tested = people.names()['test']['known']['city']
  assert len(tested) == 4 and set(tested) <= set(planted.ALL_KNOWN['city'])


def test_labels_may_not_put_what_was_trained_on_into_test(
  world, given, tmp_path
):
  """More entities are split anew: some of train would be in test."""
  entities = read_entities(world / 'entities')
  fewer = {kind: found[1:] for kind, found in entities.items()}
  known = lambda entity: entity.name in planted.ALL_KNOWN[entity.type]
  write_records(tmp_path / 'fewer', worlds.records(fewer, known))
  run = f'--run={world / "run"}'
  same = f'--labels={world / "run" / "labels" / "records"}'
  opened = lambda *more: _open(*given, run, *more, latents=False)
  assert opened(same).people == opened().people
  with pytest.raises(ValueError, match='chose its latents on'):
    opened(f'--labels={tmp_path / "fewer"}')


def test_entities_of_the_run_are_missing(world, given, tmp_path):
  entities = read_entities(world / 'entities')
  write_entities(tmp_path, {'city': entities['city']})
  with pytest.raises(
    ValueError, match='no entities of type player, only of city'
  ):
    _open(
      *given,
      f'--run={world / "run"}',
      f'--entities={tmp_path}',
      latents=False,
    )


def test_saes_are_the_runs(world, given, tmp_path):
  """Of the same shape, and in the same place: only the numbers differ."""
  given = (*given, '--num_random=2')
  run = f'--run={world / "run"}'
  moved = tmp_path / 'moved'
  shutil.copytree(world / 'saes', moved)
  assert _open(*given, run, f'--sae={moved}').targets
  other = tmp_path / 'other'
  rows = planted.ROWS[[2, 1, 0, 3, 4, 5]]
  save_gemma_scope(planted_files.sae(rows, planted.LAYER), other, l0=1)
  says = f'chose latents of planted .*{other}.*another SAE'
  with pytest.raises(ValueError, match=says):
    _open(*given, run, f'--sae={other}')
  opened = _open(
    *given[:-1], run, f'--sae={other}', '--layers=1', latents=False
  )
  with pytest.raises(ValueError, match=says):
    opened.sae(planted.LAYER)
  # A latent that the run did not choose is of whichever SAE is given.
  named = ['--known_latent=resid_post.1/5', '--unknown_latent=resid_post.1/4']
  assert _open(*given, run, f'--sae={other}', *named).targets


def test_the_last_layer_has_an_sae_too(world, given):
  """It is not among those searched, but a latent in it can be named."""
  opened = _open(*given, f'--run={world / "run"}', '--num_random=2')
  assert opened.sae(planted.LAYER).origin.layer == planted.LAYER
  with pytest.raises(ValueError, match='no SAE of layer 0'):
    opened.sae(0)


def test_the_base_model_is_the_runs(world, given, tmp_path):
  run = f'--run={world / "run"}'
  opened = lambda path, *more: _open(
    *given[2:], run, f'--model={path}', *more, model='base'
  )
  shutil.copytree(world / 'base', tmp_path / 'moved')
  assert opened(tmp_path / 'moved').people
  assert opened(world / 'base', '--dtype=bfloat16').people
  with pytest.raises(ValueError, match='base model .*--model is .*chat'):
    opened(world / 'chat')


def test_a_model_that_was_edited_in_place_is_said_to_be(world, given, tmp_path):
  """The run's own, by its place, and any part of it."""
  models, run = {}, tmp_path / 'run'
  shutil.copytree(world / 'run', run)
  results = outputs.read_json(run / 'results.json')
  for role in ('base', 'chat'):
    models[role] = tmp_path / role
    shutil.copytree(world / role, models[role])
    results['models'][role]['folder'] = str(models[role])
  outputs.write_results(run, results)

  def opened(role):
    flag = {'base': 'model', 'chat': 'chat_model'}[role]
    return _open(
      *given[2:],
      f'--run={run}',
      f'--{flag}={models[role]}',
      model=role,
      latents=False,
    )

  for role, folder in models.items():
    assert opened(role).people
    planted_files.change_last_byte(folder / 'model.safetensors')
    with pytest.raises(ValueError, match='model.safetensors has the SHA-256'):
      opened(role)


def test_sums_of_another_run_are_not_taken_for_the_runs(world, given, tmp_path):
  """Such as one in the same folder that was stopped half way."""
  run = tmp_path / 'run'
  shutil.copytree(world / 'run', run)
  planted_files.change_last_byte(run / 'harvest' / 'sums.safetensors')
  with pytest.raises(
    ValueError, match='sums.safetensors is not what .*results'
  ):
    _open(*given, f'--run={run}', '--num_random=2')


def test_any_number_of_an_sae_tells_it_apart():
  """Also of the last latents, and of the encoder."""
  one = planted_files.sae(planted.ROWS, planted.LAYER)
  before = sae_fingerprint(one)
  again = planted_files.sae(planted.ROWS, planted.LAYER)
  assert sae_fingerprint(again) == before
  found = {before, sae_fingerprint(planted_files.sae(planted.ROWS, 0))}
  for name, array in one.weights()._asdict().items():
    last = tuple(n - 1 for n in array.shape)
    weights = one.weights()._replace(**{name: array.at[last].add(0.5)})
    found.add(sae_fingerprint(JumpReLUSAE(weights, one.origin)))
  assert len(found) == 7


def test_the_bundled_chat_model_is_not_taken_for_the_runs(world, given):
  with pytest.raises(ValueError, match='Give --chat_model as in'):
    _open(*given[1:], f'--run={world / "run"}', latents=False)


@pytest.mark.parametrize(
  ('results', 'says'),
  [
    ({'experiment': 'steering.layers', 'latents': {}}, 'is of steering.layers'),
    ({'latents': {}}, 'is of None'),
    ({'experiment': 'entity_recognition'}, 'older version'),
  ],
)
def test_results_of_something_else(given, tmp_path, results, says):
  outputs.write_results(tmp_path, results)
  with pytest.raises(ValueError, match=says):
    _open(*given, f'--run={tmp_path}', latents=False)


def test_a_run_that_chose_no_latent_is_none(world, given, tmp_path):
  """Else the other latent alone would be steered with, without a word."""
  run = tmp_path / 'run'
  shutil.copytree(world / 'run', run)
  results = outputs.read_json(run / 'results.json')
  results['latents']['chosen']['unknown'] = []
  outputs.write_results(run, results)
  with pytest.raises(ValueError, match='results.json.*no unknown latent'):
    _open(*given, f'--run={run}')


def test_flags_of_another_run_are_left(world, given, tmp_path):
  """Until `write`: this run may yet be refused."""
  opened = _open(
    *given,
    f'--run={world / "run"}',
    f'--out={tmp_path / "new"}',
    latents=False,
  )
  opened.begin()
  assert '--out=' in (tmp_path / 'new' / 'flags.txt').read_text()
  (tmp_path / 'new' / 'flags.txt').write_text('--seed=7\n')
  opened.begin()
  assert (tmp_path / 'new' / 'flags.txt').read_text() == '--seed=7\n'
