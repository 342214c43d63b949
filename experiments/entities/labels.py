"""Which completions are right, and which entities a model knows.

An attribute counts as known if at least 3 of 10 samples at temperature 1 are
right. An entity is *known* with two such attributes or more, *unknown* with
none, and discarded with one (the code of arXiv 2411.14257; greedy completions
do not matter).
"""

from collections.abc import Mapping, Sequence
import dataclasses

from experiments.entities.mentions import titles_in
from experiments.entities.modes import is_reference
from experiments.entities.name_matching import names_any, thefuzz_ratio
from experiments.entities.prompt_types import PROMPT_TYPES, PromptType
from experiments.entities.records import Record
from experiments.entities.refusals import is_refusal


@dataclasses.dataclass(frozen=True)
class Classes:
  """The entities of one type, by name, in order of first appearance.

  Attributes:
    known: At least two attributes are known.
    unknown: None is.
    discarded: One is.
  """

  known: list[str]
  unknown: list[str]
  discarded: list[str]


def is_correct(
  prompt_type: PromptType,
  completion: str,
  answer: str,
  mode: str = 'default',
  *,
  subject: str,
) -> bool:
  """Returns True if a completion gives the answer.

  Args:
    prompt_type: What was asked.
    completion: What was generated, up to its stop token.
    answer: The entity's attribute.
    mode: The judge's mode.
    subject: The entity's name, which is no answer where it is only mentioned.

  Raises:
    ValueError: unknown mode, or a malformed answer.
  """
  return prompt_type.judge(completion, answer, mode, subject)


def label_completion(
  prompt_type: PromptType,
  completion: str,
  answer: str,
  mode: str = 'default',
  refusal_mode: str | None = None,
  *,
  subject: str,
) -> str:
  """'correct', 'refusal' or 'error'; the first that applies.

  Args:
    prompt_type: What was asked.
    completion: What was generated, up to its stop token.
    answer: The entity's attribute.
    mode: The mode of the judge, and of the refusals unless they have their own.
    refusal_mode: Refusal mode of the refusals.
    subject: The entity's name: neither an answer nor a refusal where it is only
      mentioned.
  """
  if is_correct(prompt_type, completion, answer, mode, subject=subject):
    return 'correct'
  declines = is_refusal(completion, refusal_mode or mode, (subject, answer))
  return 'refusal' if declines else 'error'


def label_trivia(
  completion: str,
  aliases: Sequence[str],
  mode: str = 'default',
  refusal_mode: str | None = None,
  *,
  question: str = '',
) -> str:
  """Returns the label of an answer to a TriviaQA question; refusals come first.

  Args:
    completion: What was generated.
    aliases: Right answers.
    mode: As for `label_completion`.
    refusal_mode: As for `label_completion`.
    question: What was asked; titles in it are no refusals.
  """
  names = (*titles_in(question), *aliases)
  if is_refusal(completion, refusal_mode or mode, names):
    return 'refusal'
  if is_reference(mode):
    found = any(thefuzz_ratio(completion, alias) > 90 for alias in aliases)
  else:
    found = names_any(completion, aliases)
  return 'correct' if found else 'error'


def label_record(
  record: Record, mode: str = 'default', refusal_mode: str | None = None
) -> Record:
  """Returns the record with its completions labelled; labels it had are
  replaced.

  Args:
    record: With or without labels.
    mode: As for `label_completion`.
    refusal_mode: As for `label_completion`.
  """
  prompt_type = PROMPT_TYPES[record.prompt_type]

  def label(completion):
    return label_completion(
      prompt_type,
      completion,
      record.correct_answer,
      mode,
      refusal_mode,
      subject=record.entity,
    )

  greedy = label(record.greedy_completion)
  declines = is_refusal(
    record.greedy_completion,
    refusal_mode or mode,
    (record.entity, record.correct_answer),
  )
  return dataclasses.replace(
    record,
    string_matching_greedy_label=greedy,
    string_matching_sampled_labels=tuple(
      map(label, record.sampled_completions)
    ),
    label='refusal' if declines else greedy,
  )


def grades_of(
  records: Mapping[str, Sequence[Record]],
) -> dict[tuple[str, str], float]:
  """Returns (type, name) -> the share of right samples, over its attributes.

  Args:
    records: As for `classify`.
  """
  shares = {}
  for name, group in records.items():
    kind = PROMPT_TYPES[name]
    for record in group if kind.counts else ():
      samples = len(record.string_matching_sampled_labels)
      key = kind.entity_type, record.entity
      shares.setdefault(key, []).append(record.correct_samples() / samples)
  return {key: sum(each) / len(each) for key, each in shares.items()}


def classify(
  records: Mapping[str, Sequence[Record]],
  min_correct: int = 3,
  min_known: int = 2,
) -> dict[str, Classes]:
  """Returns which entities of every type are known.

  Args:
    records: Prompt type -> labelled records; those of prompt types that do not
      count are left out.
    min_correct: Right samples that make an attribute known; the paper has 3
      of 10.
    min_known: Known attributes that make an entity known.

  Raises:
    ValueError: a record has fewer than `min_correct` samples, or no prompt
      type counts.
  """
  known_attributes: dict[str, dict[str, int]] = {}
  for name, group in records.items():
    if not PROMPT_TYPES[name].counts:
      continue
    counts = known_attributes.setdefault(PROMPT_TYPES[name].entity_type, {})
    for record in group:
      if len(record.string_matching_sampled_labels) < min_correct:
        raise ValueError(
          f'{name} of {record.entity!r} has '
          f'{len(record.string_matching_sampled_labels)} labelled samples, '
          f'fewer than the {min_correct} that must be right. Generate more, or '
          'lower min_correct.'
        )
      is_known = record.correct_samples() >= min_correct
      counts[record.entity] = counts.get(record.entity, 0) + is_known
  if not known_attributes:
    raise ValueError(
      f'None of the prompt types {sorted(records)} counts for known and '
      'unknown.'
    )
  return {
    entity_type: Classes(
      known=[name for name, c in counts.items() if c >= min_known],
      unknown=[name for name, c in counts.items() if c == 0],
      discarded=[name for name, c in counts.items() if 0 < c < min_known],
    )
    for entity_type, counts in sorted(known_attributes.items())
  }
