"""The cascade against hand-labelled answers and published labels."""

import json
import pathlib

import pytest

from experiments.knowledge_probing import judging
from experiments.knowledge_probing.judging import (
  KINDS,
  JudgeSettings,
  others_of,
)
from tests.experiments.entities.shared_data import SHARED, needs_shared
from tests.experiments.knowledge_probing.made import question

TRIPLES = json.loads(
  (pathlib.Path(judging.__file__).parent / 'labelled/triples.json').read_text(
    encoding='utf-8'
  )
)


def judge(text, answers, others=(), asked='What is it?', **settings):
  return judging.judge(
    question(answers=answers, question=asked),
    text,
    JudgeSettings(**settings),
    tuple(others),
  )


def judged(row):
  return judge(
    row['prediction'], row['answers'], row['others'], row['question']
  )


def test_labelled_answers():
  """Rules were written with these in view."""
  rows = [row for row in TRIPLES if not row['held_out']]
  assert len(rows) >= 60
  missed = [
    f'{row["prediction"]!r} for {row["answers"][0]!r} is '
    f'{"right" if row["correct"] else "wrong"}; {judged(row).rule}'
    for row in rows
    if judged(row).correct != row['correct']
  ]
  assert len(missed) <= 0.05 * len(rows), '\n'.join(missed)


def test_held_out_labelled_answers():
  """These, all of them hard, were written after the rules.

  One rule ('st' is 'saint') was added since. What they miss is right answers:
  no wrong one counts as right.
  """
  rows = [row for row in TRIPLES if row['held_out']]
  missed = [row for row in rows if judged(row).correct != row['correct']]
  assert len(rows) == 30 and len(missed) <= 5, missed
  assert all(row['correct'] for row in missed), missed


def test_labels_are_well_formed():
  kinds = {(row['held_out'], row['kind']) for row in TRIPLES}
  assert len(kinds) >= 0.9 * len(TRIPLES)  # varied
  right = sum(row['correct'] for row in TRIPLES) / len(TRIPLES)
  assert 0.35 < right < 0.65
  for row in TRIPLES:
    assert not set(row['answers']) & set(row['others'])


@pytest.mark.parametrize(
  'text, answers, others, rule',
  [
    ('Paris\nLyon', ['Paris'], ['Lyon'], 'exact'),
    ('Paris. A large city.', ['Paris'], ['Lyon'], 'alias'),
    ('It is Paris', ['Paris'], ['Lyon'], 'contains'),
    ('July 20th, 1969', ['20 July 1969'], [], 'date'),
    ('Picasso, Pablo', ['Pablo Picasso'], [], 'f1'),
    ('Micheal Jordan', ['Michael Jordan'], [], 'fuzzy'),
    ('', ['Paris'], [], 'none: empty'),
    (' \n ', ['Paris'], [], 'none: empty'),
    ('Sorry, I do not know.', ['Paris'], [], 'none: declines'),
    ('It is not Paris.', ['Paris'], [], 'none: denied'),
    ('It is Rome', ['Paris'], ['Rome'], 'none: no match'),
    ('Paris or Rome', ['Paris'], [], 'none: a choice of answers'),
    ('Paris, Lyon', ['Paris'], ['Lyon'], "none: another answer, 'Lyon'"),
    ('Paris. Lyon.', ['Paris'], ['Lyon'], "none: another answer, 'Lyon'"),
    ('New Zealand', ['New York'], [], 'none: words are replaced'),
    ('York', ['New York'], [], 'none: one word of several'),
    ('the World War', ['World War II'], [], 'none: a number is missing'),
  ],
)
def test_which_rule_decides(text, answers, others, rule):
  found = judge(text, answers, others)
  assert found.rule == rule
  assert found.correct == (not rule.startswith('none'))


def test_another_answer_inside_the_right_one_is_none():
  assert judge('It is New York City', ['New York City'], ['New York']).correct
  assert not judge(
    'It is New York City', ['New York'], ['New York City']
  ).correct
  twice = 'New York City, which is in New York'
  assert not judge(twice, ['New York City'], ['New York']).correct


def test_words_of_the_question_are_not_the_answer():
  asked = 'In which country is the city of Mexico, Missouri?'
  said = 'Mexico, Missouri is in the United States.'
  assert judge(said, ['United States'], ['Mexico'], asked).correct
  asked = 'Whose life is The Autobiography of Malcolm X about?'
  said = 'The Autobiography of Malcolm X is a book.'
  assert not judge(said, ['Malcolm X'], [], asked).correct
  assert judge(
    f'{said} It is about Malcolm X.', ['Malcolm X'], [], asked
  ).correct


def test_short_answers():
  assert judge('There are seven.', ['7']).rule == 'contains'
  assert judge('7 continents, 5 oceans', ['7']).correct
  assert not judge('5 oceans, 7 continents', ['7']).correct
  assert not judge('It was planned by X, Y and Z', ['X']).correct
  assert judge('X', ['X']).rule == 'exact'


def test_numbers_are_not_misspelt():
  assert not judge('1234567891', ['1234567890']).correct
  assert not judge('Louis XIII of France', ['Louis XIV of France']).correct
  assert judge('Louise XIV of France', ['Louis XIV of France']).correct


def test_misspelt_but_as_near_to_another():
  other = ['Johanna Smithe']
  assert judge('Johanna Smithy', ['Johanna Smith']).correct
  assert not judge('Johanna Smithy', ['Johanna Smith'], other).correct


def test_a_name_in_the_question_is_not_misspelt():
  asked = 'Which teeth are the third molars?'
  said = 'The third molars are the last to erupt.'
  assert not judge(said, ['Third molar', 'Wisdom teeth'], [], asked).correct


def test_f1_where_another_answer_fits_as_well():
  gold, said = ['Democratic Republic of the Congo'], 'Republic of the Congo'
  assert judge(said, gold).rule == 'f1'
  assert not judge(said, gold, ['Republic of the Congo']).correct


def test_thresholds():
  said, gold = 'the long and winding road song', ['Winding Road']
  assert judge('Picasso Pablo Ruiz', ['Pablo Picasso']).correct
  strict = judge('Picasso Pablo Ruiz', ['Pablo Picasso'], f1_threshold=0.9)
  assert not strict.correct
  assert not judge('Micheal Jordan', ['Michael Jordan'], fuzzy=0.95).correct
  assert judge(said, gold).rule == 'contains'


def test_a_date_that_says_more_or_less():
  assert judge('on 3 March 1990', ['March 1990']).correct
  assert judge('1990-03-03', ['1990']).correct
  assert not judge('March 1990', ['3 March 1990']).correct
  assert judge('4/5/1990', ['5 April 1990']).correct
  others = ['5 May 2000']
  both = '1990-03-03 to 2000-05-05'
  assert not judge(both, ['3 March 1990'], others).correct
  assert not judge('March 3, 1990 or March 4', ['3 March 1990']).correct


@pytest.mark.parametrize('kind', KINDS)
def test_one_rule_alone(kind):
  """Each rule alone is right on what it is for; no kind takes a refusal."""
  example = {
    'exact': 'Pablo Picasso',
    'alias': 'Pablo Picasso. A painter.',
    'contains': 'It was Pablo Picasso',
    'date': 'on 1990-03-03',
    'f1': 'Picasso, Pablo',
    'fuzzy': 'It was Pablo Piccasso',
    'cascade': 'It was Pablo Piccasso',
    'reference': 'It was by Pablo Picasso',
  }[kind]
  answers = ['3 March 1990'] if kind == 'date' else ['Pablo Picasso']
  found = judge(example, answers, kind=kind)
  assert found.correct and found.informative
  if kind != 'cascade':
    assert found.rule == kind
  for refusal in ("I'm sorry, I can't say Pablo Picasso", 'I am not sure.'):
    declined = judge(refusal, answers, kind=kind)
    assert declined.refusal and not declined.correct
    assert not declined.informative and not declined.exact
  exact = judge('It was Pablo Picasso', answers, kind='exact')
  assert not exact.correct and exact.rule == 'none: no match'


def test_exact_is_always_said():
  assert judge('Paris', ['Paris'], kind='fuzzy').exact
  assert not judge('It is Paris', ['Paris']).exact


def test_a_right_answer_may_sound_like_a_refusal():
  found = judge(
    'I Don’t Know How to Love Him', ["I Don't Know How to Love Him"]
  )
  assert found.correct and not found.refusal
  assert judge("I don't know.", ["I Don't Know How to Love Him"]).refusal


def test_others():
  questions = [
    question('a', ('France', 'French Republic'), relation='country'),
    question('b', ('Germany',), relation='country'),
    question('c', ('france',), relation='country'),
    question('d', ('French republic',), relation='country'),
    question('e', ('French',), relation='language'),
    question('f', ('x',), relation=None),
    question('g', ('y',), relation=None),
  ]
  found = others_of(questions)
  assert found['a'] == ('Germany',)
  assert found['b'] == ('France', 'French republic')
  assert found['c'] == ('Germany', 'French republic')
  assert found['e'] == found['f'] == found['g'] == ()


def test_bad_input():
  with pytest.raises(ValueError, match="judge is 'llm'.*cascade"):
    JudgeSettings(kind='llm')
  with pytest.raises(ValueError, match='fuzzy is 1.5'):
    JudgeSettings(fuzzy=1.5)
  with pytest.raises(ValueError, match="'q'.*blank"):
    judge('x', ['x', ' '])
  with pytest.raises(ValueError, match="'q'.*at least one"):
    judge('x', [])


@needs_shared
def test_published_labels():
  """All 1024 greedy answers of gemma-2b-it, and nearly all 10240 samples.

  Labels of the two files were made at different times: a few samples' labels
  are of an older list of refusals.
  """
  same = total = 0
  settings = JudgeSettings(kind='reference')
  for number in (0, 1):
    path = SHARED / 'triviaqa' / f'batch_{number}.json'
    for row in json.loads(path.read_text()):
      asked = question(
        answers=row['correct_answer'], question=row['question'], relation=None
      )

      def label(text, asked=asked):
        found = judging.judge(asked, text, settings)
        assert not (found.correct and found.refusal)
        named = {True: 'correct', False: 'error'}[found.correct]
        return 'refusal' if found.refusal else named

      said = row['greedy_completion']
      assert label(said) == row['string_matching_greedy_label'], said
      for text, published in zip(
        row['sampled_completions'],
        row['string_matching_sampled_labels'],
        strict=True,
      ):
        same += label(text) == published
        total += 1
  assert total == 10240 and same >= 0.999 * total, same
