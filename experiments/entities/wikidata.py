"""From rows of a Wikidata query to entities: the rule behind arXiv 2411.14257.

A row becomes an entity if its label occurs exactly once in all rows, and all
its fields are there. On the paper's raw files this gives 7,904 cities, 8,448
songs and 7,487 players, its own numbers. Labels that are bare item ids ('Q42',
an item without an English name) are dropped too, unless asked otherwise: then
7,903 cities and 8,344 songs are left.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
import re

from experiments.entities.entity import Entity
from experiments.entities.json_rows import text_of
from experiments.entities.prompt_types import ENTITY_TYPES, attributes_of

# Type -> the label's field; attribute -> its field.
LABEL_FIELDS = {
  'city': 'cityLabel',
  'movie': 'filmLabel',
  'player': 'humanLabel',
  'song': 'songLabel',
}
RAW_FIELDS = {
  'city': {
    'country': 'countryLabel',
    'location': 'loc',
    'population': 'recent_population',
    'elevation': 'above_sea_meters',
  },
  'movie': {
    'directors': 'directors',
    'cast': 'cast_list',
    'release_year': 'release_year',
    'screenwriters': 'screenwriters',
    'genres': 'genres',
    'durations': 'durations',
  },
  'player': {
    'place_birth': 'placebirthLabel',
    'date_birth': 'datebirthyearLabel',
    'teams_list': 'teamslist',
    'weight': 'recent_mass',
    'height': 'recent_height',
  },
  'song': {
    'album': 'albumLabel',
    'publication_year': 'publicationYear',
    'genres': 'genres',
    'performers': 'performers',
  },
}


def process_raw(
  rows: Sequence[Mapping[str, str]],
  entity_type: str,
  drop_qid_labels: bool = True,
  origin: str = 'The raw rows',
) -> list[Entity]:
  """Returns the entities in rows of a Wikidata query, sorted by name.

  Args:
    rows: All rows of a type; `../shared/data/wikidata` has their format.
    entity_type: One of ENTITY_TYPES.
    drop_qid_labels: True if labels such as 'Q42' are dropped; the paper has
      them.
    origin: The file, for errors.

  Raises:
    ValueError: a row is malformed, no row has some field, or none is left.
  """
  if entity_type not in ENTITY_TYPES:
    raise ValueError(
      f'{origin}: unknown entity type {entity_type!r}, expected one of '
      f'{ENTITY_TYPES}.'
    )
  label, fields = LABEL_FIELDS[entity_type], RAW_FIELDS[entity_type]
  names = [
    text_of(row, label, f'{origin}, record {i}') for i, row in enumerate(rows)
  ]
  absent = [f for f in fields.values() if all(f not in row for row in rows)]
  if absent:
    raise ValueError(
      f'{origin}: no record has {absent}. Rows of a {entity_type} need '
      f'{[label, *fields.values()]}; run the query with all of them.'
    )
  occurrences = Counter(names)
  judges = attributes_of(entity_type)
  entities = []
  for i, (name, row) in enumerate(zip(names, rows, strict=True)):
    if occurrences[name] > 1 or any(
      row.get(field) in (None, '') for field in fields.values()
    ):
      continue
    if drop_qid_labels and re.fullmatch(r'Q\d+', name):
      continue
    where = f'{origin}, record {i} ({name!r})'
    values = {a: text_of(row, field, where) for a, field in fields.items()}
    for attribute, value in values.items():
      if not judges[attribute].accepts(value):
        raise ValueError(
          f'{where}: {fields[attribute]!r} is {value!r}, expected '
          f'{judges[attribute].form}. Correct it, or remove the record.'
        )
    entities.append(Entity(name, entity_type, values))
  if not entities:
    raise ValueError(
      f'{origin}: none of {len(rows)} records has a label of its own and all '
      f'of {[label, *fields.values()]}.'
    )
  return sorted(entities, key=lambda entity: entity.name)
