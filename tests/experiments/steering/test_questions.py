"""Which questions are asked, and where in them the entity is."""

import collections

import pytest

from experiments.entities import Entity
from experiments.steering.questions import make_questions
from tests.experiments.steering import planted


def make(known, unknown, **options):
  return make_questions(planted.tokenizer(), known, unknown, **options)


def test_as_many_known_as_unknown_and_all_of_their_attributes():
  known = {
    'player': [
      Entity(
        f'Kim{i} Lee{i}',
        'player',
        {'place_birth': 'Paris', 'date_birth': '1980', 'height': '200'},
      )
      for i in range(6)
    ]
  }
  unknown = planted.entities({'player': planted.UNKNOWN['player'][:4]})
  questions = make(known, unknown)
  asked = collections.Counter(
    (q.entity_class, q.prompt_type) for q in questions
  )
  # Heights are not asked for in this experiment.
  assert asked == {
    ('known', 'player_place_birth'): 4,
    ('known', 'player_date_birth'): 4,
    ('unknown', 'player_place_birth'): 4,
  }
  names = {q.entity for q in questions if q.entity_class == 'known'}
  assert names == {f'Kim{i} Lee{i}' for i in range(4)}
  assert len({(q.entity, q.prompt_type) for q in questions}) == 12


def test_questions_are_drawn_by_seed_and_types_on_their_own():
  known, unknown = map(planted.entities, (planted.KNOWN, planted.UNKNOWN))
  three = make(known, unknown, per_class=3)
  assert len(three) == 12
  assert three == make(known, unknown, per_class=3)
  assert three != make(known, unknown, per_class=3, seed=1)
  only = make({'city': known['city']}, {'city': unknown['city']}, per_class=3)
  assert only == [q for q in three if q.type == 'city']
  assert make(known, unknown, per_class=2)[:2] == three[:2]


def test_tokens_of_the_entity():
  known, unknown = map(planted.entities, (planted.KNOWN, planted.UNKNOWN))
  tok = planted.tokenizer()
  for question in make(known, unknown):
    pieces = tok.token_strings(question.ids)
    start, stop = question.span
    assert ''.join(pieces[start:stop]) == f' {question.entity}'
    assert pieces[stop] == '?'
    assert ''.join(pieces) == (
      f'<bos><start_of_turn>user\n{question.text}<end_of_turn>\n'
      '<start_of_turn>model\n'
    )


def test_empty_classes_are_named():
  known = planted.entities(planted.KNOWN)
  with pytest.raises(ValueError, match="'city' there are 5 known and 0 unk"):
    make(known, {'player': known['player']})
  nameless = {'city': [Entity('Old0 Town0', 'city', {'location': 'x'})]}
  with pytest.raises(ValueError, match='known entities of type .city.*asked'):
    make(nameless, {'city': known['city']})
