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
from tests.experiments.knowledge_probing.made import question
from tests.real_data import of_each

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


@pytest.mark.parametrize(
  'group, count, least',
  [
    ('seen', 70, 0.95),  # the rules were written with these in view
    ('seen later', 30, 0.95),  # written after them; 5 were missed, and mended
    # Somebody wrote these who never saw the rules, and nothing was mended:
    # 71 are judged as labelled.
    ('blind', 80, 0.85),
  ],
)
def test_labelled_answers(group, count, least):
  rows = [row for row in TRIPLES if row['group'] == group]
  assert len(rows) == count
  missed = [
    f'{row["prediction"]!r} for {row["answers"][0]!r} is '
    f'{"right" if row["correct"] else "wrong"}; {judged(row).rule}'
    for row in rows
    if judged(row).correct != row['correct']
  ]
  assert count - len(missed) >= least * count, '\n'.join(missed)


def test_labels_are_well_formed():
  kinds = {(row['group'], row['kind']) for row in TRIPLES}
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
    'amount': '29,032 feet',
    'f1': 'Picasso, Pablo',
    'fuzzy': 'It was Pablo Piccasso',
    'short': 'the painter was Picasso',
    'cascade': 'It was Pablo Piccasso',
    'reference': 'It was by Pablo Picasso',
  }[kind]
  answers = {'date': ['3 March 1990'], 'amount': ['8,849 metres']}.get(
    kind, ['Pablo Picasso']
  )
  found = judge(example, answers, asked='Who is it?', kind=kind)
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


@of_each
def test_published_labels(data):
  """All 1024 greedy answers of gemma-2b-it, and nearly all 10240 samples.

  Labels of the two files were made at different times: a few samples' labels
  are of an older list of refusals.
  """
  same = total = 0
  settings = JudgeSettings(kind='reference')
  for number in (0, 1):
    path = data / 'triviaqa' / f'batch_{number}.json'
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
  assert total in (640, 10240) and same >= total - 11, same


@pytest.mark.parametrize(
  'asked, answer, said, right',
  [
    # Amounts: units, scales, approximations.
    ('How high is it?', '8,849 metres', '29,032 feet', True),
    ('How high is it?', '8,849 metres', 'about 8,850 m', True),
    ('How high is it?', '8,849 metres', '8,850 m', False),
    ('How high is it?', '8,849 metres', '8849 feet', False),
    ('How high is it in metres?', '8849', '29,032 ft', True),
    ('How long is it?', '2 hours and 28 minutes', '148 minutes', True),
    ('How many?', '8,336,817', 'approximately 8.3 million', True),
    ('How many?', '8,336,817', 'approximately 8.5 million', False),
    ('How many?', '8,336,817', '8\u202f336\u202f817', True),
    ('How many?', '5.5 million', '5,488,984', True),
    ('How many?', '1150', '1152', False),
    ('How much?', '$5 million', 'five million dollars', True),
    ('How fast?', '300,000 km/s', '300,000 kilometres per second', True),
    ('How warm?', '100 °C', '100 degrees Celsius', True),
    ('How warm?', '100 °C', '100 °F', False),
    ('How many?', '148', 'one hundred and forty-eight', True),
    ('How many?', '12', 'a dozen', True),
    ('When?', '1914', 'about 1910', False),
    ('When?', '1914', 'between 1914 and 1918', False),
    ('How many faces has a cube of 2 cm?', '6', 'With 2 cm it has 6', True),
    ('How many squares are on it?', '9', '6 faces with 9 squares', True),
    # Other ways to write a name.
    ('Which war?', 'World War II', 'World War Two', True),
    ('Which war?', 'World War II', 'World War One', False),
    ('Which queen?', 'Elizabeth II', 'Elizabeth the Second', True),
    ('When?', '19th century', 'the nineteenth century', True),
    ('Who?', 'John Fitzgerald Kennedy', 'John F. Kennedy', True),
    ('Who?', 'George W. Bush', 'George H. W. Bush', False),
    ('Who?', 'Ludwig van Beethoven', 'It was Beethoven in 1824.', True),
    ('Who?', 'William Shakespeare', 'It was Nicholas Shakespeare.', False),
    ('Who?', 'Elizabeth I of England', 'It was a man of England.', False),
    ('Where?', 'Akron, Ohio', 'He was born in Akron.', True),
    ('Where?', 'Akron, Ohio', 'He was born in Ohio.', False),
    ('Which band?', 'Peter, Paul and Mary', 'Peter', False),
    ('Which planet?', 'Mercury (planet)', 'It is Mercury', True),
    ('Which ocean?', 'Pacific Ocean', 'It is the Pacific.', True),
    ('Which states?', 'United States', 'the United Kingdom', False),
    ('Which one?', 'North Atlantic Treaty Organization', 'NATO did.', True),
    ('Which one?', 'NATO', 'North Atlantic Treaty Organization', True),
    ('What?', 'Canadian Auto Territories', 'a cat', False),
    ('What?', 'Spider-Man', 'Spiderman', True),
    ('What?', 'The Colour Purple', '"The Color Purple"', True),
    ('What?', 'dogs', 'a dog', True),
    ('Who?', 'Robert Marks', 'Robert Mark', False),
    ('Which letter?', 'Q', 'the letter "q"', True),
  ],
)
def test_ways_to_say_it(asked, answer, said, right):
  assert judge(said, [answer], asked=asked).correct is right


@pytest.mark.parametrize(
  'said, right',
  [
    ('Canberra, which is smaller than Sydney', True),
    ('Sydney is larger, but it is Canberra', True),
    ('Canberra, although Sydney is larger', True),
    ('Canberra, north of Sydney', True),
    ('Canberra. Actually, Sydney.', False),
    ('Canberra and Sydney', False),
    ('Sydney rather than Canberra', False),
    ('Canberra was never it', False),
    ('I doubt it is Canberra', False),
    ('Canberra would be wrong', False),
    ("I'm not sure, but I think it's Canberra", True),
    ("Canberra, but I'm not sure.", True),
    ("I'm not sure, but I cannot say Canberra", False),
  ],
)
def test_another_answer_beside(said, right):
  assert judge(said, ['Canberra'], ['Sydney']).correct is right
