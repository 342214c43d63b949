"""Folders of entities: one JSON file per type, `<type>.json`.

A file is either processed, the paper's format,

  [{"entity": "Rome", "entity_type": "city", "attributes": [
     {"attribute_type": "country", "attribute_value": "Italy"}, ...]}, ...]

where "split" may say train, validation or test; or raw rows of a Wikidata query
(`wikidata.py`). The fields of its first record tell which one it is.
"""

from collections.abc import Iterable, Mapping, Sequence
import os
import pathlib
import sys

from experiments.entities.entity import Entity
from experiments.entities.json_rows import read_rows, text_of, write_rows
from experiments.entities.prompt_types import ENTITY_TYPES, attributes_of
from experiments.entities.wikidata import LABEL_FIELDS, process_raw


def read_entities(
  folder: str | os.PathLike,
  drop_qid_labels: bool = True,
  types: Sequence[str] | None = None,
) -> dict[str, list[Entity]]:
  """Returns type -> entities, both sorted.

  Files of types that no question is asked about, such as the published
  book.json and team.json, are left alone, and named on stderr.

  Args:
    folder: Has one `<type>.json` or more.
    drop_qid_labels: Drop qid labels of raw files; see `process_raw`. Processed
      files are taken as they are.
    types: Those to read; all of ENTITY_TYPES by default.

  Raises:
    FileNotFoundError: no such folder, or no file of such a type in it.
    ValueError: one of `types` has no file; or a file or a record is malformed,
      or there twice. The error names the file, the record, the value and the
      remedy.
  """
  folder = pathlib.Path(folder).expanduser()
  if not folder.is_dir():
    raise FileNotFoundError(f'There is no folder of entities {folder}.')
  paths = {path.stem: path for path in sorted(folder.glob('*.json'))}
  there = [each for each in paths if each in ENTITY_TYPES]
  if not there:
    raise FileNotFoundError(
      f'{folder} has none of '
      f'{", ".join(f"{each}.json" for each in ENTITY_TYPES)}; at least one is '
      'needed.'
    )
  if absent := [each for each in types or () if each not in there]:
    raise ValueError(
      f'{folder} has no entities of type {", ".join(absent)}, only of '
      f'{", ".join(there)}. Name other types, or another folder.'
    )
  if others := [path.name for path in paths.values() if path.stem not in there]:
    print(
      f'{folder}: {", ".join(others)} left alone; questions are asked about '
      f'the types {", ".join(ENTITY_TYPES)}.',
      file=sys.stderr,
    )
  return {
    each: _read_file(paths[each], drop_qid_labels)
    for each in there
    if not types or each in types
  }


def write_entities(
  folder: str | os.PathLike, entities: Mapping[str, Iterable[Entity]]
):
  """Writes processed files, which `read_entities` reads."""
  for entity_type, group in entities.items():
    rows = [
      {
        'entity': entity.name,
        'entity_type': entity_type,
        **({'split': entity.split} if entity.split else {}),
        'attributes': [
          {'attribute_type': attribute, 'attribute_value': value}
          for attribute, value in entity.attributes.items()
        ],
      }
      for entity in sorted(group, key=lambda entity: entity.name)
    ]
    write_rows(pathlib.Path(folder) / f'{entity_type}.json', rows)


def _read_file(path, drop_qid_labels) -> list[Entity]:
  entity_type = path.stem
  rows = read_rows(path)
  label = LABEL_FIELDS[entity_type]
  if label in rows[0]:
    return process_raw(rows, entity_type, drop_qid_labels, str(path))
  if 'entity' not in rows[0]:
    raise ValueError(
      f"{path}, record 0 has neither 'entity' (processed) nor {label!r} (raw), "
      f'only {sorted(rows[0])}. Is this the file of another type?'
    )
  entities, first = [], {}
  for i, row in enumerate(rows):
    entity = _entity(row, entity_type, f'{path}, record {i}')
    if entity.name in first:
      raise ValueError(
        f'{path}, record {i}: {entity.name!r} is there already, as record '
        f'{first[entity.name]}. Names must be unique; remove one, or both.'
      )
    first[entity.name] = i
    entities.append(entity)
  return sorted(entities, key=lambda entity: entity.name)


def _entity(row, entity_type, where) -> Entity:
  """Returns one processed record."""
  name = text_of(row, 'entity', where)
  where = f'{where} ({name!r})'
  written = text_of(row, 'entity_type', where)
  if written != entity_type:
    raise ValueError(
      f"{where}: 'entity_type' is {written!r}, expected {entity_type!r}, the "
      'name of the file.'
    )
  attributes = row.get('attributes')
  if not isinstance(attributes, list) or not attributes:
    raise ValueError(
      f"{where}: 'attributes' is {attributes!r}, expected a list of "
      '{"attribute_type": ..., "attribute_value": ...}, at least one.'
    )
  judges, values = attributes_of(entity_type), {}
  for item in attributes:
    if not isinstance(item, dict):
      raise ValueError(f'{where}: an attribute is {item!r}, not an object.')
    attribute = text_of(item, 'attribute_type', where)
    value = text_of(item, 'attribute_value', f'{where}, {attribute!r}')
    if attribute not in judges:
      raise ValueError(
        f'{where}: unknown attribute {attribute!r}; those of a {entity_type} '
        f'are {sorted(judges)}. Rename or remove it.'
      )
    if attribute in values:
      raise ValueError(
        f'{where}: {attribute!r} is there twice, as {values[attribute]!r} and '
        f"{value!r}. Keep one; the items of a list are joined by ', '."
      )
    if not judges[attribute].accepts(value):
      raise ValueError(
        f'{where}: {attribute!r} is {value!r}, expected '
        f'{judges[attribute].form}. Correct it, or remove the attribute.'
      )
    values[attribute] = value
  try:
    return Entity(name, entity_type, values, row.get('split'))
  except ValueError as error:
    raise ValueError(f'{where}: {error}') from error
