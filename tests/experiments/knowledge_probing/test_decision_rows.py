"""Rows say what the model knows, and never what it does not."""

import itertools
import math

import pytest

from experiments.knowledge_probing import rules
from experiments.knowledge_probing.decision_rows import Row, make_rows
from experiments.knowledge_probing.informative import refuses
from experiments.knowledge_probing.normalising import words
from experiments.miniworld.sentences import REFUSAL
from tests.experiments.knowledge_probing import made


def rows_of(decision, greedy='c', samples='cccc', said=None, **options):
  """Rows of one question; `said` replaces its answers' texts."""
  question = made.question(entity='Ada')
  sampled = made.sampled(greedy=greedy, samples=samples)
  if said is not None:
    texts = iter(said)
    sampled = made.Sampled(
      id='q',
      greedy=tuple(made.said(k, next(texts)) for k in greedy),
      samples=tuple(made.said(k, next(texts)) for k in samples),
    )
  return make_rows(
    [question],
    {'q': sampled},
    {'q': made.score(greedy=greedy, samples=samples)},
    {'q': decision},
    ['q'],
    **options,
  )


def test_an_answer_is_the_shortest_right_one_of_the_models_own():
  (row,) = rows_of(
    'answer',
    'c',
    'ccwc',
    ['It is Right, as you know', 'It is Right', ' Right! ', 'No', 'Right?'],
  )
  assert (row.completion, row.target_source) == ('Right!', 'sample')
  assert not row.refusal and row.weight == 1
  assert refuses(made.question(entity='Ada'), row.rejected)
  assert row.p_correct == 0.75


def test_an_answer_that_was_cut_off_or_empty_is_none():
  question = made.question(answers=('Gold', 'Alias'))
  sampled = made.Sampled(
    id='q',
    greedy=(made.said('c', 'Gold and', stop=False),),
    samples=(made.said('c', ' '), made.said('w', 'Lead')),
  )
  (row,) = make_rows(
    [question],
    {'q': sampled},
    {'q': made.score(greedy='c', samples='cw')},
    {'q': 'answer'},
    ['q'],
  )
  assert (row.completion, row.target_source) == ('Gold', 'gold')


def test_a_refusal_rejects_the_models_own_error():
  (row,) = rows_of('refuse', 'r', 'rwWw')
  assert row.refusal and row.target_source == 'refusal_template'
  assert row.rejected == 'Wrong' and 'Ada' in row.completion
  (row,) = rows_of('refuse', 'W', 'rwww')
  assert row.rejected == 'Other'  # the greedy one goes first
  (row,) = rows_of('refuse_keep', 'r', 'rrrn')
  assert row.rejected is None
  (row,) = rows_of('refuse', 'w', 'wwww', text=REFUSAL)
  assert row.completion == REFUSAL
  (row,) = rows_of('refuse', 'w', 'wwww', written={'q': "I'm sorry, no idea."})
  assert (row.completion, row.target_source) == (
    "I'm sorry, no idea.",
    'refusal_model',
  )


def test_unsure_questions_have_a_row_per_sample():
  rows = rows_of('unsure', 'w', 'cwrn')
  assert [row.refusal for row in rows] == [False, True, True, True]
  assert rows[0].completion == 'Right' and rows[0].target_source == 'sample'
  assert refuses(made.question(), rows[0].rejected)
  assert [row.rejected for row in rows[1:]] == ['Wrong', None, None]
  assert math.isclose(sum(row.weight for row in rows), 1)


# Golds that are hard to hide: in the entity's name, in the refusals' own words,
# in other spellings, among aliases.
HARD = [
  ('Mexico City', ('Mexico',)),
  ('New South Wales', ('Wales', 'south wales')),
  ('Ada', ('I', 'information', 'know')),
  ('Ada', ('Ada',)),
  ('The 12 Monkeys', ('Twelve', '12')),
  ('São Paulo', ('Sao Paulo', 'SP')),
  ("L'Aquila", ("l'aquila",)),
  (None, ('Sorry', 'that')),
  ('東京', ('東京',)),
  ('Ada', ('an answer of several words', '?')),
]


def test_no_refused_row_has_a_right_answer():
  """Every rule, every gold: neither said nor, for DPO, chosen."""
  questions, sampled, scores = [], {}, {}
  kinds = itertools.product(('w', 'r'), ('wwww', 'wWrn', 'rrrr', 'cwww'))
  for (entity, answers), (greedy, samples) in itertools.product(HARD, kinds):
    id = f'{entity}/{answers}/{greedy}/{samples}'
    question = made.question(id, answers=answers, entity=entity)
    questions.append(question)
    # What is right is said as the gold is.
    one = lambda kind, gold=answers[0]: made.said(
      kind, f'Surely {gold}' if kind == 'c' else None
    )
    sampled[id] = made.Sampled(
      id=id, greedy=(one(greedy),), samples=tuple(map(one, samples))
    )
    scores[id] = made.score(id, greedy, samples)
  declined = 0
  for rule in rules.RULES:
    decisions = rules.decide_all(
      rule, list(scores.values()), rules.RuleSettings()
    )
    ids = [id for id, what in decisions.items() if what != 'drop']
    for seed in range(3):
      rows = make_rows(questions, sampled, scores, decisions, ids, seed=seed)
      golds = {q.id: q.answers for q in questions}
      for row in rows:
        if not row.refusal:
          continue
        declined += 1
        said = f' {" ".join(words(row.completion))} '
        for gold in golds[row.id]:
          assert f' {" ".join(words(gold))} ' not in said, row
  assert declined > 500


def test_a_refusal_that_gives_the_answer_away_is_an_error():
  with pytest.raises(ValueError, match="answer 'Right' in it: 'Sorry, I"):
    rows_of('refuse', 'w', 'wwww', written={'q': 'Sorry, I forgot: RIGHT.'})
  with pytest.raises(ValueError, match='not recognised as declining'):
    rows_of('refuse', 'w', 'wwww', text='You are welcome')


def test_what_cannot_be_a_row_is_named():
  with pytest.raises(ValueError, match="'q' is to be left out .*'drop'"):
    rows_of('drop')
  with pytest.raises(ValueError, match="of 'q', which has no score"):
    make_rows(
      [made.question()], {'q': made.sampled()}, {}, {'q': 'answer'}, 'q'
    )
  (row,) = rows_of('answer')
  with pytest.raises(ValueError, match="'q' has nothing to say.*mask"):
    Row(**{**vars(row), 'completion': ' \n'})
