"""Where questions come from: files, or entities with their attributes.

For questions about cities see `cities.py`, for those that a model writes
`passages.py`.
"""

from collections.abc import Mapping, Sequence
import os
import pathlib

from experiments.entities import (
  PROMPT_TYPES,
  Entity,
  prompt_types_of,
  question_prompt,
)
from experiments.entities.json_rows import text_of, texts_of
from experiments.knowledge_probing.probe_records import (
  SPLITS,
  Question,
  read_question,
)
from experiments.runs import outputs
from experiments.uncertainty import read_trivia

TRIVIA = 'trivia'
_TEXTS = ('id', 'question')
_OPTIONAL_TEXTS = ('context', 'relation', 'entity', 'type', 'group')
_FIELDS = {*_TEXTS, *_OPTIONAL_TEXTS, 'answers', 'split', 'known'}
# Attributes of which an entity has several, written with commas between them.
_LISTS = {
  'teams_list',
  'directors',
  'cast',
  'screenwriters',
  'genres',
  'durations',
  'performers',
}


def read_questions(path: str | os.PathLike) -> list[Question]:
  """Reads a file of questions.

  Args:
    path: JSON lines with the fields of `Question`, of which id, question and
      answers are needed; or a list in the format of the published TriviaQA
      answers (`experiments/uncertainty/trivia.py`), whose questions are of the
      relation TRIVIA. The first character tells which.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: a line is malformed; the error names it, its value, and the
      remedy.
  """
  path = pathlib.Path(path).expanduser()
  if not path.is_file():
    raise FileNotFoundError(f'There is no file of questions {path}.')
  with open(path, 'rb') as file:
    start = file.read(4096).removeprefix(b'\xef\xbb\xbf').lstrip()
  if start.startswith(b'['):
    return [
      Question(
        id=each.id,
        question=each.text,
        answers=tuple(each.answers),
        relation=TRIVIA,
      )
      for each in read_trivia(path)[0]
    ]
  found: dict[str, Question] = {}
  asked: dict[tuple, int] = {}
  for number, row in outputs.read_objects(path):
    where = f'{path}, line {number}'
    question = _question(row, where)
    if question.id in found:
      raise ValueError(
        f"{where}: 'id' {question.id!r} belongs to another question already. "
        'Give each its own.'
      )
    what = question.question, question.context
    if what in asked:
      raise ValueError(
        f'{where} asks {question.question!r}, as line {asked[what]} does. '
        'Remove one of them: a split could part them.'
      )
    asked[what] = number
    found[question.id] = question
  if not found:
    raise ValueError(
      f'{path} has no question. Write one per line, such as {{"id": "1", '
      '"question": "Who wrote Emma?", "answers": ["Jane Austen"]}.'
    )
  return list(found.values())


def entity_questions(
  entities: Mapping[str, Sequence[Entity]],
  relations: Sequence[str] | None = None,
) -> list[Question]:
  """Returns what the prompt types of arXiv 2411.14257 ask about entities.

  A question's relation is its prompt type, such as 'city_country', its id that
  and the name. Of an attribute that is a list, every item is an answer.

  Args:
    entities: Type -> entities, such as `read_entities` returns.
    relations: Prompt types to use; None is all that count for known and
      unknown.

  Raises:
    ValueError: there is no such prompt type; or no entity has an attribute
      that is asked for.
  """
  kinds = {e.type for group in entities.values() for e in group}
  there = [
    name
    for name, each in PROMPT_TYPES.items()
    if each.entity_type in kinds and each.attribute != 'is_known'
  ]
  if unknown := sorted(set(relations or ()) - set(there)):
    raise ValueError(
      f'{unknown[0]!r} is not asked about {", ".join(sorted(kinds))}. Choose '
      f'from {", ".join(there)}.'
    )
  found = []
  for group in entities.values():
    for entity in group:
      for asked in prompt_types_of(entity, counting=relations is None):
        if relations is not None and asked.name not in relations:
          continue
        value = entity.attributes[asked.attribute]
        items = value.split(',') if asked.attribute in _LISTS else [value]
        answers = [item.strip() for item in items if item.strip()]
        found.append(
          Question(
            id=f'{asked.name}/{entity.name}',
            question=question_prompt(asked, entity).text,
            answers=tuple(dict.fromkeys(answers)),
            relation=asked.name,
            entity=entity.name,
            type=entity.type,
          )
        )
  asked = {question.relation for question in found}
  if empty := sorted(set(relations or ()) - asked):
    raise ValueError(
      f'No entity has what {empty[0]!r} asks for. Add the attribute to the '
      'entities, or leave the relation out.'
    )
  if not found:
    raise ValueError(
      f'{sum(map(len, entities.values()))} entities have no attribute that is '
      'asked about. Give them some.'
    )
  return found


def _question(row, where) -> Question:
  """Returns a question from an object of a file."""
  if unknown := sorted(row.keys() - _FIELDS):
    raise ValueError(
      f'{where} has the unknown field {unknown[0]!r} ({row[unknown[0]]!r}); '
      f'known are {", ".join(sorted(_FIELDS))}. Rename or remove it.'
    )
  for name in _TEXTS:
    text_of(row, name, where)
  for name in _OPTIONAL_TEXTS:
    if row.get(name) is not None:
      text_of(row, name, where)
  texts_of(row, 'answers', where)
  if row.get('split') not in (None, *SPLITS):
    raise ValueError(
      f"{where}: 'split' is {row['split']!r}, expected one of "
      f'{", ".join(SPLITS)}. Correct it, or leave it out.'
    )
  if not isinstance(row.get('known'), bool | None):
    raise ValueError(
      f"{where}: 'known' is {row['known']!r}, expected true or false. Correct "
      'it, or leave it out.'
    )
  return read_question(row)
