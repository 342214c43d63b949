"""Question files in the format of the published TriviaQA answers.

A JSON list of objects, of which these fields are read:

  question         what is asked
  question_id      a name of the question; default: the record's number
  correct_answer   a list of right answers, all aliases

What another model said to them (`greedy_completion` and the like) is not used:
the model at hand answers anew. A question that comes again is left out.
"""

import os

from experiments.entities.json_rows import read_rows, text_of, texts_of
from experiments.uncertainty.asked_questions import TRIVIA, Asked


def read_trivia(
  path: str | os.PathLike, limit: int | None = None
) -> tuple[list[Asked], int]:
  """Reads a file's questions, all in one split, and counts repeated ones.

  Args:
    path: The file.
    limit: Most questions, the first ones. Default: all.

  Raises:
    FileNotFoundError, ValueError: there is no such file, or it or a record is
      malformed; the error names the record, what it has, and the remedy.
  """
  asked, seen, ids = [], set(), set()
  again = 0
  for i, row in enumerate(read_rows(path)):
    where = f'{path}, record {i}'
    question = text_of(row, 'question', where)
    id = text_of(row, 'question_id', where) if 'question_id' in row else str(i)
    answers = texts_of(row, 'correct_answer', where)
    if question in seen:
      again += 1
      continue
    if id in ids:
      raise ValueError(
        f"{where}: 'question_id' {id!r} belongs to another question already. "
        'Give each its own.'
      )
    seen.add(question)
    ids.add(id)
    asked.append(
      Asked(
        id=id,
        cluster=id,
        type=TRIVIA,
        split='test',
        entity_class='',
        prompt_type='',
        prompt=question,
        answers=answers,
      )
    )
  return asked[:limit], again
