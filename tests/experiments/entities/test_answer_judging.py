"""Judges against vectors that were computed with the paper's own functions."""

import pytest

from experiments.entities import PROMPT_TYPES, is_correct
from experiments.entities.answer_judging import (
  Genre,
  Name,
  Names,
  Number,
  NumberInList,
  Place,
  PlaceName,
  SongGenre,
  Substring,
  Year,
)
from experiments.entities.name_matching import names_any, thefuzz_ratio

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
    Names(),
    'He played for the Lakers.',
    'Los Angeles Lakers,Miami Heat',
    False,
    False,
  ),
  (Year(5), 'born in 1966', '1960', False, False),
  (Number(0.1, relative=True), 'pop 1079999', '1200000', False, False),
  (Number(0.1, relative=True), 'pop 1080000', '1200000', True, True),
  (Number(20, unit='m'), 'elevation -5 m', '5', True, True),
  (Place(1), '41.3851° N, 2.1734° E', BARCELONA, True, True),
  (Place(1), '41.3851', BARCELONA, False, False),
  (Place(1), '2.1 and 2.2', 'Point(2.17 41.38)', True, False),
  (Place(1), 'Latitude=41', 'Point(41.5 40.9)', True, False),
  (Place(1), '39.9, 41.2', 'Point(41.5 40.5)', False, True),
  (Genre(), 'It is a dramatic piece', 'comedy film,drama film', True, False),
  (NumberInList(3, unit='min'), 'It lasts 122 minutes', '125', True, True),
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
  assert Names()(completion, answer) is right


@pytest.mark.parametrize(
  'completion, answer, right',
  [
    ('1,200,000 people', '1200000', True),
    ('about 12,3456', '12', True),  # no thousands
    ('born 1960-1965', '1960', True),
    ('at −3.5', '-3.5', True),
    ('at 3.5', '-3.5', False),
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
  judge = NumberInList(3, unit='min')
  assert judge('122 min', '90, 125')
  assert not judge('80 or 122 min', '90, 125')
  assert judge('80 or 122 min', '90, 125', 'reference')


def test_other_judges_and_modes():
  assert Substring()('Yes, I do', 'Yes')
  assert not Substring()('Yesterday', 'Yes')
  assert Substring()('Yesterday', 'Yes', 'reference')
  assert names_any('the Beatles', ['Abba', 'The Beatles'])
  movie = PROMPT_TYPES['movie_durations']
  assert is_correct(movie, '126', '90, 125', 'reference', subject='X')
  with pytest.raises(ValueError, match="mode is 'strict'"):
    is_correct(movie, '126', '125', 'strict', subject='X')
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


# Asked about, entity, answer, what is said, right.
WITH_SUBJECTS = [
  ('player_date_birth', 'X', '1978', 'born on August 23, 1978.', True),
  ('player_date_birth', 'X', '1984', '30 December 1984 in Akron, Ohio', True),
  ('player_date_birth', 'X', '1984', '30.12.1984', True),
  ('player_date_birth', 'X', '1978', 'He debuted in 1998, born in 1978', True),
  ('player_date_birth', 'X', '1963', ' 1984. The year of birth is 1963', False),
  ('movie_release_year', '1917', '2019', "'1917' was released in 2019.", True),
  ('movie_release_year', '1917', '2019', '1917 was released in 1917.', False),
  ('movie_release_year', '1984', '1956', "'1984' was released in 1956", True),
  ('movie_release_year', '1984', '1984', "'1984' was released in 1956", False),
  ('movie_release_year', '1984', '1984', "'1984' is a film", False),
  ('movie_release_year', '1984', '1984', '1984', True),
  ('movie_release_year', '1984', '1984', "'1984' is from 1984", True),
  ('movie_durations', '12 Angry Men', '96', "'12 Angry Men' has 96", True),
  ('movie_durations', 'X', '148', '2 hours and 28 minutes (148 minutes)', True),
  ('movie_durations', 'X', '148', 'the 1999 film runs 148 min', True),
  ('movie_durations', 'X', '90, 148', '2h28m', True),
  ('movie_durations', 'X', '120', 'a two-hour film', True),
  ('city_population', 'X', '114394', 'As of the 2020 census, 114,394', True),
  ('city_population', 'X', '8336817', 'approximately 8.3 million', True),
  ('city_population', 'X', '114394', '114\u202f394 in 2020', True),
  ('city_population', '29 Palms', '25000', '29 Palms has 25 000', True),
  ('city_population', 'X', '5000', 'the 3rd city, 12 km², has 5000', True),
  ('city_elevation', 'X', '366', '1,200 ft (366 m)', True),
  ('city_elevation', 'X', '366', '1,200 feet', True),
  ('city_elevation', 'X', '366', '1,200', False),
  ('city_elevation', 'X', '-28', '28 m (92 ft) below sea level', True),
  ('player_height', 'X', '201', '6 ft 7 in', True),
  ('player_height', 'X', '201', '6\'7" tall', True),
  ('player_weight', 'X', '107', '235 lb (107 kg)', True),
  ('city_country', 'Rome', 'Italy', 'Rome is in Italy', True),
  ('city_country', 'Mexico City', 'Mexico', 'Mexico City is in Spain', False),
  ('city_country', 'Monaco', 'Monaco', 'Monaco is in France.', False),
  ('city_country', 'Monaco', 'Monaco', 'Monaco lies in Monaco.', True),
  ('city_country', 'X', 'United States of America', 'in the U.S.', True),
  ('song_album', 'Sorry', 'Still', 'It is still not known to me.', False),
  ('song_album', 'X', 'Alright, Still', 'It is still not known', False),
  ('song_album', 'X', 'Alright, Still', 'on Alright Still.', True),
  ('song_album', 'Bad', 'Bad', "The song 'Bad' is on Thriller", False),
  ('song_album', 'Bad', 'Bad', "'Bad' is on the album of the same name", True),
  ('song_genres', 'X', 'pop music, funk', 'Pop', True),
  ('player_place_birth', 'X', 'Washington, D.C.', 'in Washington DC', True),
  ('player_place_birth', 'X', 'Akron, Ohio', 'in Ohio', False),
]


@pytest.mark.parametrize('asked, subject, answer, said, right', WITH_SUBJECTS)
def test_judges_know_what_is_asked(asked, subject, answer, said, right):
  found = is_correct(PROMPT_TYPES[asked], said, answer, subject=subject)
  assert found is right


@pytest.mark.parametrize(
  'completion, answer, right',
  [
    ('It was Bonnie Tyler.', 'Tyler, the Creator', False),
    ('It was Tyler, The Creator.', 'Tyler, the Creator', True),
    ('by Earth, Wind and Fire', 'Earth, Wind & Fire', True),
    ('Down to earth', 'Earth, Wind & Fire', False),
    ('on Planet Earth', 'Earth, Wind & Fire', False),
    ('the Emotions', 'Earth, Wind & Fire, The Emotions', True),
    ('Neil Young', 'Crosby, Stills, Nash & Young', False),
    ('Peter Gabriel', 'Peter, Paul and Mary', False),
    ('Peter, Paul, and Mary', 'Peter, Paul and Mary', True),
    ('by the singer Inna.', 'Inna, Play & Win', True),
    ('Yandel, Wisin & Yandel', 'Ricky Martin, Wisin & Yandel', True),
    ('It is close to my heart', 'Heart', False),
    ('by Heart', 'Heart', True),
    ('madonna', 'Madonna', True),
    ('sung by Beatles', 'The Beatles', True),
    ('Łódź', 'Lodz', True),
    ('Tromso', 'Tromsø', True),
    ('Strasse', 'Straße', True),
    ('Isparta, Diyarbakir', 'Diyarbakır', True),
    ('Psalm 2 (Part 1)', 'Psalm 1 (Part 1)', False),
    (
      "United Kingdom men's national basketball team",
      "United States men's national basketball team",
      False,
    ),
  ],
)
def test_names_with_commas_and_letters(completion, answer, right):
  assert Names()(completion, answer) is right


def test_one_name_and_a_places_name():
  assert not Name()('Still', 'Alright, Still')
  assert PlaceName()('Akron', 'Akron, Ohio')
  assert not PlaceName()('Ohio', 'Akron, Ohio')


def test_published_rules_do_not_depend_on_the_kind_of_name():
  for judge in (Name(), Names(), PlaceName(), SongGenre()):
    assert judge('still here', 'Alright, Still', 'reference')
    assert judge('1917', '1917', 'reference', '1917')


@pytest.mark.parametrize(
  'completion', ['N 41.38°, E 2.17°', '41.38 degrees north, 2.17 degrees East']
)
def test_sides_in_words_and_before(completion):
  assert Place(1)(completion, BARCELONA)
  assert not Place(1)(completion, 'Point(-2.176 41.38)')


def test_what_attempts_an_answer():
  duration = NumberInList(3, unit='min')
  assert duration.attempts('two hours') and not duration.attempts('long')
  assert not duration.attempts("'1984' is long", '1984')
  assert Name().attempts('x') and not Name().attempts('?!')


def test_a_genre_of_its_own_name_keeps_it():
  assert not Genre()('noir', 'drama film, film noir')
  assert Genre()('a film noir', 'drama film, film noir')
