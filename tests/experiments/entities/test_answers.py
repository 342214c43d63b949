"""Judges against vectors that were computed with the paper's own functions."""

import pytest

from experiments.entities import PROMPT_TYPES, is_correct
from experiments.entities.answers import (
  Genre,
  Name,
  Number,
  NumberInList,
  Place,
  Substring,
  names_any,
  thefuzz_ratio,
)

BARCELONA = 'Point(2.176944444 41.3825)'
# (judge, completion, answer, right by reference, right by default)
GOLDEN = [
  (Name(), 'The director is Sidney Lumet.', 'Sidney Lumet', True, True),
  (Name(), 'It was directed by Lumet.', 'Sidney Lumet', False, False),
  (Name(), 'directed by sydney lumet', 'Sidney Lumet', False, False),
  (Name(), 'Michael Jordon', 'Michael Jordan', True, True),
  (Name(), 'New York City', 'New York', True, True),
  (Name(), 'located in the US', 'United States of America', True, True),
  (
    Name(),
    'He played for the Lakers.',
    'Los Angeles Lakers,Miami Heat',
    False,
    False,
  ),
  (Number(5), 'born in 1966', '1960', False, False),
  (Number(0.1, relative=True), 'pop 1079999', '1200000', False, False),
  (Number(0.1, relative=True), 'pop 1080000', '1200000', True, True),
  (Number(20), 'elevation -5 m', '5', True, True),
  (Place(1), '41.3851° N, 2.1734° E', BARCELONA, True, True),
  (Place(1), '41.3851', BARCELONA, False, False),
  (Place(1), '2.1 and 2.2', 'Point(2.17 41.38)', True, False),
  (Place(1), 'Latitude=41', 'Point(41.5 40.9)', True, False),
  (Place(1), '39.9, 41.2', 'Point(41.5 40.5)', False, True),
  (Genre(), 'It is a dramatic piece', 'comedy film,drama film', True, False),
  (NumberInList(3), 'It lasts 122 minutes', '125', True, True),
]


@pytest.mark.parametrize(
  'judge, completion, answer, reference, default', GOLDEN
)
def test_golden(judge, completion, answer, reference, default):
  assert judge.accepts(answer)
  assert judge(completion, answer, 'reference') is reference
  assert judge(completion, answer) is default


@pytest.mark.parametrize(
  'completion, name, score',
  [
    ('It was directed by Lumet.', 'Sidney Lumet', 59),
    ('directed by sydney lumet', 'Sidney Lumet', 61),
    ('Michael Jordon', 'Michael Jordan', 93),
    ('He played for the Lakers.', 'Los Angeles Lakers', 52),
    ('He played for the Lakers.', 'Miami Heat', 29),
    ('Beyonc', 'Beyoncé', 100),  # é is deleted,
    ('Niksic', 'Nikšić', 67),  # š and ć are not
    ('', 'Paris', 0),
  ],
)
def test_scores_are_those_of_thefuzz(completion, name, score):
  """By thefuzz 0.22.1, and the paper's specification."""
  assert thefuzz_ratio(name, completion) == score


@pytest.mark.parametrize(
  'completion, answer, right',
  [
    # Accents.
    ('Nikšić, Montenegro', 'Niksic', True),
    ('born in Niksic.', 'Nikšić', True),
    ('Beyonce', 'Beyoncé', True),
    # A suffix is no name.
    ('Charles Smith, Jr.', 'Sammy Davis, Jr.', False),
    ('Sammy Davis Jr. sang it', 'Dean Martin, Sammy Davis, Jr.', True),
    ('William III', 'Henry, III', False),
    # Short names: whole tokens, as they are written.
    ('he told us', 'United States of America', False),
    ('in the USA', 'United States of America', True),
    ("China's east", "People's Republic of China", True),
    ('Rome is in Italy', 'Rio', False),
    ('a song by U2.', 'U2', True),
    ('he is IN it', 'In', False),
    ('...', '!!!', False),
    # All words, but not one after the other.
    ('York is new to me', 'New York', False),
    ('The Angels of Los Lakers Angeles', 'Los Angeles Lakers', False),
    # A part of the name.
    ('Lumet', 'Sidney Lumet', False),
  ],
)
def test_names_by_default(completion, answer, right):
  assert Name()(completion, answer) is right


@pytest.mark.parametrize(
  'completion, answer, right',
  [
    ('in 1990, but others say 1960', '1960', False),
    ('1,200,000 people', '1200000', True),
    ('about 12,3456', '12', True),  # no thousands
    ('born 1960-1965', '1960', True),
    ('at −3.5 m', '-3.5', True),
    ('at 3.5 m', '-3.5', False),
    ('none', '0', False),
  ],
)
def test_numbers_by_default(completion, answer, right):
  assert Number(0)(completion, answer) is right


def test_relative_tolerance_of_a_negative_answer():
  judge = Number(0.1, relative=True)
  assert judge('-95', '-100') and not judge('-80', '-100')


@pytest.mark.parametrize(
  'completion, right',
  [
    ('2.17 E, 41.38 N', True),  # letters override the order
    ('41.38, 2.17 E', True),
    ('41.38° S, 2.17° E', False),
    ('41.38 N, 2.17 W', False),
    ('-41.38 N, -2.17 E', True),  # and the sign
    ('41°23′00″N 2°11′00″E', True),
    ("41° 22' N, 2° 10' E", True),
    ('41.38 N, 2.17 N', False),
    ('2.17, 41.38', False),
    ('Latitude=41.4 Longitude=2.2', True),
    ('Latitude 41.4; Longitude 3.3', False),
  ],
)
def test_places_by_default(completion, right):
  assert Place(1)(completion, BARCELONA) is right


def test_southern_and_western_places():
  assert Place(1)('33.87° S, 70.6° W', 'Point(-70.65 -33.45)')
  assert Place(1)('-33.87, -70.6', 'Point(-70.65 -33.45)')
  assert not Place(1)('33.87, 70.6', 'Point(-70.65 -33.45)')
  assert Place(1)('33.87, 70.6', 'Point(-70.65 -33.45)', 'reference')


@pytest.mark.parametrize(
  'completion, right',
  [
    ('a science fiction film', True),
    ('Drama.', True),
    ('melodrama', False),
    ('fiction', False),
  ],
)
def test_genres_by_default(completion, right):
  assert Genre()(completion, 'drama film, science fiction film') is right


def test_durations():
  assert NumberInList(3)('122 min', '90, 125')
  assert not NumberInList(3)('80 or 122 min', '90, 125')
  assert NumberInList(3)('80 or 122 min', '90, 125', 'reference')


def test_other_judges_and_modes():
  assert Substring()('Yes, I do', 'Yes')
  assert names_any('the Beatles', ['Abba', 'The Beatles'])
  movie = PROMPT_TYPES['movie_durations']
  assert is_correct(movie, '126', '90, 125', mode='reference')
  with pytest.raises(ValueError, match="mode is 'strict'"):
    is_correct(movie, '126', '125', mode='strict')
  with pytest.raises(ValueError, match='Point.*Rome'):
    Place(1)('41, 2', 'Rome')


@pytest.mark.parametrize(
  'judge, answer',
  [
    (Number(5), 'about 1986'),
    (Number(5), 'nan'),
    (NumberInList(3), '90 min'),
    (Place(1), 'Point(2.1)'),
    (Place(1), '41.3 N, 2.1 E'),
    (Name(), ' '),
  ],
)
def test_malformed_answers(judge, answer):
  assert not judge.accepts(answer)
