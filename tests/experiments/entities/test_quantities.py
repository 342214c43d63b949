"""Numbers with their units, by hand."""

import pytest

from experiments.entities.quantities import amounts, quantity, unit_of, years


@pytest.mark.parametrize(
  'text, unit, first',
  [
    ('2 hours and 28 minutes', 'min', 148),
    ('2 hrs. 28 mins.', 'min', 148),
    ('148-minute', 'min', 148),
    ('an hour and a half', 'min', 90),
    ('two and a half hours', 'min', 150),
    ('1½ hours', 'min', 90),
    ('140-150 minutes', 'min', 140),
    ('1999 - 148 minutes', 'min', 148),
    ('366 metres (1,200 ft)', 'm', 366),
    ('1.2 km', 'm', 1200),
    ('366 km² at 500 m', 'm', 500),
    ('6’7”', 'cm', 200.66),
    ('born 30 in Akron, 198 cm', 'cm', 198),
    ('16 stone 11 lb', 'kg', 106.594),
    ('in 2011, 12,000 people', '', 12000),
    ('(2020): 5000', '', 5000),
    ('12,345,678', '', 12345678),
    ('1,23,456', '', 123456),
    ('8.336.817', '', 8336817),
    ('8 336 817', '', 8336817),
    ('1.5 lakh', '', 150000),
    ('three hundred thousand', '', 300000),
    ('half a million', '', 500000),
    ('between 8 and 9 million', '', 8e6),
    ('8.3M', '', 8.3e6),
    ('10% of 5000', '', 5000),
    ('one of 5000', '', 5000),
    ('population of 2013', '', 2013),
  ],
)
def test_the_likeliest_comes_first(text, unit, first):
  assert amounts(text, unit)[0] == pytest.approx(first, rel=1e-5)


def test_none():
  assert amounts('some') == [] and amounts('long', 'min') == []


@pytest.mark.parametrize(
  'text, found',
  [
    ('August 23, 1978.', [1978]),
    ('1984-12-30', [1984]),
    ('30.12.1984', [1984]),
    ('1960-1965', [1960, 1965]),
    ('born 1984 in Akron', [1984]),
    ('in the 1990s', []),
    ('1,984', []),
    ('$1984', []),
    ('1984 people and 1984 m', []),
    ('12345', []),
  ],
)
def test_years(text, found):
  assert years(text) == found


@pytest.mark.parametrize(
  'text, found',
  [
    ('8,849 metres', (8849, 'm')),
    ('2 hours and 28 minutes', (148, 'min')),
    ('78%', (78, '')),
    ('$5 million', (5e6, '')),
    ('11 players', (11, '')),
    ('12 Angry Men', None),
    ('9 to 5', None),
    ('27 January', None),
    ('Paris', None),
  ],
)
def test_a_text_that_is_a_number(text, found):
  assert quantity(text) == found


def test_names_of_units():
  assert [unit_of(w) for w in ('feet', 'hours', 'kg', 'in', 'm', 'x')] == [
    'm',
    'min',
    'kg',
    'm',
    '',
    '',
  ]
