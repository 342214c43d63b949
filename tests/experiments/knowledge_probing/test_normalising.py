"""Answers as words, numbers and dates."""

import re
import string

import pytest

from experiments.entities.name_matching import occurrences
from experiments.knowledge_probing.normalising import (
  Date,
  dates,
  dates_alone,
  normalise,
  numbers,
  words,
)


def squad(text):
  """SQuAD's normaliser, from its description: the reference on plain text."""
  text = ''.join(c for c in text.lower() if c not in string.punctuation)
  return ' '.join(re.sub(r'\b(a|an|the)\b', ' ', text).split())


@pytest.mark.parametrize(
  'text',
  [
    'The  capital, of a country!',
    'Guns N Roses (the band)',
    '"An answer"; a good answer.',
    'WORLD WAR II',
  ],
)
def test_plain_text_is_as_squad_has_it(text):
  assert normalise(text) == squad(text)


@pytest.mark.parametrize(
  'text, expected',
  [
    ('', ''),
    (' \n\t ', ''),
    ('The', 'the'),
    ('The The', 'the the'),
    ('!!!', '!!!'),
    ('New_York', 'new york'),
    ('Jean-Paul Sartre', 'jean paul sartre'),
    ('“Guns N’ Roses”', 'guns n roses'),
    ("O'Neill’s", 'oneill'),
    ('Procter & Gamble', 'procter and gamble'),
    ('U.S.A.', 'usa'),
    ('U.S.A', 'usa'),
    ('J. R. R. Tolkien', 'jrr tolkien'),
    ('J.R.R. Tolkien’s', 'jrr tolkien'),
    ('St. Louis', 'saint louis'),
    ('C++', 'c++'),
    ('C', 'c'),
    # Unicode.
    ('Beyoncé', 'beyonce'),
    ('Beyonce\u0301', 'beyonce'),
    ('ŁÓDŹ, Tromsø', 'lodz tromso'),
    ('Straße', 'strasse'),
    ('Ｕ２', 'u2'),
    ('ﬁne', 'fine'),
    ('ガラス', 'ガ ラ ス'),
    ('हिन्दी, भाषा।', 'हिन्दी भाषा'),
    ('שָׁלוֹם', 'שָׁלוֹם'),
    # Numbers.
    ('1,990', '1990'),
    ('12,345,678.90', '12345678.9'),
    ('12,3456', '12 3456'),
    ('3.0', '3'),
    ('100', '100'),
    ('-5', '-5'),
    ('\u22125', '-5'),
    ('1960-1965', '1960 1965'),
    ('1990s', '1990s'),
    ('8849m', '8849 meters'),
    ('seven', '7'),
    ('Twenty', '20'),
    ('twenty-one', '21'),
    ('thirty two', '32'),
    ('one two', '1 2'),
    ('twenty twenty', '20 20'),
    ('1.5 million', '1500000'),
    ('five million', '5000000'),
    ('Million Dollar Baby', 'million dollar baby'),
  ],
)
def test_normalise(text, expected):
  assert normalise(text) == expected


def test_scripts_with_marks_keep_what_tells_words_apart():
  assert normalise('की') != normalise('का')
  assert normalise('ガ') != normalise('カ')


def test_normalising_again_changes_nothing():
  for text in ('The U.S., 1,990 “miles”', 'twenty-one', '1.5 million', '-3.50'):
    assert normalise(normalise(text)) == normalise(text)


def test_numbers():
  assert numbers('between 1,200 and twelve, at -3.5 degrees') == (
    1200,
    12,
    -3.5,
  )
  assert numbers('in the 1990s, U2') == ()


@pytest.mark.parametrize(
  'text, expected',
  [
    ('born on 3 March 1990.', {(1990, 3, 3)}),
    ('March 3rd, 1990', {(1990, 3, 3)}),
    ('the 3rd of March, 1990', {(1990, 3, 3)}),
    ('Sept. 11, 2001', {(2001, 9, 11)}),
    ('1990-03-13', {(1990, 3, 13)}),
    ('13/3/1990', {(1990, 3, 13)}),
    ('4/5/1990', {(1990, 5, 4), (1990, 4, 5)}),
    ('March 1990', {(1990, 3, None)}),
    ('4 July', {(None, 7, 4)}),
    ('in 1990', {(1990, None, None)}),
    ('4 July 1776 or 1777', {(1776, 7, 4), (1777, None, None)}),
    ('1990s', set()),
    ('31/31/1990', set()),
    ('1,990', set()),
    ('', set()),
  ],
)
def test_dates(text, expected):
  assert dates(text) == {Date(*each) for each in expected}


def test_a_date_says_what_its_parts_say():
  whole = Date(1990, 3, 3)
  assert whole.has(Date(1990, None, None)) and whole.has(Date(1990, 3, None))
  assert not Date(1990, None, None).has(whole)
  assert not whole.has(Date(1991, None, None))


def test_dates_alone():
  assert dates_alone('on the 4th of July') == {Date(None, 7, 4)}
  assert not dates_alone('4 July is a holiday') and not dates_alone('Paris')


def test_occurrences_are_whole_words():
  said = words('new york, new york and york')
  assert occurrences(('new', 'york'), said) == [0, 2]
  assert occurrences(('york', 'and', 'york', 'x'), said) == []
  assert occurrences(('yor',), said) == []
