"""Rows are balanced: by relation, with matched pairs, within shares."""

from collections import Counter
import random

import pytest

from experiments.knowledge_probing.balance import balance
from tests.experiments.knowledge_probing import made


def world(*cells, group=None):
  """Questions and decisions of cells (relation, decision, count)."""
  questions, decisions = [], {}
  for relation, decision, count in cells:
    for i in range(count):
      id = f'{relation}/{decision}/{i}'
      questions.append(
        made.question(
          id,
          relation=relation,
          entity=id,
          group=None if group is None else group(decision, i),
        )
      )
      decisions[id] = decision
  return questions, decisions


def counts(questions, decisions, **options):
  ids = balance(questions, decisions, rule='made', **options)
  assert len(set(ids)) == len(ids)
  relation = {q.id: q.relation for q in questions}
  return Counter((relation[id], decisions[id]) for id in ids)


def test_each_relation_has_the_same_share_of_refusals():
  found = counts(
    *world(
      ('a', 'answer', 100),
      ('a', 'refuse', 20),
      ('b', 'answer', 20),
      ('b', 'refuse', 100),
      ('c', 'answer', 30),
      ('c', 'refuse', 30),
    )
  )
  assert found == {
    ('a', 'answer'): 20,
    ('a', 'refuse'): 20,
    ('b', 'answer'): 20,
    ('b', 'refuse'): 20,
    ('c', 'answer'): 30,
    ('c', 'refuse'): 30,
  }


def test_few_refusals_are_all_kept_and_answers_only_cut_where_they_are_many():
  found = counts(
    *world(
      ('a', 'answer', 160),
      ('a', 'refuse', 10),
      ('b', 'answer', 20),
      ('b', 'refuse', 10),
    )
  )
  # Of all, one in ten is refused.
  assert found == {
    ('a', 'answer'): 90,
    ('a', 'refuse'): 10,
    ('b', 'answer'): 20,
    ('b', 'refuse'): 2,
  }


def test_four_refusals_to_one_answer():
  found = counts(
    *world(('a', 'answer', 25), ('a', 'refuse', 300)), max_refusal_share=0.8
  )
  assert found == {('a', 'answer'): 25, ('a', 'refuse'): 100}
  every = world(('a', 'answer', 3), ('a', 'refuse', 30))
  assert counts(*every, max_refusal_share=1)[('a', 'refuse')] == 30


@pytest.mark.parametrize('seed', range(20))
def test_the_share_is_never_exceeded(seed):
  rng = random.Random(seed)
  cells = [
    (relation, decision, rng.randrange(40))
    for relation in 'abcdef'
    for decision in ('answer', 'refuse', 'refuse_keep', 'unsure', 'drop')
  ]
  questions, decisions = world(*cells)
  share = rng.choice([0.2, 0.5, 0.7, 0.8])
  found = counts(questions, decisions, max_refusal_share=share, seed=seed)
  total = found.total()
  declined = sum(n for (_, d), n in found.items() if d.startswith('refuse'))
  kept = sum(n for (_, d), n in found.items() if d == 'refuse_keep')
  assert 0 < declined <= share * total
  assert kept <= 0.1 * total
  assert {d for _, d in found} <= {'answer', 'refuse', 'refuse_keep'}


def test_what_it_declines_already_only_fills_up():
  found = counts(
    *world(('a', 'answer', 60), ('a', 'refuse', 30), ('a', 'refuse_keep', 90))
  )
  assert found == {
    ('a', 'answer'): 60,
    ('a', 'refuse'): 30,
    ('a', 'refuse_keep'): 10,  # of a hundred
  }
  enough = world(
    ('a', 'answer', 20), ('a', 'refuse', 30), ('a', 'refuse_keep', 90)
  )
  assert counts(*enough)[('a', 'refuse_keep')] == 0


def test_pairs_are_of_one_group_where_there_are_any():
  """Unknown cities are of three countries, known ones of ten."""

  def group(decision, i):
    return f'country {i % (3 if decision == "refuse" else 10)}'

  questions, decisions = world(
    ('a', 'answer', 100),
    ('a', 'refuse', 12),
    ('b', 'answer', 10),
    ('b', 'refuse', 98),
    group=group,
  )
  of = {q.id: q.group for q in questions}
  for seed in range(5):
    ids = balance(questions, decisions, rule='made', seed=seed)
    pairs = {
      decision: Counter(of[id] for id in ids if id.startswith(f'a/{decision}'))
      for decision in ('answer', 'refuse')
    }
    assert pairs['answer'] == pairs['refuse'], seed
    assert pairs['answer'].total() == 12


def test_a_relation_of_one_class_is_left_out():
  found = counts(
    *world(
      ('a', 'answer', 10),
      ('a', 'refuse', 10),
      ('sure', 'answer', 50),
      ('lost', 'refuse', 50),
    )
  )
  assert {relation for relation, _ in found} == {'a'}
  with pytest.raises(ValueError, match="'made' refuses all questions of some"):
    balance(*world(('sure', 'answer', 5), ('lost', 'refuse', 5)), rule='made')


def test_the_order_of_questions_does_not_matter():
  questions, decisions = world(
    ('a', 'answer', 50), ('a', 'refuse', 20), (None, 'answer', 5)
  )
  questions += [made.question('n', relation=None)]
  decisions['n'] = 'refuse'
  ids = balance(questions, decisions, rule='made')
  shuffled = random.Random(0).sample(questions, len(questions))
  assert set(ids) == set(balance(shuffled, decisions, rule='made'))
  assert ids == [q.id for q in questions if q.id in set(ids)]
  other = balance(questions, decisions, rule='made', seed=1)
  assert set(ids) != set(other)


def test_unsure_questions_count_as_most_of_their_samples():
  questions, decisions = world(('a', 'unsure', 20))
  p = {q.id: 0.9 if i < 10 else 0.1 for i, q in enumerate(questions)}
  assert len(balance(questions, decisions, rule='made', p_correct=p)) == 20
  with pytest.raises(ValueError, match='none of 20 questions .20 unsure.'):
    balance(questions, decisions, rule='made')


@pytest.mark.parametrize(
  ('cells', 'options', 'message'),
  [
    (
      [('a', 'answer', 7), ('a', 'drop', 2)],
      {},
      "rule 'made' refuses none of 9 questions .7 answer, 2 drop.*harder",
    ),
    (
      [('a', 'refuse', 7)],
      {},
      "rule 'made' answers none of 7 questions .7 refuse.*easier",
    ),
    ([], {}, 'none of 0 questions'),
    ([('a', 'answer', 1)], {'max_refusal_share': 0}, 'is 0, expected above 0'),
    (
      [('a', 'answer', 5), ('a', 'refuse', 5)],
      {'max_refusal_share': 0.01},
      'leaves no refusal of 1',
    ),
  ],
)
def test_what_cannot_be_balanced_is_refused(cells, options, message):
  with pytest.raises(ValueError, match=message):
    balance(*world(*cells), rule='made', **options)


def test_ids_must_be_told_apart_and_decided():
  questions, decisions = world(('a', 'answer', 2), ('a', 'refuse', 2))
  with pytest.raises(ValueError, match="'a/answer/0' is there twice"):
    balance([*questions, questions[0]], decisions, rule='made')
  with pytest.raises(ValueError, match='4 questions have no decision'):
    balance(questions, {}, rule='made')
