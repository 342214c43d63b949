"""Names in texts, by hand."""

import pytest

from experiments.entities.letter_folding import fold
from experiments.entities.mentions import (
  find_name,
  last_mention,
  stands_alone,
  titles_in,
  without,
)


@pytest.mark.parametrize(
  'text, name, first, last',
  [
    ('Romeo in Rome, Rome', 'Rome', 9, 15),
    ('Romeo', 'Rome', -1, -1),
    ('10.5 or 10,000 or 10', '10', 18, 18),
    ('the end', '', -1, -1),
    ('東京の首都は', '東京', 0, 0),
    ('서울의', '서울', 0, 0),
    ('a party of art', 'art', 11, 11),
    ("What's Up? is", "What's Up?", 0, 0),
    ('aa', 'a', -1, -1),
  ],
)
def test_whole_words(text, name, first, last):
  assert find_name(text, name) == first
  assert find_name(text, name, last=True) == last


def test_mentions_are_left_out():
  gone = '\ufffc'
  assert without("'1917' was in 1917", '1917') == f'{gone} was in {gone}'
  assert last_mention("'1917' was in 1917", '1917') == f'{gone} was in 1917'
  assert last_mention("'1917' is old", '1917') == f'{gone} is old'
  assert without('It’s i don’t', "I Don't") == 'It’s i don’t'
  assert without('“i don’t”', "I Don't") == gone
  assert without('no', '') == 'no'


def test_titles():
  assert titles_in('Who sang "Sorry" and ‘Help!’?') == ['Sorry', 'Help!']
  assert titles_in("It's the dog's") == []


def test_what_stands_alone():
  assert stands_alone('by Earth.', 'Earth')
  assert not stands_alone('on Planet Earth', 'Earth')
  assert not stands_alone('Earth, Wind & Fire', 'Earth')
  assert stands_alone('President Obama', 'Obama', {'president'})
  assert stands_alone('by obama', 'Obama')
  assert stands_alone('a Łukasz', 'Lukasz')


@pytest.mark.parametrize(
  'text, folded',
  [
    ('Łódź', 'Lodz'),
    ('Đà Nẵng', 'Da Nang'),
    ('Þórður ægir', 'Thordur aegir'),
    ('Œuvre ẞ ß', 'Oeuvre SS ss'),
    ('Diyarbakır İzmir', 'Diyarbakir Izmir'),
    ('Ｕ２', 'U2'),
    ('ガ', 'ガ'),
    ('plain', 'plain'),
  ],
)
def test_folding(text, folded):
  assert fold(text) == folded
