"""What a model said about entities: one JSON file per prompt type.

`<folder>/<type>_<attribute>.json` is a list of records in the format of the
paper's code; a record has the fields of `Record`, in that order.
"""

from collections.abc import Iterable, Mapping
import dataclasses
import os
import pathlib

from experiments.entities.json_rows import read_rows, text_of, write_rows
from experiments.entities.prompt_types import PROMPT_TYPES

LABELS = ('correct', 'error', 'refusal')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
  """Holds what a model said to one prompt.

  Attributes:
    entity: Name of the entity.
    entity_type: Type of the entity.
    prompt_type: Name of the prompt type.
    correct_answer: The entity's attribute.
    prompt: All that the model read.
    question: What a user asked; None for a base model.
    greedy_completion: The most likely one.
    sampled_completions: Any number.
    string_matching_greedy_label: One of LABELS; right goes before refused.
    string_matching_sampled_labels: As many as there are samples.
    label: That of the greedy completion, but 'refusal' wherever it declines,
      even if it also holds the answer.

  Labels are empty until `label_record` fills them in.
  """

  entity: str
  entity_type: str
  prompt_type: str
  correct_answer: str
  prompt: str
  question: str | None
  greedy_completion: str
  sampled_completions: tuple[str, ...]
  string_matching_greedy_label: str = ''
  string_matching_sampled_labels: tuple[str, ...] = ()
  label: str = ''

  def correct_samples(self) -> int:
    """Returns how many sampled completions are right."""
    return self.string_matching_sampled_labels.count('correct')


def write_records(
  folder: str | os.PathLike, records: Mapping[str, Iterable[Record]]
):
  """Writes one file per prompt type."""
  for name, group in records.items():
    write_record_file(pathlib.Path(folder) / f'{name}.json', group)


def write_record_file(path: str | os.PathLike, records: Iterable[Record]):
  """Writes records, of any prompt types."""
  write_rows(path, map(dataclasses.asdict, records))


def read_records(folder: str | os.PathLike) -> dict[str, list[Record]]:
  """Prompt type -> records, in the order of the files' names and in theirs.

  Raises:
    FileNotFoundError: no such folder, or no .json file in it.
    ValueError: a file or a record is malformed, or an entity there twice.
  """
  folder = pathlib.Path(folder).expanduser()
  paths = sorted(folder.glob('*.json'))
  if not paths:
    raise FileNotFoundError(
      f'{folder} has no records; expected <type>_<attribute>.json. '
      '`python -m experiments.labelling` makes them.'
    )
  found = {}
  for path in paths:
    records = read_record_file(path)
    first = {}
    for i, record in enumerate(records):
      if record.prompt_type != path.stem:
        raise ValueError(
          f"{path}, record {i}: 'prompt_type' is {record.prompt_type!r}, "
          f'expected {path.stem!r}, the name of the file.'
        )
      if record.entity in first:
        raise ValueError(
          f'{path}, record {i}: {record.entity!r} is there already, as record '
          f'{first[record.entity]}. Remove one.'
        )
      first[record.entity] = i
    found[path.stem] = records
  return found


def read_record_file(path: str | os.PathLike) -> list[Record]:
  """Returns the records in a file; raises what `read_records` does."""
  return [
    _record(row, f'{path}, record {i}') for i, row in enumerate(read_rows(path))
  ]


def _record(row, where) -> Record:
  fields = [field.name for field in dataclasses.fields(Record)]
  for name in ('entity', 'entity_type', 'prompt_type', 'correct_answer'):
    text_of(row, name, where)
  if row.keys() != set(fields):
    raise ValueError(
      f'{where} ({row["entity"]!r}) has the fields {sorted(row)}, expected '
      f'{sorted(fields)}. Was it written by something else?'
    )
  where = f'{where} ({row["entity"]!r})'
  if row['prompt_type'] not in PROMPT_TYPES:
    raise ValueError(
      f"{where}: unknown 'prompt_type' {row['prompt_type']!r}, expected one of "
      f'{sorted(PROMPT_TYPES)}.'
    )
  if row['entity_type'] != PROMPT_TYPES[row['prompt_type']].entity_type:
    raise ValueError(
      f"{where}: 'entity_type' is {row['entity_type']!r}, and "
      f'{row["prompt_type"]} asks about others.'
    )
  for name in ('prompt', 'greedy_completion'):
    if not isinstance(row[name], str):
      raise ValueError(f'{where}: {name!r} is {row[name]!r}, expected a text.')
  if not isinstance(row['question'], (str, type(None))):
    raise ValueError(
      f"{where}: 'question' is {row['question']!r}, expected a text or null."
    )
  samples = _texts(row, 'sampled_completions', where)
  labels = _texts(row, 'string_matching_sampled_labels', where)
  if len(samples) != len(labels):
    raise ValueError(
      f'{where} has {len(samples)} sampled completions and {len(labels)} '
      'labels of them.'
    )
  for label in (*labels, row['string_matching_greedy_label'], row['label']):
    if label not in LABELS:
      raise ValueError(
        f'{where}: unknown label {label!r}, expected one of {LABELS}.'
      )
  lists = ('sampled_completions', 'string_matching_sampled_labels')
  return Record(**row | {name: tuple(row[name]) for name in lists})


def _texts(row, name, where) -> list[str]:
  texts = row[name]
  if not isinstance(texts, list) or not all(isinstance(t, str) for t in texts):
    raise ValueError(f'{where}: {name!r} is {texts!r}, expected texts.')
  return texts
