"""Questions about cities: published rows, and small ones with traps."""

import collections
import json

import pytest

from experiments.knowledge_probing.cities import RELATIONS, city_questions
from tests.real_data import WHOLE, of_each


def row(name, country, population='1000'):
  return {
    'cityLabel': name,
    'countryLabel': country,
    'loc': 'Point(1.0 2.0)',
    'recent_population': population,
    'above_sea_meters': '7',
  }


ITALY = 'Milano Torino Verona Bologna Catania Messina Perugia Ravenna'.split()
ROWS = [
  *(row(name, 'Italy', str(9000 - i)) for i, name in enumerate(ITALY)),
  row('Paris', 'France'),
  row('Paris', 'Canada'),
  row('Italy City', 'Italy', '99999'),
  row('Peru', 'Italy', '99999'),
  row('Roma (Comune)', 'Italy', '99999'),
  row('Q42', 'Italy', '99999'),
  row('Рим', 'Italy', '99999'),
  row('Xanadu', 'Kingdom of Nowhere'),
  *(row(name, "People's Republic of China") for name in ('Wuhan', 'Lanzhou')),
]


def write(folder, rows=ROWS):
  path = folder / 'city.json'
  path.write_text(json.dumps(rows))
  return path


def test_a_country(tmp_path):
  found = city_questions(write(tmp_path), per_country=4, made_up=3)
  real = [each for each in found if each.known is None]
  names = list(dict.fromkeys(each.entity for each in real))
  # The two largest, then two others; nothing that tells, or that is nothing.
  assert names[:2] == ['Milano', 'Torino'] and set(names[2:]) < set(ITALY[2:])
  assert len(names) == 4 and len(real) == 12
  milan = {q.relation: q for q in real if q.entity == 'Milano'}
  assert milan['country'].question == 'In which country is the city of Milano?'
  assert milan['country'].answers == ('Italy',)
  assert milan['continent'].answers == ('Europe',)
  assert milan['language'].answers == ('Italian',)
  assert {q.group for q in found} == {'Italy'} == {q.unit for q in found}
  assert {(q.type, q.cluster == q.entity) for q in found} == {('city', True)}


def test_made_up_cities(tmp_path):
  found = city_questions(write(tmp_path), per_country=4, made_up=12)
  made = [each for each in found if each.known is False]
  assert len(made) == 36 and {q.answers for q in made} == {('no such place',)}
  assert {q.relation for q in made} == set(RELATIONS)
  names = {q.entity for q in made}
  assert len(names) == 12 and not names & {each['cityLabel'] for each in ROWS}
  for name in names:  # two halves of names of the country
    assert any(
      any(a.startswith(name[:i]) for a in ITALY)
      and any(b.endswith(name[i:]) for b in ITALY)
      for i in range(2, len(name) - 1)
    )
  with pytest.raises(ValueError, match='made_up=100 are asked for'):
    city_questions(write(tmp_path), made_up=100)


def test_names_of_wikidata_are_aliases(tmp_path):
  found = city_questions(write(tmp_path), per_country=2, made_up=0)
  wuhan = {q.relation: q.answers for q in found if q.entity == 'Wuhan'}
  assert wuhan['country'] == ('China', "People's Republic of China")
  assert wuhan['language'] == ('Chinese', 'Mandarin')


def test_errors(tmp_path):
  with pytest.raises(ValueError, match='the largest has 8'):
    city_questions(write(tmp_path), per_country=9)
  with pytest.raises(ValueError, match='per_country=0'):
    city_questions(write(tmp_path), per_country=0)
  with pytest.raises(FileNotFoundError, match='none.json'):
    city_questions(tmp_path / 'none.json')


@of_each
def test_published_cities(data):
  path = data / 'wikidata' / 'city.json'
  found = city_questions(path)
  assert len({q.id for q in found}) == len(found)
  real = {q.entity: q for q in found if q.known is None}
  made = {q.entity: q for q in found if q.known is False}
  countries = collections.Counter(q.group for q in real.values())
  assert {q.group for q in made.values()} <= countries.keys()
  if data == WHOLE:
    assert 350 < len(real) < 370 and len(made) == 110
    assert 85 < len(countries) < 95 and set(countries.values()) == {4}
  # Neither length nor number of words tells them apart.
  length = [sum(map(len, names)) / len(names) for names in (real, made)]
  words = [
    sum(not n.isalpha() for n in names) / len(names) for names in (real, made)
  ]
  assert abs(length[0] - length[1]) < 0.7 and abs(words[0] - words[1]) < 0.08
  assert city_questions(path) == found != city_questions(path, seed=1)
