"""Splits: whole units, shares, demonstrations, a held-out relation."""

import collections
import dataclasses
import random

import pytest

from experiments.knowledge_probing.probe_records import Question
from experiments.knowledge_probing.question_splits import split_questions

RELATIONS = ('country', 'continent', 'language')


def cities(countries=40, per_country=4, **changes):
  """Questions about cities whose unit is their country."""
  return [
    Question(
      id=f'{relation}/{country}/{number}',
      question=f'{relation} of {country}/{number}?',
      answers=(f'{relation} {country % 7}',),
      relation=relation,
      entity=f'{country}/{number}',
      group=str(country),
      **changes,
    )
    for country in range(countries)
    for number in range(per_country)
    for relation in RELATIONS
  ]


def test_units_are_whole_and_shares_are_met():
  questions = cities()
  found = split_questions(questions, seed=0)
  assert found.keys() == {each.id for each in questions}
  units, entities = {}, {}
  for each in questions:
    split = found[each.id]
    entities.setdefault(each.entity, set()).add(split)
    units.setdefault(each.unit, set()).add(
      'train' if split == 'shots' else split
    )
  assert {len(splits) for splits in units.values()} == {1}
  assert {len(splits) for splits in entities.values()} == {1}
  counts = collections.Counter(next(iter(each)) for each in units.values())
  assert counts == {'train': 24, 'validation': 6, 'test': 10}
  for relation in RELATIONS:
    mine = [q for q in questions if q.relation == relation]
    shown = [q for q in mine if found[q.id] == 'shots']
    assert len(shown) == 12
    assert len({q.answers for q in shown}) == 7  # all that there are


def test_neither_order_nor_other_seeds():
  questions = cities()
  shuffled = random.Random(0).sample(questions, len(questions))
  assert split_questions(questions, seed=3) == split_questions(shuffled, seed=3)
  assert split_questions(questions, seed=3) != split_questions(
    questions, seed=4
  )


def test_every_kind_of_unit_is_in_every_split():
  """Units with a rare relation, and unknown ones, are dealt out evenly too."""
  questions = cities(20) + [
    dataclasses.replace(each, id=f'x{each.id}', group=f'x{each.group}', known=k)
    for k in (True, False)
    for each in cities(20, 1)
    if (each.relation == 'language') == k
  ]
  found = split_questions(questions, seed=0, shots=2)
  for known in (True, False):
    mine = [found[q.id] for q in questions if q.known is known]
    counts = collections.Counter(mine)
    total = len(mine)
    assert counts['train'] + counts['shots'] == pytest.approx(
      0.6 * total, abs=2
    )
    assert counts['test'] == pytest.approx(0.25 * total, abs=2)
  assert not any(found[q.id] == 'shots' for q in questions if q.known is False)


def test_a_held_out_relation():
  questions = cities()
  found = split_questions(questions, seed=0, held_out_relation='language')
  same = split_questions(questions, seed=0)
  for each in questions:
    if each.relation == 'language' and same[each.id] != 'shots':
      assert found[each.id] == 'held_out_relation'
    else:
      assert found[each.id] == same[each.id]
  with pytest.raises(ValueError, match='continent, country, language'):
    split_questions(questions, seed=0, held_out_relation='capital')


def test_what_the_file_says_stays():
  decided = [
    dataclasses.replace(each, split='test' if i % 2 else 'shots')
    for i, each in enumerate(cities(4))
  ]
  others = [
    dataclasses.replace(each, id=f'y{each.id}', group=f'y{each.group}')
    for each in cities(20)
  ]
  found = split_questions([*decided, *others], seed=0, shots=12)
  assert all(found[each.id] == each.split for each in decided)
  # Eight of each relation are demonstrated already; four more are.
  for relation in RELATIONS:
    mine = [q for q in others if q.relation == relation]
    assert sum(found[q.id] == 'shots' for q in mine) == 4
  alone = split_questions(decided, seed=0)
  assert set(alone.values()) == {'test', 'shots'}
  half = [dataclasses.replace(decided[0], split=None), *decided[1:]]
  with pytest.raises(ValueError, match="'0' says its split, 'test', and"):
    split_questions(half, seed=0)


def test_few_questions_leave_something_to_train_on():
  found = split_questions(cities(8, 1), seed=0, shots=12)
  counts = collections.Counter(found.values())
  assert counts == {'train': 9, 'shots': 6, 'test': 6, 'validation': 3}


def test_too_few_units():
  with pytest.raises(ValueError, match="'continent' has no question in valid"):
    split_questions(cities(2), seed=0)


def test_questions_without_relation_or_entity():
  questions = [
    Question(id=str(i), question=f'{i}?', answers=('x',)) for i in range(20)
  ]
  found = split_questions(questions, seed=0, shots=3)
  counts = collections.Counter(found.values())
  assert counts == {'train': 9, 'shots': 3, 'validation': 3, 'test': 5}
  with pytest.raises(ValueError, match='add up to 1'):
    split_questions(questions, seed=0, shares=(0.5, 0.2, 0.2))
