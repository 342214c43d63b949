"""Questions that the model itself asks about passages, and answers from them.

What it writes is taken only if it can be checked: the answer is a piece of the
passage, and the question says what it is about.
"""

from collections import Counter
from collections.abc import Sequence
import dataclasses
import os
import pathlib
import re
from typing import NamedTuple

from experiments.entities.completions import complete
from experiments.entities.json_rows import text_of
from experiments.entities.sampling import seed_of
from experiments.knowledge_probing.formats import Format
from experiments.knowledge_probing.probe_records import Question, Snippet
from experiments.knowledge_probing.prompt_batches import check_room
from experiments.runs import outputs
import gemma_jax as gj

# Written for this project.
WRITE = (
  'Here is a passage:\n{passage}\n\nWrite one short factual question that is '
  'fully answered by the passage, names its subject explicitly, and has a '
  'single short answer.\nReply as:\nQuestion: ...\nAnswer: ...'
)
# Begins the reply of a model that knows no chats.
_BEGUN = '\n\nQuestion:'
MOST_WORDS = 30
REASONS = (
  'no line "Question:" with a line "Answer:" after it',
  'the answer is not in the passage',
  'the question does not name the entity',
  'the question holds the answer',
  f'the question is longer than {MOST_WORDS} words',
  'the question was asked already',
)
# Models like to write '**Question:** ...'.
_LINE = r'^[\W\d]*{}\W*?:[*_ \t]*(\S.*)$'
_QUESTION, _ANSWER = (
  re.compile(_LINE.format(word), re.MULTILINE | re.IGNORECASE)
  for word in ('question', 'answer')
)
_SNIPPET = {field.name for field in dataclasses.fields(Snippet)}


class Written(NamedTuple):
  """Holds what a model made of passages.

  Attributes:
    questions: Those that passed.
    refused: Reason -> how many did not pass for it, the first that applies.
  """

  questions: list[Question]
  refused: dict[str, int]


def read_snippets(path: str | os.PathLike) -> list[Snippet]:
  """Reads passages.

  Args:
    path: JSON lines with the fields of `Snippet`, of which id and text are
      needed; or plain text (.txt), whose paragraphs have empty lines between
      them.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is of another kind, has no passage, or a line is malformed.
  """
  path = pathlib.Path(path).expanduser()
  if not path.is_file():
    raise FileNotFoundError(f'There is no file of passages {path}.')
  if path.suffix not in ('.txt', '.jsonl'):
    raise ValueError(f'{path} must be a .jsonl or a .txt file.')
  found: dict[str, Snippet] = {}
  if path.suffix == '.txt':
    try:
      text = path.read_text(encoding='utf-8-sig')
    except UnicodeDecodeError as error:
      raise ValueError(f'{path} is not UTF-8 text: {error}.') from error
    paragraphs = [each.strip() for each in re.split(r'\n\s*\n', text)]
    for number, each in enumerate(filter(None, paragraphs)):
      id = f'{path.stem}/{number}'
      found[id] = Snippet(id=id, text=each, source=path.name)
  else:
    for number, row in outputs.read_objects(path):
      snippet = _snippet(row, f'{path}, line {number}')
      if snippet.id in found:
        raise ValueError(
          f"{path}, line {number}: 'id' {snippet.id!r} belongs to another "
          'passage already. Give each its own.'
        )
      found[snippet.id] = snippet
  if not found:
    raise ValueError(f'{path} has no passage. Give it at least one.')
  return list(found.values())


def write_questions(
  model: gj.Decoder,
  format: Format,
  snippets: Sequence[Snippet],
  *,
  per_passage: int = 4,
  seed: int = 0,
  max_new_tokens: int = 64,
  rows_per_batch: int = 64,
) -> Written:
  """Has a model write questions, and keeps those that can be checked.

  Args:
    model: The model. A chat model is told what to do; another one goes on
      after the same text and 'Question:'.
    format: Whose chat template is used, if it is one of chats.
    snippets: Passages with ids of their own.
    per_passage: Questions to write about each: one greedily, the others at
      temperature 1. All different ones that pass are kept.
    seed: Random seed; a question also depends on its passage's id and its
      number, and on no other passage.
    max_new_tokens: Most tokens of question and answer together.
    rows_per_batch: Questions written at once.

  Raises:
    ValueError: a passage is too long for the model (before work); or no
      question passes, with the reasons and an example.
  """
  format = dataclasses.replace(format, instruction='')
  prompts = [_prompt(format, snippet.text) for snippet in snippets]
  for snippet, prompt in zip(snippets, prompts, strict=True):
    check_room(model, len(prompt), max_new_tokens, f'Passage {snippet.id!r}')
  texts: dict[int, list[str]] = {}
  for batch in complete(
    model,
    format.tokenizer,
    prompts,
    [[seed_of(seed, s.id, i) for i in range(per_passage)] for s in snippets],
    temperatures=[0.0] + [1.0] * (per_passage - 1),
    max_new_tokens=max_new_tokens,
    rows_per_batch=rows_per_batch,
  ):
    texts |= batch
  begun = '' if format.name == 'chat' else _BEGUN.strip()
  found, refused, asked, example = [], Counter(), set(), ''
  for i, snippet in enumerate(snippets):
    for number, text in enumerate(texts[i]):
      made = check(snippet, begun + text)
      if not isinstance(made, str) and made[0].casefold() in asked:
        made = REASONS[5]
      if isinstance(made, str):
        refused[made] += 1
        example = (
          example or f'{(begun + text)[:300]!r} about {snippet.id!r}: {made}'
        )
        continue
      asked.add(made[0].casefold())
      found.append(_question(snippet, number, *made))
  if not found:
    counts = '; '.join(f'{n} times, {why}' for why, n in refused.most_common())
    raise ValueError(
      f'No question of {len(snippets)} passages passes: {counts}. For '
      f'example, {example}. Use a model that follows instructions, more '
      'passages, or questions from a file.'
    )
  return Written(found, dict(refused))


def check(snippet: Snippet, text: str) -> tuple[str, str] | str:
  """Returns question and answer, or the one of REASONS that refuses them.

  Args:
    snippet: What the question is about.
    text: What the model wrote.
  """
  question = _QUESTION.search(text)
  answer = question and _ANSWER.search(text, question.end())
  if not answer:
    return REASONS[0]
  asked, said = (each[1].strip(' \t\r*_"') for each in (question, answer))
  if said.find('.') == len(said) - 1:  # the sentence's, not that of 'U.S.'
    said = said[:-1]
  if not said or said not in snippet.text:
    return REASONS[1]
  name = re.escape(snippet.entity or '')
  if not re.search(rf'(?<!\w){name}(?!\w)', asked, re.IGNORECASE):
    return REASONS[2]
  if said.casefold() in asked.casefold():
    return REASONS[3]
  if len(asked.split()) > MOST_WORDS:
    return REASONS[4]
  return asked, said


def _prompt(format: Format, passage: str) -> list[int]:
  """Tokens that a question is to follow."""
  told = WRITE.replace('{passage}', passage)
  if format.name == 'chat':
    return format.prompt_ids(told)
  return format.tokenizer.encode(told + _BEGUN, parse_special=False)


def _question(snippet, number, asked, answer) -> Question:
  return Question(
    id=f'{snippet.id}/{number}',
    question=asked,
    answers=(answer,),
    context=snippet.text,
    entity=snippet.entity,
    type=snippet.type,
    group=snippet.id if snippet.entity is None else None,
  )


def _snippet(row, where) -> Snippet:
  if unknown := sorted(row.keys() - _SNIPPET):
    raise ValueError(
      f'{where} has the unknown field {unknown[0]!r}; known are '
      f'{", ".join(sorted(_SNIPPET))}. Rename or remove it.'
    )
  for name in ('id', 'text'):
    text_of(row, name, where)
  for name in ('source', 'entity', 'type'):
    if row.get(name) is not None:
      text_of(row, name, where)
  return Snippet(**{k: v for k, v in row.items() if v is not None})
