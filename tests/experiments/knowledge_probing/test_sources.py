"""Questions from files and from entities."""

import json

import pytest

from experiments.entities import Entity
from experiments.knowledge_probing import probe_records
from experiments.knowledge_probing.sources import (
  entity_questions,
  read_questions,
)
from tests.real_data import of_each

ONE = {'id': '1', 'question': 'Who wrote Emma?', 'answers': ['Jane Austen']}
FULL = {
  'id': '2',
  'question': 'Wo liegt Zoë\u2028stadt?',
  'answers': ['X', 'Y'],
  'context': 'Text.',
  'relation': 'r',
  'entity': 'e',
  'type': 't',
  'group': 'g',
  'split': 'shots',
  'known': False,
}


def write(folder, *rows, name='questions.jsonl', end='\n'):
  path = folder / name
  lines = [json.dumps(row, ensure_ascii=False) for row in rows]
  path.write_bytes(''.join(line + end for line in lines).encode())
  return path


@pytest.mark.parametrize('end', ['\n', '\r\n'])
def test_lines(tmp_path, end):
  nulls = ONE | {'id': '3', 'question': 'By whom is Emma?', 'context': None}
  nulls |= {'split': None, 'known': None}
  found = read_questions(write(tmp_path, ONE, FULL, nulls, end=end))
  assert found[0] == probe_records.Question(
    id='1', question='Who wrote Emma?', answers=('Jane Austen',)
  )
  assert probe_records.to_json(found[1]) | {'answers': ['X', 'Y']} == FULL
  assert found[2].known is None and found[2].id == '3'


@pytest.mark.parametrize(
  'row, said',
  [
    (ONE, "'1' belongs to another"),
    (ONE | {'id': 2}, 'expected a text'),
    ({'question': 'Q?', 'answers': ['A']}, "no 'id'"),
    ({'id': '2', 'question': 'Q?'}, "'answers' is None"),
    (ONE | {'id': '2', 'answers': []}, r"'answers' is \[\]"),
    (ONE | {'id': '2', 'answers': ['A', 3]}, "'answers' is 3, expected"),
    (ONE | {'id': None}, "'id' is None, expected a text"),
    (ONE | {'id': '2'}, "asks 'Who wrote Emma.', as line 1 does"),
    (ONE | {'id': '2', 'answers': ['A', ' ']}, "'answers' is"),
    (ONE | {'id': '2', 'answers': 'A'}, "'answers' is 'A'"),
    (ONE | {'id': '2', 'answer': 'A'}, "unknown field 'answer'"),
    (ONE | {'id': '2', 'split': 'dev'}, 'shots, train, validation, test'),
    (ONE | {'id': '2', 'known': 1}, "'known' is 1"),
    (ONE | {'id': '2', 'relation': 5}, "'relation' is 5"),
    (ONE | {'id': '2', 'question': ' '}, "'question' is ' '"),
  ],
)
def test_malformed_lines(tmp_path, row, said):
  path = write(tmp_path, ONE, row)
  with pytest.raises(ValueError, match=said) as error:
    read_questions(path)
  assert f'{path}, line 2' in str(error.value)


def test_no_questions(tmp_path):
  with pytest.raises(ValueError, match='has no question'):
    read_questions(write(tmp_path))
  with pytest.raises(FileNotFoundError, match='nothing'):
    read_questions(tmp_path / 'nothing')
  with pytest.raises(ValueError, match='line 1 is not JSON'):
    path = tmp_path / 'cut.jsonl'
    path.write_text(json.dumps(ONE)[:-3])
    read_questions(path)


def test_trivia_is_told_by_its_content(tmp_path):
  path = tmp_path / 'questions.jsonl'
  rows = [
    {'question': 'Who?', 'question_id': 'a', 'correct_answer': ['X', 'Y']}
  ]
  path.write_text('\ufeff\n ' + json.dumps(rows), encoding='utf-8')
  (found,) = read_questions(path)
  assert found == probe_records.Question(
    id='a', question='Who?', answers=('X', 'Y'), relation='trivia'
  )


@of_each
def test_published_trivia(data):
  found = read_questions(data / 'triviaqa' / 'batch_0.json')
  assert len(found) in (32, 512) and len({q.id for q in found}) == len(found)


CITY = Entity('Rome', 'city', {'country': 'Italy', 'population': '2748109'})
SONG = Entity('Song', 'song', {'performers': 'A, B,A', 'album': 'One, Two'})


def test_entities():
  found = {q.id: q for q in entity_questions({'city': [CITY], 'song': [SONG]})}
  assert list(found) == [
    'city_country/Rome',
    'city_population/Rome',
    'song_album/Song',
    'song_performers/Song',
  ]
  rome = found['city_country/Rome']
  assert rome.question == "What country contains the city of 'Rome'?"
  assert (rome.relation, rome.entity, rome.type) == (
    'city_country',
    'Rome',
    'city',
  )
  assert rome.answers == ('Italy',) and rome.group is None
  # An album is one thing, whatever its name.
  assert found['song_album/Song'].answers == ('One, Two',)
  assert found['song_performers/Song'].answers == ('A', 'B')


def test_relations_of_entities():
  (only,) = entity_questions({'city': [CITY]}, ['city_country'])
  assert only.id == 'city_country/Rome'
  with pytest.raises(ValueError, match="'song_album' is not asked about city"):
    entity_questions({'city': [CITY]}, ['song_album'])
  with pytest.raises(ValueError, match="what 'city_elevation' asks for"):
    entity_questions({'city': [CITY]}, ['city_country', 'city_elevation'])
  with pytest.raises(ValueError, match='1 entities have no attribute'):
    entity_questions({'city': [Entity('X', 'city', {})]})
