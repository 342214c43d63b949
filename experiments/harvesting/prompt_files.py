"""Prompts in a text file: one per line, with an entity and a group if known.

.txt     plain text; see `experiments/documents.py`
.jsonl   one object per line, with the text and, where there are, `entity`
         (its name, or its characters [start, stop)), `group` and `id`
"""

import dataclasses
import json
import os

from experiments.documents import DocumentFile


@dataclasses.dataclass(frozen=True, kw_only=True)
class FilePrompt:
  """A prompt of a file.

  Attributes:
    text: Of the prompt.
    entity: Characters [start, stop) of the entity; None if none is named.
    id: As the file has it, or else the number of its line.
    group: As the file has it, or else 'text'.
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
  """The prompts of a file, or the first so many.

  An entity that is given by its name is where the name first stands; give its
  characters where that is not what is meant.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it holds no prompts, or a line is malformed or names an entity
      that is not in its text; the error names the line.
  """
  file = DocumentFile(path, field=text_field, separator=separator)
  file.scan()
  texts = dict(file.read(0, limit))  # by their lines
  if file.path.suffix == '.txt':
    return [
      FilePrompt(text=text, entity=None, id=str(line))
      for line, text in texts.items()
    ]
  with open(file.path, encoding='utf-8-sig', newline='\n') as lines:
    return [
      _prompt(
        texts[number],
        json.loads(line),
        f'{file.path}, line {number}',
        number,
        entity_field,
      )
      for number, line in enumerate(lines, 1)
      if number in texts
    ]


def _prompt(text, record, where, line, entity_field) -> FilePrompt:
  entity = record.get(entity_field)
  if isinstance(entity, str):
    start = text.find(entity)
    if start < 0 or not entity:
      raise ValueError(
        f'{where}: the entity {entity!r} does not stand in the text {text!r}.'
      )
    entity = start, start + len(entity)
  elif entity is not None:
    try:
      start, stop = map(int, entity)
    except (TypeError, ValueError):
      start, stop = 0, 0
    if not 0 <= start < stop <= len(text):
      raise ValueError(
        f'{where}: {entity_field!r} is {entity!r}, expected a name or '
        f'characters [start, stop) of the text, which has {len(text)}.'
      )
    entity = start, stop
  return FilePrompt(
    text=text,
    entity=entity,
    id=str(record.get('id', line)),
    group=str(record.get('group', 'text')),
  )
