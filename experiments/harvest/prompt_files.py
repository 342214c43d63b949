"""Prompts in a text file: one per line, with an entity and a group if known.

.txt     plain text; see `experiments/inputs/documents.py`
.jsonl   one object per line, with the text and, where there are, `entity`
         (its name, or its characters [start, stop)), `group` and `id`
"""

import dataclasses
import os

from experiments.entities.mentions import find_name
from experiments.inputs.documents import DocumentFile
from gemma_jax.json_files import parse_json


@dataclasses.dataclass(frozen=True, kw_only=True)
class FilePrompt:
  """A prompt of a file.

  Attributes:
    text: Text of the prompt.
    entity: Characters [start, stop) of the entity; None if none is named.
    id: Name of the prompt in the file, or else the number of its line.
    group: Name of its group in the file, or else 'text'.
  """

  text: str
  entity: tuple[int, int] | None
  id: str
  group: str = 'text'


def read_prompt_file(
  path: str | os.PathLike,
  *,
  text_field: str = 'text',
  entity_field: str = 'entity',
  separator: str = 'line',
  limit: int | None = None,
) -> list[FilePrompt]:
  """Reads the prompts of a file, or the first so many.

  An entity that is given by its name is where the name first stands; give its
  characters where that is not what is meant.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it holds no prompts, or a line is malformed, has an id that
      another has, or names an entity that is not in its text; the error names
      the line.
  """
  file = DocumentFile(path, field=text_field, separator=separator)
  file.scan()
  texts = dict(file.read(0, limit))  # by their lines
  if file.path.suffix == '.txt':
    return [
      FilePrompt(text=text, entity=None, id=str(line))
      for line, text in texts.items()
    ]
  found: dict[str, FilePrompt] = {}
  with open(file.path, encoding='utf-8-sig', newline='\n') as lines:
    for number, line in enumerate(lines, 1):
      if number not in texts:
        continue
      where = f'{file.path}, line {number}'
      record = parse_json(line, where)
      prompt = _prompt(texts[number], record, where, number, entity_field)
      if prompt.id in found:
        raise ValueError(
          f"{where}: 'id' {prompt.id!r} belongs to another prompt already. "
          'Give each its own, or none.'
        )
      found[prompt.id] = prompt
  return list(found.values())


def _prompt(text, record, where, line, entity_field) -> FilePrompt:
  entity = record.get(entity_field)
  if isinstance(entity, str):
    start = find_name(text, entity)
    if start < 0:
      raise ValueError(
        f'{where}: the entity {entity!r} does not stand in the text {text!r} '
        'as whole words. Write it as the text does, or give its characters '
        '[start, stop).'
      )
    entity = start, start + len(entity)
  elif entity is not None:
    whole = isinstance(entity, list) and [type(at) for at in entity]
    if whole != [int, int] or not 0 <= entity[0] < entity[1] <= len(text):
      raise ValueError(
        f'{where}: {entity_field!r} is {entity!r}, expected a name or '
        f'characters [start, stop) of the text, which has {len(text)}.'
      )
    entity = tuple(entity)
  return FilePrompt(
    text=text,
    entity=entity,
    id=_name(record, 'id', str(line), where),
    group=_name(record, 'group', 'text', where),
  )


def _name(record, field, default, where) -> str:
  """Returns a field that is a text or a whole number."""
  value = record.get(field, default)
  if type(value) not in (str, int) or value == '':
    raise ValueError(
      f'{where}: {field!r} is {value!r}, expected a text or a whole number. '
      'Correct it, or leave it out.'
    )
  return str(value)
