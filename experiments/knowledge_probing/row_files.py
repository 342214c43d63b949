"""Training rows as files that TRL loads, one JSON object per line.

  prompt_completion  {"prompt", "completion"}, texts; what is trained on is
                     plain, so this is the default
  messages           {"messages": [a user's turn, an assistant's]}
  dpo                {"prompt", "chosen", "rejected"}
  kto                {"prompt", "completion", "label"}

What else is known of each line is in `<name>.meta.jsonl` beside it, so that the
file itself has no other columns. TRL's tokenizer puts BOS before a prompt where
the model has one, so that texts have none.

With `messages`, TRL trains on the answer alone only by `assistant_only_loss`,
which needs a template that marks answers by {% generation %}; the templates of
Gemma, Llama and Qwen do not. prompt_completion needs no marks.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import os
import pathlib
from typing import Literal

from experiments.knowledge_probing.decision_rows import Row
from experiments.knowledge_probing.formats import Format
from experiments.runs import outputs
from gemma_jax import json_files

Kind = Literal['prompt_completion', 'messages', 'dpo', 'kto']
KINDS: tuple[Kind, ...] = ('prompt_completion', 'messages', 'dpo', 'kto')


def write_rows(
  path: str | os.PathLike,
  rows: Sequence[Row],
  format: Format,
  kind: Kind = 'prompt_completion',
) -> int:
  """Writes rows for TRL, and what else is known of them beside.

  Args:
    path: A file that ends in .jsonl.
    rows: What to write.
    format: How questions are put, and answers end.
    kind: One of KINDS.

  Returns:
    How many rows were left out: those without a rejected answer, for 'dpo'.

  Raises:
    ValueError: there is nothing to write, or a completion has no token to
      learn; the error names the row.
  """
  path = pathlib.Path(path)
  if kind not in KINDS:
    raise ValueError(f'The kind of rows is {kind!r}, expected one of {KINDS}.')
  if path.suffix != '.jsonl':
    raise ValueError(f'{path} must end in .jsonl, a JSON object per line.')
  kept = [row for row in rows if kind != 'dpo' or row.rejected is not None]
  if not kept:
    raise ValueError(
      f'There is nothing to write to {path}: '
      + (
        f'none of {len(rows)} rows has a rejected answer.'
        if rows
        else 'no row.'
      )
    )
  lines, meta = [], []
  for row in kept:
    for line in _lines(row, format, kind):
      lines.append(line)
      meta.append(dataclasses.asdict(row))
  outputs.write_lines(path, lines)
  outputs.write_lines(meta_file(path), meta)
  return len(rows) - len(kept)


def read_rows(path: str | os.PathLike, format: Format) -> list[Row]:
  """Reads rows that were written as 'prompt_completion'.

  Args:
    path: The file; what else is known of its rows is beside it.
    format: How questions are put now.

  Raises:
    FileNotFoundError: one of the two files is not there.
    ValueError: a line is malformed, the two files do not go together, or rows
      were written in another format; the error names file and line.
  """
  path = pathlib.Path(path)
  meta = _read(meta_file(path))
  lines = _read(path)
  if len(lines) != len(meta):
    raise ValueError(
      f'{path} has {len(lines)} rows and {meta_file(path).name} {len(meta)}: '
      'one of them was changed or cut off. Write them anew.'
    )
  rows = []
  for number, (line, about) in enumerate(zip(lines, meta, strict=True), 1):
    for field in ('prompt', 'completion'):
      if not isinstance(line.get(field), str):
        raise ValueError(
          f'{path}, line {number}: expected the texts "prompt" and '
          f'"completion", got {sorted(line)}.'
        )
    try:
      row = Row(**about)
    except (TypeError, ValueError) as error:
      raise ValueError(
        f'{meta_file(path)}, line {number} is no row: {error}'
      ) from error
    (expected,) = _lines(row, format, 'prompt_completion')
    for field, text in expected.items():
      if line[field] != text:
        raise ValueError(
          f'{path}, line {number}: the {field} is {line[field]!r}, expected '
          f'{text!r} in the format {format.name!r}. The file was changed or '
          'written in another format. Write it anew.'
        )
    rows.append(row)
  if not rows:
    raise ValueError(f'{path} is empty; expected at least one row.')
  return rows


def meta_file(path: str | os.PathLike) -> pathlib.Path:
  """Returns the file beside a file of rows that says more of each line."""
  return pathlib.Path(path).with_suffix('.meta.jsonl')


def _lines(row: Row, format: Format, kind: Kind) -> list[dict]:
  """Returns the lines of one row, each checked to have something to learn."""
  if kind == 'messages':
    return [{'messages': _messages(row, format)}]
  prompt = _without_bos(format.prompt_text(row.question), format)
  own = _checked(prompt, row.completion, row, format)
  if kind == 'prompt_completion':
    return [{'prompt': prompt, 'completion': own}]
  rejected = row.rejected
  if rejected is not None:
    rejected = _checked(prompt, rejected, row, format)
  if kind == 'dpo':
    return [{'prompt': prompt, 'chosen': own, 'rejected': rejected}]
  found = [{'prompt': prompt, 'completion': own, 'label': True}]
  if rejected is not None:
    found.append({'prompt': prompt, 'completion': rejected, 'label': False})
  return found


def _messages(row: Row, format: Format) -> list[dict[str, str]]:
  """Returns a chat, checked to show the completion as it is."""
  told = f'{format.instruction}\n' if format.instruction else ''
  user = {'role': 'user', 'content': told + row.question}
  said = {'role': 'assistant', 'content': row.completion}
  tokenizer = format.tokenizer
  prompt = tokenizer.chat_text([user])
  whole = tokenizer.chat_text([user, said], generation_prompt=False)
  if not whole.startswith(prompt + row.completion):
    raise ValueError(
      f'Row {row.id!r}: the chat template hides or changes the completion '
      f'{row.completion!r}: the chat is {whole!r}, expected it to begin with '
      f'{prompt + row.completion!r}. Its loss mask would be empty or wrong. '
      'Write prompt_completion rows, or mend the template.'
    )
  return [user, said]


def _checked(prompt: str, answer: str, row: Row, format: Format) -> str:
  """Returns an answer's text with its end, where TRL's loss mask is as it
  should be.

  TRL tokenises prompt and completion together, and masks as many tokens as the
  prompt alone has.
  """
  encode = format.tokenizer.encode
  text = format.answer_text(answer)
  alone, whole = encode(prompt), encode(prompt + text)
  wanted = format.prompt_ids(row.question), format.answer_ids(answer)
  learnt = whole[len(alone) :]
  if not answer.strip() or not learnt:
    raise ValueError(
      f'Row {row.id!r}: the completion {text!r} has nothing to learn after '
      f'{prompt!r}: its loss mask would be empty.'
    )
  ends = [format.tokenizer.eos_id] if format.name == 'bare' else []
  if whole + ends != wanted[0] + wanted[1] or alone != wanted[0]:
    raise ValueError(
      f'Row {row.id!r}: {prompt + text!r} is read as other tokens from a file '
      'than in this study. It spells out a special token, or the tokenizer '
      'joins the end of the prompt and the beginning of the completion. Leave '
      'this question out.'
    )
  return text


def _without_bos(text: str, format: Format) -> str:
  """Returns a prompt without the BOS that a chat template writes."""
  tokenizer = format.tokenizer
  if not tokenizer.adds_bos:
    return text
  return text.removeprefix(tokenizer.token_strings([tokenizer.bos_id])[0])


def _read(path: pathlib.Path) -> list[Mapping]:
  """Returns the objects of a file, one per line."""
  if not path.is_file():
    raise FileNotFoundError(
      f'There is no file {path}. Rows come in two files, {path.name} is one of '
      'them; write them anew.'
    )
  found = []
  with path.open('rb') as file:
    for number, line in enumerate(file, 1):
      where = f'{path}, line {number}'
      found.append(json_files.parse_json(line, where, remedy='Write it anew.'))
  return found
