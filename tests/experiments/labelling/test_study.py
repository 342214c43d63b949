"""Labelling with a tiny model: what is asked, stopped, kept and resumed."""

import json
import shutil

import numpy as np
import pytest

from experiments.entities import (
  PROMPT_TYPES,
  Entity,
  base_prompt,
  completions,
  read_records,
)
from experiments.entities.completions import complete, line_break_ids
from experiments.entities.sampling import seed_of
from experiments.labelling import study
from experiments.labelling.study import LabelConfig, label_entities
import gemma_jax as gj
from tests import tiny
from tests.gemma_jax.text import tiny_tokenizer

NAMES = ('Paris', 'The', 'San Diego in 1991', 'art', 'model')
ENTITIES = {
  'city': [
    Entity(name, 'city', {'country': 'Italy', 'elevation': '20'})
    for name in NAMES
  ],
  'song': [Entity('Zoë', 'song', {'genres': 'pop', 'album': 'late, Texas'})],
}
CONFIG = LabelConfig(num_samples=3, max_new_tokens=6)
MODEL = {'model': 'tiny'}


@pytest.fixture(scope='module', autouse=True)
def one_length():
  """Few programs to compile."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(completions, '_BUCKETS', (96,))
    yield


@pytest.fixture(scope='module')
def model():
  return tiny.ours(vocab_size=600, num_hidden_layers=2)


@pytest.fixture(scope='module')
def tokenizer():
  return tiny_tokenizer.ours()


def _label(model, tokenizer, out, entities=None, **options):
  options = {
    'identity': MODEL,
    'config': CONFIG,
    'rows_per_batch': 12,
  } | options
  return label_entities(model, tokenizer, entities or ENTITIES, out, **options)


@pytest.fixture(scope='module')
def labelled(model, tokenizer, tmp_path_factory):
  out = tmp_path_factory.mktemp('labelled')
  return out, _label(model, tokenizer, out)


def test_what_is_kept(labelled):
  out, found = labelled
  assert read_records(out / 'records') == found.records
  assert not (out / 'chunks').exists()
  assert {name: len(group) for name, group in found.records.items()} == {
    'city_country': 5,
    'city_elevation': 5,
    'song_album': 1,
    'song_genres': 1,
  }
  names = [record.entity for record in found.records['city_country']]
  assert names == sorted(NAMES)
  record = found.records['city_country'][0]
  entity = ENTITIES['city'][0]
  prompt = base_prompt(PROMPT_TYPES['city_country'], entity)
  assert (record.entity, record.prompt) == ('Paris', prompt.text)
  assert len(record.sampled_completions) == 3


def test_results(labelled):
  found = labelled[1]
  greedy = found.results['prompt_types']['city_country']['greedy']
  assert sum(share['value'] for share in greedy.values()) == pytest.approx(1)
  assert all(share['n'] == 5 for share in greedy.values())
  for entity_type, group in found.classes.items():
    counts = found.results['types'][entity_type]
    assert counts['known'] == len(group.known)
    assert sum(counts.values()) == len(ENTITIES[entity_type])


def test_against_single_rows(model, tokenizer, labelled):
  """Each completion as a call of its own, without padding or neighbours."""
  record = labelled[1].records['song_album'][0]
  ids = tokenizer.encode(record.prompt)
  seeds = [seed_of(0, 'song_album', 'Zoë', i) for i in range(4)]
  completions = [record.greedy_completion, *record.sampled_completions]
  for i, (seed, completion) in enumerate(zip(seeds, completions, strict=True)):
    made = gj.generate(
      model,
      [ids],
      max_new_tokens=6,
      seeds=[seed],
      sampling=gj.Sampling(temperature=0.0 if i == 0 else 1.0),
      stop_ids=[tokenizer.eos_id, tokenizer.end_of_turn_id],
    )
    said = np.asarray(made.tokens)[0, : int(made.lengths[0])]
    said = [i for i in said.tolist() if i < tokenizer.vocab_size]
    assert tokenizer.decode(said, skip_special=True) == completion
  assert len(set(completions)) == 4


def test_neighbours_do_not_matter(model, tokenizer, labelled):
  """Fewer entities, so that other prompts share their batches."""
  whole = labelled[1].records
  some = {'city': ENTITIES['city'][2:4]}
  out = labelled[0].parent / 'some'
  found = _label(model, tokenizer, out, some).records
  for name, group in found.items():
    everything = {record.entity: record for record in whole[name]}
    assert group == [everything[record.entity] for record in group]


def test_a_killed_run_goes_on(
  model, tokenizer, labelled, tmp_path, monkeypatch
):
  asked, generate = [], gj.generate

  def die_at_third(*args, **kwargs):
    asked.append(args)
    if len(asked) == 3:
      raise KeyboardInterrupt
    return generate(*args, **kwargs)

  monkeypatch.setattr(gj, 'generate', die_at_third)
  with pytest.raises(KeyboardInterrupt):
    _label(model, tokenizer, tmp_path)
  assert len(list((tmp_path / 'chunks').glob('0*.json'))) == 2
  assert not (tmp_path / 'records').exists()
  found = _label(model, tokenizer, tmp_path)
  assert len(asked) == 3 + 2, 'of four batches, two were left'
  assert found == labelled[1]
  assert not (tmp_path / 'chunks').exists()


def test_what_is_done_needs_no_model(tokenizer, labelled):
  def load():
    raise AssertionError('The model was loaded.')

  assert _label(load, tokenizer, labelled[0]) == labelled[1]


def test_a_changed_answer_is_not_the_models(tokenizer, labelled, tmp_path):
  shutil.copytree(labelled[0], tmp_path / 'out')
  file = tmp_path / 'out' / 'records' / 'city_country.json'
  whole = file.read_text()
  file.write_text(whole.replace('"label": "error"', '"label": "correct"', 1))
  assert file.read_text() != whole
  with pytest.raises(
    ValueError, match='city_country.json is not what the model'
  ):
    _label(None, tokenizer, tmp_path / 'out')
  file.write_text(whole)
  assert _label(None, tokenizer, tmp_path / 'out') == labelled[1]


def test_a_damaged_chunk_is_asked_again(
  model, tokenizer, labelled, tmp_path, monkeypatch, capsys
):
  monkeypatch.setattr(study.shutil, 'rmtree', lambda *x, **y: None)
  _label(model, tokenizer, tmp_path)
  monkeypatch.undo()
  shutil.rmtree(tmp_path / 'records')  # as if killed before they were written
  (tmp_path / 'chunks' / '000001.json').write_text('')
  assert _label(model, tokenizer, tmp_path) == labelled[1]
  assert '000001.json cannot be used' in capsys.readouterr().err
  assert not (tmp_path / 'chunks').exists()


@pytest.mark.parametrize(
  'changes, words',
  [
    ({'identity': {'model': 'other'}}, 'model=tiny'),
    ({'config': LabelConfig(num_samples=4)}, 'num_samples=3'),
    ({'config': LabelConfig(mode='reference', num_samples=3)}, 'mode=default'),
    ({'entities': {'city': ENTITIES['city']}}, 'prompts_sha256'),
  ],
)
def test_other_peoples_folders(model, tokenizer, labelled, changes, words):
  with pytest.raises(ValueError, match=f'another run.*{words}'):
    _label(model, tokenizer, labelled[0], **changes)


def test_it_starts_over_where_nothing_is_done(
  model, tokenizer, tmp_path, monkeypatch
):
  with pytest.raises(ValueError, match="'Paris' needs 90.. positions"):
    huge = LabelConfig(num_samples=3, max_new_tokens=9000)
    _label(model, tokenizer, tmp_path, config=huge)
  _stub(monkeypatch, tokenizer, {'Zoë': ' pop'})
  _label(model, tokenizer, tmp_path, {'song': ENTITIES['song']})


def _stub(monkeypatch, tokenizer, answers):
  """Has `generate` say planted texts, which depend on prompt and temperature.

  Args:
    monkeypatch: The fixture.
    tokenizer: Of the texts.
    answers: Entity -> what is sampled about it.
  """

  def generate(model, tokens, positions, *, samples, sampling, **_):
    rows = []
    for i, hot in enumerate(sampling.temperature):
      row, here = tokens[i // samples], positions[i // samples] >= 0
      prompt = tokenizer.decode(row[here])
      (name,) = [name for name in answers if f"'{name}'" in prompt]
      said = answers[name] if hot else 'greedy Italy'
      rows.append([*tokenizer.encode(said, bos=False), tokenizer.eos_id])
    lengths = np.asarray([len(row) for row in rows])
    made = np.zeros((len(rows), lengths.max()), np.int32)
    for row, ids in zip(made, rows, strict=True):
      row[: len(ids)] = ids
    return gj.Generation(tokens=made, logprobs=None, lengths=lengths)

  monkeypatch.setattr(gj, 'generate', generate)


def test_completions_go_to_their_entities(
  model, tokenizer, tmp_path, monkeypatch
):
  answers = {
    'Paris': ' 20 Italy',
    'The': ' Spain',
    'San Diego in 1991': ' Italy',
    'art': ' I cannot say',
    'model': ' 999',
  }
  _stub(monkeypatch, tokenizer, answers)
  cities = {'city': ENTITIES['city']}
  found = _label(model, tokenizer, tmp_path, cities)
  for group in found.records.values():
    for record in group:
      assert record.greedy_completion == 'greedy Italy'
      assert set(record.sampled_completions) == {answers[record.entity]}
  assert found.classes['city'].known == ['Paris']
  assert found.classes['city'].discarded == ['San Diego in 1991']
  assert found.classes['city'].unknown == ['The', 'art', 'model']
  accuracy = found.results['prompt_types']
  assert accuracy['city_country']['greedy']['correct']['value'] == 1
  assert accuracy['city_country']['known_attribute']['value'] == 2 / 5
  assert accuracy['city_elevation']['greedy']['correct']['value'] == 0


def test_line_breaks_end_completions(model, tokenizer):
  breaks = line_break_ids(tokenizer)
  assert {tokenizer.vocabulary.pieces([i])[0] for i in breaks} >= {
    '\n',
    '\n\n',
    '<0x0A>',
  }
  seen = {}

  def generate(model, tokens, positions, *, stop_ids, **_):
    seen['stops'] = set(stop_ids)
    ids = tokenizer.encode(' Paris\n\n', bos=False)
    return gj.Generation(
      tokens=np.asarray([ids]), logprobs=None, lengths=np.asarray([len(ids)])
    )

  ask = {'temperatures': [0.0], 'max_new_tokens': 6}
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(gj, 'generate', generate)
    for stop, text in ((False, ' Paris\n\n'), (True, ' Paris')):
      made = complete(
        model, tokenizer, [[2, 5]], [[0]], stop_at_line_break=stop, **ask
      )
      assert list(made) == [{0: [text]}]
      assert (breaks <= seen['stops']) is stop
      assert tokenizer.eos_id in seen['stops']


@pytest.mark.parametrize('family', ['chat', 'free'])
def test_chats(model, tokenizer, tmp_path, family, monkeypatch):
  _stub(monkeypatch, tokenizer, {'Zoë': ' pop'})
  config = LabelConfig(family=family, num_samples=3)
  song = {'song': ENTITIES['song']}
  found = _label(model, tokenizer, tmp_path, song, config=config)
  record = found.records['song_genres'][0]
  assert record.question == "What is the genre of the song 'Zoë'?"
  stub = 'Genre=' if family == 'chat' else ''
  assert record.prompt == tokenizer.chat_text(record.question) + stub


@pytest.mark.parametrize(
  'options, words',
  [
    ({'family': 'few-shot'}, "'few-shot'.*'base'"),
    ({'mode': 'x'}, "mode is 'x'"),
    ({'refusal_mode': 'x'}, "mode is 'x'"),
    ({'num_samples': 2}, 'min_correct=3 .* num_samples=2'),
    ({'max_new_tokens': 0}, 'at least 1'),
  ],
)
def test_bad_configurations(options, words):
  with pytest.raises(ValueError, match=words):
    LabelConfig(**options)


def test_entities_of_which_none_can_be_known(model, tokenizer, tmp_path):
  cities = {'city': [Entity('Rome', 'city', {'country': 'Italy'})]}
  with pytest.raises(ValueError, match='No city can be known: of 1, none has'):
    _label(model, tokenizer, tmp_path, cities)
  assert not (tmp_path / 'run.json').exists()


def test_half_a_chunk_is_never_written(model, tokenizer, tmp_path):
  """Files are whole, so a torn one is someone else's, and is refused."""
  (tmp_path / 'chunks').mkdir()
  (tmp_path / 'chunks' / '000000.json').write_text('[{"entity": "Ro')
  (tmp_path / 'run.json').write_text(json.dumps({}))
  with pytest.raises(ValueError, match='another run|cut off'):
    _label(model, tokenizer, tmp_path)
