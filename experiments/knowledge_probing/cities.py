"""Questions about real cities, and about cities that do not exist.

Cities are those of the published Wikidata rows. A country's continent and
language are those of `experiments/factual_recall/facts/countries.json`; cities
of other countries are left out. Whole countries are split: `group` is the
country, so that no held-out answer can be learnt from a city's neighbours.
"""

from collections.abc import Iterator, Mapping, Sequence
import os
import re

import numpy as np
from rapidfuzz import process
from rapidfuzz.distance import Levenshtein

from experiments.entities import Entity, process_raw
from experiments.entities.json_rows import read_rows
from experiments.factual_recall import Fact, read_task
from experiments.knowledge_probing.probe_records import Question

RELATIONS = {
  'country': 'In which country is the city of {}?',
  'continent': 'On which continent is the city of {}?',
  'language': (
    'What is the main language of the country in which the city of {} lies?'
  ),
}
# What is right about a city that does not exist.
NOWHERE = 'no such place'
TYPE = 'city'

# Wikidata's label -> the name in countries.json.
_LABELS = {
  "People's Republic of China": 'China',
  'Republic of Ireland': 'Ireland',
  'The Gambia': 'Gambia',
}
# What else an answer may be called: common knowledge, written down here.
_ALSO = {
  'China': ("People's Republic of China",),
  'Ireland': ('Republic of Ireland',),
  'Gambia': ('The Gambia',),
  'Myanmar': ('Burma',),
  'Netherlands': ('Holland',),
  'North Macedonia': ('Macedonia',),
  'Russia': ('Russian Federation',),
  'South Korea': ('Republic of Korea', 'Korea'),
  'Turkey': ('Türkiye',),
  'Oceania': ('Australia', 'Australasia'),
  'Azerbaijani': ('Azeri',),
  'Bengali': ('Bangla',),
  'Burmese': ('Myanmar',),
  'Chinese': ('Mandarin',),
  'Filipino': ('Tagalog',),
  'Indonesian': ('Bahasa Indonesia',),
  'Malay': ('Bahasa Melayu',),
  'Slovene': ('Slovenian',),
}
# Languages that are as much a country's as the one in countries.json.
_LANGUAGES_TOO = {
  'Afghanistan': ('Dari', 'Persian'),
  'Belarus': ('Belarusian',),
  'Belgium': ('French',),
  'Bolivia': ('Quechua',),
  'Burundi': ('French',),
  'Cameroon': ('English', 'French'),
  'Canada': ('French',),
  'Chad': ('Arabic', 'French'),
  'Cyprus': ('Turkish',),
  'Haiti': ('Haitian Creole', 'French'),
  'India': ('English',),
  'Kazakhstan': ('Russian',),
  'Kyrgyzstan': ('Russian',),
  'Madagascar': ('French',),
  'Pakistan': ('English',),
  'Paraguay': ('Guarani',),
  'Philippines': ('English',),
  'Rwanda': ('English', 'French'),
  'Switzerland': ('French', 'Italian'),
  'Tanzania': ('English',),
}
# Half a name is at least so long, and a country has at least so many names
# that can be halved.
_SHORTEST_HALF, _FEWEST_NAMES = 2, 4
# Latin words alone: others hold an explanation, as 'Santa Ana (Chapare)', or
# are in another script.
_WORD = '[A-Za-zÀ-ÖØ-öø-ɏḀ-ỿ]+'
_NAME = re.compile(f"{_WORD}(?:[ '’-]{_WORD})*")
_VOWELS = set('aeiouyáàâãäåéèêíìîïóòôõöúùûüăāēīōūыı')


def city_questions(
  path: str | os.PathLike,
  *,
  per_country: int = 4,
  made_up: int = 110,
  seed: int = 0,
) -> list[Question]:
  """Returns three questions about each of some real and some made-up cities.

  Names that occur twice in the rows, cities that hold the name of their country
  or have another's, and countries with fewer than `per_country` cities are left
  out. Half of a country's cities are its most populous ones, the others random.
  A made-up name joins halves of two names of one country, so that spelling
  tells the country of both kinds alike; it differs from every row's by two
  letters or more, but a place too small for the rows may have it. Its only
  right answer is NOWHERE.

  Args:
    path: Rows of a Wikidata query for cities (`entities/wikidata.py`).
    per_country: Real cities of each country.
    made_up: Cities that do not exist, spread over the countries.
    seed: Random seed.

  Raises:
    FileNotFoundError, ValueError: there is no such file, it is malformed, it
      has no country with so many cities, or too few names to make others of.
  """
  if per_country < 1 or made_up < 0:
    raise ValueError(
      f'per_country={per_country} must be at least 1, made_up={made_up} at '
      'least 0.'
    )
  rows = read_rows(path)
  countries = {fact.subject: fact for fact in read_task('countries').facts}
  cities = _by_country(process_raw(rows, TYPE, origin=str(path)), countries)
  enough = {k: v for k, v in sorted(cities.items()) if len(v) >= per_country}
  if not enough:
    raise ValueError(
      f'{path} has no country of facts/countries.json with '
      f'per_country={per_country} cities; the largest has '
      f'{max(map(len, cities.values()), default=0)}. Lower it.'
    )
  found = []
  for country, group in enough.items():
    rng = np.random.default_rng([seed, len(found)])
    for city in _chosen(group, per_country, rng):
      found += _questions(city.name, _answers(countries[country]), country)
  taken = {row['cityLabel'] for row in rows}
  for name, country in _made_up(enough, made_up, taken, seed, path):
    answers = dict.fromkeys(RELATIONS, (NOWHERE,))
    found += _questions(name, answers, country, known=False)
  return found


def _by_country(
  entities: Sequence[Entity], countries: Mapping[str, Fact]
) -> dict[str, list[Entity]]:
  """Country -> its cities that do not give it away, the largest first."""
  found = {}
  all_countries = {country.casefold() for country in countries}
  for entity in entities:
    label = entity.attributes['country']
    country = _LABELS.get(label, label)
    name = entity.name.casefold()
    tells = country.casefold() in name or name in all_countries
    if country in countries and not tells and _NAME.fullmatch(entity.name):
      found.setdefault(country, []).append(entity)
  for group in found.values():
    group.sort(key=lambda city: -float(city.attributes['population']))
  return found


def _chosen(group, count, rng) -> list[Entity]:
  """Returns the most populous half, and others at random."""
  largest = (count + 1) // 2
  others = rng.choice(len(group) - largest, count - largest, replace=False)
  return [*group[:largest], *(group[largest + i] for i in sorted(others))]


def _answers(country: Fact) -> dict[str, tuple[str, ...]]:
  """Relation -> right answers about a city of a country."""
  continent, language = country.attributes
  too = _LANGUAGES_TOO.get(country.subject, ())
  found = {
    'country': (country.subject,),
    'continent': (continent,),
    'language': (language, *(each for each in too if each != language)),
  }
  return {
    relation: (*names, *(also for n in names for also in _ALSO.get(n, ())))
    for relation, names in found.items()
  }


def _questions(name, answers, country, known=None) -> list[Question]:
  return [
    Question(
      id=f'{relation}/{name}',
      question=wording.format(name),
      answers=answers[relation],
      relation=relation,
      entity=name,
      type=TYPE,
      group=country,
      known=known,
    )
    for relation, wording in RELATIONS.items()
  ]


def _made_up(cities, count, taken, seed, path) -> list[tuple[str, str]]:
  """Pairs of a name that no row has and its country, the countries in turns."""
  rng = np.random.default_rng([seed, 1 << 32])
  rows = [name.casefold() for name in taken]
  left = {
    country: _joined([city.name for city in group], rng)
    for country, group in cities.items()
  }
  made: dict[str, str] = {}
  while len(made) < count and left:
    for country in rng.permutation(sorted(left)).tolist()[: count - len(made)]:
      for name in left[country]:
        near = process.extractOne(
          name.casefold(), rows, scorer=Levenshtein.distance, score_cutoff=1
        )
        if not near and name not in made:
          made[name] = country
          break
      else:
        del left[country]
  if len(made) < count:
    raise ValueError(
      f'{path} gives {len(made)} made-up names; made_up={count} are asked for. '
      'Lower it, or give more cities.'
    )
  return list(made.items())


def _joined(names, rng) -> Iterator[str]:
  """Yields first halves of names with second halves of others, in rounds."""
  kinds = {}
  for name in rng.permutation(names).tolist():
    if halves := _halves(name):
      several = not name.isalpha()  # words, which only join with their like
      kinds.setdefault(several, []).append(halves)
  order = [
    (kind, i) for kind, group in kinds.items() for i in range(len(group))
  ]
  if len(order) < _FEWEST_NAMES:
    return
  for shift in range(1, len(order)):
    for kind, i in rng.permutation(order).tolist():
      group = kinds[kind]
      if shift < len(group):
        yield group[i][0] + group[(i + shift) % len(group)][1]


def _halves(name: str) -> tuple[str, str] | None:
  """Returns a name cut near its middle, between words or after a vowel."""
  if not name.isalpha():
    cuts = [i for i in range(1, len(name)) if name[i - 1] in ' -']
  else:
    cuts = [
      i
      for i in range(_SHORTEST_HALF, len(name) - _SHORTEST_HALF + 1)
      if name[i - 1] in _VOWELS and name[i] not in _VOWELS
    ]
  if not cuts:
    return None
  cut = min(cuts, key=lambda i: abs(i - len(name) / 2))
  return name[:cut], name[cut:]
