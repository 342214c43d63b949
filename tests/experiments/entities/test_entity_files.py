"""Files of entities, raw and processed, good and bad."""

import json

import pytest

from experiments.entities import (
  Entity,
  process_raw,
  read_entities,
  write_entities,
)
from tests.real_data import SAMPLES, of_each

ROME = {
  'entity': 'Rome',
  'entity_type': 'city',
  'attributes': [
    {'attribute_type': 'country', 'attribute_value': 'Italy'},
    {'attribute_type': 'location', 'attribute_value': 'Point(12.5 41.9)'},
  ],
}
RAW = {
  'city': 'http://www.wikidata.org/entity/Q220',
  'cityLabel': 'Rome',
  'countryLabel': 'Italy',
  'loc': 'Point(12.5 41.9)',
  'recent_population': '2873000',
  'above_sea_meters': '21',
}


def _write(folder, content, name='city.json'):
  folder.mkdir(parents=True, exist_ok=True)
  text = content if isinstance(content, str) else json.dumps(content)
  (folder / name).write_text(text, encoding='utf-8')
  return folder


@of_each
@pytest.mark.parametrize(
  'drop, samples, whole',
  [
    (False, (61, 61, 63), (7904, 7487, 8448)),
    (True, (61, 61, 61), (7903, 7487, 8344)),
  ],
)
def test_the_papers_entities(data, drop, samples, whole):
  entities = read_entities(data / 'wikidata', drop_qid_labels=drop)
  assert list(entities) == ['city', 'player', 'song']
  counts = tuple(map(len, entities.values()))
  assert counts == (samples if data == SAMPLES else whole)
  for group in entities.values():
    names = [entity.name for entity in group]
    assert names == sorted(set(names))
  players = {entity.name: entity for entity in entities['player']}
  assert 'Jim Thorpe' not in players, 'he has no year of birth'
  assert players['Goran Jeretin'].attributes['date_birth'] == '1979'


@of_each
def test_the_raw_rule_against_a_loop(data):
  rows = json.loads((data / 'wikidata' / 'song.json').read_text())
  seen, twice = {}, set()
  for row in rows:
    if row['songLabel'] in seen:
      twice.add(row['songLabel'])
    seen[row['songLabel']] = row['performers']
  expected = {n: p for n, p in seen.items() if n not in twice}
  found = process_raw(rows, 'song', drop_qid_labels=False)
  assert {e.name: e.attributes['performers'] for e in found} == expected


def test_a_folder_is_read_back(tmp_path):
  entities = {
    'city': [Entity('Rome', 'city', {'country': 'Italy', 'elevation': '-3.5'})],
    'song': [
      Entity('Água', 'song', {'genres': 'pop, rock'}),
      Entity('"Heroes"', 'song', {'album': '"Heroes"'}),
    ],
  }
  write_entities(tmp_path, entities)
  found = read_entities(tmp_path)
  assert list(found) == ['city', 'song']
  assert found['city'] == entities['city']
  assert [e.name for e in found['song']] == ['"Heroes"', 'Água']
  assert len({entity for group in found.values() for entity in group}) == 3


def test_both_formats_in_one_folder(tmp_path):
  _write(tmp_path, [RAW, {**RAW, 'cityLabel': 'Bari'}])
  song = {'entity': 'Hey', 'entity_type': 'song'}
  song['attributes'] = [
    {'attribute_type': 'performers', 'attribute_value': 'Pixies'}
  ]
  _write(tmp_path, [song], 'song.json')
  found = read_entities(tmp_path)
  assert [e.name for e in found['city']] == ['Bari', 'Rome']
  assert found['city'][1].attributes['population'] == '2873000'
  assert found['song'] == [Entity('Hey', 'song', {'performers': 'Pixies'})]


def test_raw_rows_that_are_left_out():
  named = lambda name, **more: {**RAW, 'cityLabel': name, **more}
  lacking = {k: v for k, v in named('Ulm').items() if k != 'loc'}
  rows = [RAW, named('Bari'), named('Bari'), named('Q12'), lacking]
  rows.append(named('Q12th', above_sea_meters='7'))
  names = [entity.name for entity in process_raw(rows, 'city')]
  assert names == ['Q12th', 'Rome']
  names = [e.name for e in process_raw(rows, 'city', drop_qid_labels=False)]
  assert names == ['Q12', 'Q12th', 'Rome']


def test_a_raw_movie():
  """The paper's files of movies are not at hand; this is one of their rows."""
  row = {
    'film': 'http://www.wikidata.org/entity/Q109116',
    'filmLabel': 'The Great Dictator',
    'directors': 'Charlie Chaplin',
    'screenwriters': 'Charlie Chaplin',
    'genres': 'slapstick, comedy drama',
    'release_year': '1940',
    'durations': '125',
    'cast_list': 'Sig Arno, Billy Gilbert',
  }
  (movie,) = process_raw([row], 'movie')
  assert movie.name == 'The Great Dictator'
  assert len(movie.attributes) == 6
  assert movie.attributes['cast'] == 'Sig Arno, Billy Gilbert'


def _changed(**changes):
  return [ROME, {**ROME, 'entity': 'Bari', **changes}]


def _attribute(name, value):
  return [{'attribute_type': name, 'attribute_value': value}]


@pytest.mark.parametrize(
  'content, words',
  [
    ('', 'is empty.*write it again'),
    (json.dumps([ROME])[:-20], 'is not JSON'),
    ([], 'an empty list'),
    ({'a': 1}, 'holds a JSON object, expected a JSON list'),
    ([ROME, 'Bari'], "record 1: expected an object, got 'Bari'"),
    ([{'name': 'Rome'}], r"neither 'entity' .* nor 'cityLabel'.*another type"),
    ([ROME, {'entity_type': 'city'}], "record 1 has no 'entity'.*Add it"),
    (_changed(entity=7), "record 1: 'entity' is 7, expected a text"),
    (_changed(entity=''), "'entity' is '', expected a text that is not empty"),
    (_changed(entity=' Bari'), "' Bari'.*Trim it"),
    (_changed(entity='\ud800'), 'is not Unicode.*Correct it'),
    (_changed(entity='Rome'), "'Rome' is there already, as record 0.*unique"),
    (_changed(entity_type='song'), r"'Bari'\): 'entity_type' is 'song'"),
    (_changed(attributes=[]), r"'attributes' is \[\], expected a list"),
    (_changed(attributes=['x']), "an attribute is 'x', not an object"),
    (
      _changed(attributes=_attribute('mayor', 'X')),
      r"record 1 \('Bari'\): unknown attribute 'mayor'.*'country'.*Rename",
    ),
    (
      _changed(attributes=_attribute('country', 3)),
      "'country': 'attribute_value' is 3, expected a text",
    ),
    (
      _changed(attributes=_attribute('population', 'many')),
      "'population' is 'many', expected a number.*Correct it",
    ),
    (
      _changed(attributes=_attribute('country', 'Italy') * 2),
      "'country' is there twice, as 'Italy' and 'Italy'.*Keep one",
    ),
    ([RAW, {**RAW, 'cityLabel': 3}], "record 1: 'cityLabel' is 3"),
    (
      [{**RAW, 'above_sea_meters': 'high'}],
      r"'Rome'\): 'above_sea_meters' is 'high', expected a number",
    ),
    ([{'cityLabel': 'Rome'}], r"no record has \['countryLabel', 'loc'"),
    ([RAW, RAW], 'none of 2 records has a label of its own'),
    (_changed(entity=None), "record 1: 'entity' is None, expected a text"),
    (_changed(attributes=_attribute('country', None)), "'country': .* is None"),
    ([{**RAW, 'recent_population': 0}], "'recent_population' is 0, expected a"),
    ([{**RAW, 'loc': []}], r"'loc' is \[\], expected a text"),
    ('[{"entity": "Rome", "entity": "Bari"}]', "'entity' is given twice"),
    ('[{"entity": NaN}]', 'NaN is no JSON number'),
    (f'[{"9" * 5000}]', 'is not JSON'),
    ('[' * 100_000, 'nested too deep'),
  ],
)
def test_bad_files(tmp_path, content, words):
  _write(tmp_path, content)
  with pytest.raises(ValueError, match=words) as error:
    read_entities(tmp_path)
  assert str(tmp_path / 'city.json') in str(error.value)


def test_other_types_are_left_alone(tmp_path, capsys):
  """The published folder has book.json and team.json, which no run needs."""
  _write(tmp_path, [ROME])
  _write(tmp_path, [{'entity': 'It', 'entity_type': 'book'}], 'book.json')
  _write(tmp_path, 'no JSON at all', 'team.json')
  assert list(read_entities(tmp_path)) == ['city']
  said = capsys.readouterr().err
  assert 'book.json, team.json left alone' in said and 'city' in said
  # A known type that is not asked for is not read either.
  _write(tmp_path, 'no JSON at all', 'song.json')
  with pytest.raises(ValueError, match='song.json is not JSON'):
    read_entities(tmp_path)
  assert list(read_entities(tmp_path, types=['city'])) == ['city']
  for absent in ('movie', 'book'):
    with pytest.raises(ValueError, match=f'no .* {absent}, only of city, song'):
      read_entities(tmp_path, types=['city', absent])


def test_bad_folders(tmp_path):
  with pytest.raises(FileNotFoundError, match='no folder of entities .*gone'):
    read_entities(tmp_path / 'gone')
  with pytest.raises(FileNotFoundError, match=r'has none of city\.json'):
    read_entities(tmp_path)
  _write(tmp_path, [ROME], 'town.json')
  with pytest.raises(FileNotFoundError, match=r'has none of city\.json'):
    read_entities(tmp_path)
  (tmp_path / 'town.json').rename(tmp_path / 'city.json')
  (tmp_path / 'city.json').write_bytes(b'[\xff]')
  with pytest.raises(ValueError, match='is not JSON.*utf-8'):
    read_entities(tmp_path)
  with pytest.raises(ValueError, match="unknown entity type 'town'"):
    process_raw([RAW], 'town')
