"""The binary, on a tiny checkpoint and on bad input."""

import json

import pytest

from experiments.entities import (
  Entity,
  completions,
  read_records,
  write_entities,
)
from experiments.labelling import __main__ as label_entities
import gemma_jax as gj
from tests import tiny
from tests.experiments import worlds
from tests.gemma_jax.text import tiny_tokenizer

CITIES = [
  Entity(name, 'city', {'country': 'Italy', 'elevation': '20'})
  for name in ('Paris', 'The', 'art')
]
SONGS = [Entity('Zoë', 'song', {'genres': 'pop', 'album': 'late'})]
QUICK = ('--num_samples=3', '--max_new_tokens=4', '--rows_per_batch=8')


@pytest.fixture(scope='module')
def world(tmp_path_factory):
  """Folders of a model and of entities."""
  folder = tmp_path_factory.mktemp('world')
  model = tiny.ours(vocab_size=worlds.VOCABULARY, num_hidden_layers=2)
  gj.save_checkpoint(model, folder / 'tiny-2')
  tiny_tokenizer.save(folder / 'tiny-2')
  write_entities(folder / 'entities', {'city': CITIES, 'song': SONGS})
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(completions, '_BUCKETS', (96,))  # one program
    yield folder


def _arguments(world, out, *more):
  return (
    f'--model={world / "tiny-2"}',
    f'--entities={world / "entities"}',
    f'--out={out}',
    *QUICK,
    *more,
  )


def _run(world, out, *more):
  return worlds.run(label_entities, *_arguments(world, out, *more))


@pytest.fixture(scope='module')
def done(world):
  out = world / 'out'
  assert _run(world, out) == 0
  return out


def test_what_it_writes(done):
  records = read_records(done / 'tiny-2')
  assert {name: len(group) for name, group in records.items()} == {
    'city_country': 3,
    'city_elevation': 3,
    'song_album': 1,
    'song_genres': 1,
  }
  results = json.loads((done / 'results.json').read_text())
  assert results['records'] == 'tiny-2'
  assert results['entities'] == {'city': 3, 'song': 1}
  assert sum(results['types']['city'].values()) == 3
  assert results['prompt_types']['city_country']['known_attribute']['n'] == 3
  assert results['config']['num_samples'] == 3
  assert {'jax', 'device'} <= results['versions'].keys()


def test_its_flags_repeat_it(world, done, capsys):
  before = {
    path: path.read_bytes() for path in done.rglob('*') if path.is_file()
  }
  assert worlds.run(label_entities, f'--flagfile={done / "flags.txt"}') == 0
  after = {
    path: path.read_bytes() for path in done.rglob('*') if path.is_file()
  }
  assert after == before
  said = capsys.readouterr().out
  assert 'city_country: ' in said and 'n = 3' in said
  assert 'song: 0 known, 1 unknown, 0 discarded' in said


def test_a_killed_run_has_its_flags(world, tmp_path, monkeypatch):
  """But one that is refused leaves those of another run."""

  def killed(*given):
    raise OSError('killed')

  monkeypatch.setattr(label_entities, 'load', killed)
  assert _run(world, tmp_path) == 1
  kept = (tmp_path / 'flags.txt').read_text()
  assert '--seed=0' in kept
  (tmp_path / 'chunks').mkdir()
  (tmp_path / 'chunks' / '000000.json').write_text('[]')
  assert _run(world, tmp_path, '--seed=1') == 1
  assert (tmp_path / 'flags.txt').read_text() == kept


def test_modes_and_switches(world):
  out = world / 'reference'
  switches = ('--mode=reference', '--correctness=default')
  assert _run(world, out, *switches, '--types=song') == 0
  results = json.loads((out / 'results.json').read_text())
  assert results['config']['mode'] == 'default'
  assert results['config']['refusal_mode'] == 'reference'
  assert results['drop_qid_labels'] is False
  assert list(results['types']) == ['song']


@pytest.mark.parametrize(
  'more, words',
  [
    (('--seed=1',), 'another run, with seed=0 (now 1)'),
    (('--max_entities=2',), 'another run, with prompts_sha256'),
    (('--types=movie',), 'no entities of type movie'),
    (('--min_correct=4',), 'num_samples=3'),
    (('--model=gone',), 'gone'),
    (('--entities=gone',), 'no folder of entities gone'),
  ],
)
def test_bad_input(world, done, capsys, more, words):
  before = (done / 'results.json').read_bytes()
  assert _run(world, done, *more) == 1
  assert words in capsys.readouterr().err
  assert (done / 'results.json').read_bytes() == before


def test_it_needs_a_folder(capsys):
  assert worlds.run(label_entities) == 1
  assert '--out' in capsys.readouterr().err


def test_memory_that_runs_out(world, monkeypatch, capsys):
  def exhaust(*args, **kwargs):
    raise MemoryError

  monkeypatch.setattr(gj, 'generate', exhaust)
  assert _run(world, world / 'big') == 1
  assert 'Lower --rows_per_batch' in capsys.readouterr().err
