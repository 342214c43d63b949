"""Tasks of factual recall: subjects, answers, and sentences to be finished.

A task is data: a JSON file such as facts/capitals.json,

  {"source": "where the facts are from",
   "templates": ["The capital of {subject} is"],
   "facts": [{"subject": "France", "answer": "Paris"}, ...],
   "shot": "The capital of {subject} is {answer}.",
   "shots": [{"subject": "Germany", "answer": "Berlin"}, ...]}

or a relation of MiniWorld, whose truth is known: `known` says whether the
corpus holds a fact.
"""

from collections.abc import Sequence
import dataclasses
import pathlib

from experiments.miniworld.lexicon import ATTRIBUTES
from experiments.miniworld.sentences import HELD_OUT, SENTENCES, spell
from experiments.miniworld.world import WorldConfig, make_world
from gemma_jax import json_files

_FOLDER = pathlib.Path(__file__).parent / 'facts'
BUILT_IN = tuple(sorted(file.stem for file in _FOLDER.glob('*.json')))
SUBJECT, ANSWER = '{subject}', '{answer}'
# With fewer, no half of the subjects can be held out.
FEWEST_SUBJECTS = 4
_FIELDS = {'source', 'templates', 'facts', 'shot', 'shots'}
_FACT_FIELDS = {'subject', 'answer', 'attributes', 'known'}

# MiniWorld's sentences about one fact that end with the value, and two of a
# form that stands in no text.
_ENDINGS = [
  text.removesuffix(' {value}.')
  for text in (*SENTENCES, *HELD_OUT)
  if text.endswith(' {value}.') and '{question}' not in text
]
MINIWORLD = tuple(
  f'{kind}_{attribute}' for kind in ATTRIBUTES for attribute in ATTRIBUTES[kind]
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fact:
  """Something that a model may recall.

  Attributes:
    subject: Whom or what it is about.
    answer: What is to be recalled.
    attributes: What else is true of the subject.
    known: True if the training text holds the fact; None if nobody can say.
  """

  subject: str
  answer: str
  attributes: tuple[str, ...] = ()
  known: bool | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
  """Facts of one relation, and sentences that ask for them.

  Attributes:
    name: Short, for folders and tables.
    source: Where facts and sentences are from.
    templates: Sentences up to the token before the answer, '{subject}' being
      the subject's place.
    facts: Each subject has one.
    shot: A demonstration, with '{subject}' and '{answer}'.
    shots: Facts to demonstrate, none of which is asked about.
  """

  name: str
  source: str
  templates: tuple[str, ...]
  facts: tuple[Fact, ...]
  shot: str
  shots: tuple[Fact, ...]

  def __post_init__(self):
    self._check()

  def demonstrations(self, count: int) -> str:
    """Returns the text before a prompt: so many facts, one per line.

    Raises:
      ValueError: the task has fewer.
    """
    if count > len(self.shots):
      raise ValueError(
        f'{self.name} has {len(self.shots)} facts to demonstrate; {count} are '
        'asked for. Lower --shots, or add to "shots" in its file.'
      )
    return ''.join(
      self.shot.replace(SUBJECT, fact.subject).replace(ANSWER, fact.answer)
      + '\n'
      for fact in self.shots[:count]
    )

  def _check(self):
    def refuse(why):
      raise ValueError(f'Task {self.name}: {why}')

    for text in self.templates:
      if text.count(SUBJECT) != 1:
        refuse(f'the template {text!r} must have {SUBJECT} once.')
      if text != text.rstrip():
        refuse(f'the template {text!r} ends in a space; the answer brings one.')
    if not self.templates:
      refuse('it has no template.')
    subjects = [fact.subject for fact in self.facts]
    if len(set(subjects)) < len(subjects):
      twice = next(s for s in subjects if subjects.count(s) > 1)
      refuse(f'the subject {twice!r} occurs twice.')
    if len(subjects) < FEWEST_SUBJECTS:
      refuse(
        f'it has {len(subjects)} subjects; at least {FEWEST_SUBJECTS} are '
        'needed, so that half of them can be held out.'
      )
    for fact in (*self.facts, *self.shots):
      if not fact.subject.strip() or not fact.answer.strip():
        refuse(f'{fact} has an empty subject or answer.')
      if fact.subject != fact.subject.strip() or (
        fact.answer != fact.answer.strip()
      ):
        refuse(f'{fact} has a space around its subject or answer.')
    if self.shots and not (SUBJECT in self.shot and ANSWER in self.shot):
      refuse(f'the demonstration {self.shot!r} needs {SUBJECT} and {ANSWER}.')
    for fact in self.shots:
      if fact.subject in subjects:
        refuse(f'{fact.subject!r} is demonstrated and asked about.')
      if fact.answer in {each.answer for each in self.facts}:
        refuse(f'the demonstration of {fact.subject!r} gives an answer away.')


def read_task(source: str) -> Task:
  """Returns a built-in task by name, or one from a JSON file.

  Raises:
    FileNotFoundError: there is neither.
    ValueError: the file is malformed; the error names it and what is wrong.
  """
  if source in MINIWORLD:
    return miniworld_task(source)
  file = pathlib.Path(source).expanduser()
  if source in BUILT_IN:
    file = _FOLDER / f'{source}.json'
  elif not file.is_file():
    raise FileNotFoundError(
      f'There is no task {source!r}: neither a file, nor one of '
      f'{", ".join((*BUILT_IN, *MINIWORLD))}.'
    )
  found = json_files.read_json(file, remedy='Correct it.')
  if not {'templates', 'facts'} <= set(found):
    raise ValueError(f'{file} must be an object with "templates" and "facts".')
  if unknown := sorted(set(found) - _FIELDS):
    raise ValueError(
      f'{file} has the unknown field {unknown[0]!r}; known are '
      f'{", ".join(sorted(_FIELDS))}.'
    )
  return Task(
    name=file.stem,
    source=_text(found.get('source', str(file)), file),
    templates=tuple(
      _text(each, file) for each in _list(found, 'templates', file)
    ),
    facts=tuple(_fact(each, file) for each in _list(found, 'facts', file)),
    shot=_text(found.get('shot', ''), file),
    shots=tuple(_fact(each, file) for each in _list(found, 'shots', file)),
  )


def miniworld_task(
  name: str, config: WorldConfig | None = None, subjects: int = 24
) -> Task:
  """Returns a relation of MiniWorld, about known and never-seen subjects.

  The world is drawn anew from its configuration, so that the truth needs no
  file. Demonstrations are of known entities whose answers nobody asks for.

  Args:
    name: Such as 'city_country'.
    config: Configuration of the world; None is that of the bundled one.
    subjects: How many of each class.
  """
  world = make_world(config or WorldConfig())
  kind, _, attribute = name.partition('_')
  facts = []
  for group, known in (('held_out', True), ('unseen', False)):
    entities = [each for each in world.entities(group) if each.type == kind]
    for entity in entities[:: max(1, len(entities) // subjects)][:subjects]:
      facts.append(_miniworld_fact(entity, attribute, known))
  shots = [
    _miniworld_fact(entity, attribute, True)
    for group in ('validation', 'tuning')
    for entity in world.entities(group)
    if entity.type == kind
  ]
  answers = {fact.answer for fact in facts}
  apart = [fact for fact in shots if fact.answer not in answers]
  number = list(ATTRIBUTES[kind]).index(attribute)
  texts = [
    spell(text, kind, number).replace('{first} {last}', SUBJECT)
    for text in _ENDINGS
  ]
  return Task(
    name=name,
    source='MiniWorld, seed 0: its truth is known',
    templates=tuple(texts),
    facts=tuple(facts),
    shot=f'{texts[0]} {ANSWER}.',
    shots=tuple(apart),
  )


def _miniworld_fact(entity, attribute, known) -> Fact:
  others = [v for k, v in entity.attributes.items() if k != attribute]
  return Fact(
    subject=entity.name,
    answer=entity.attributes[attribute],
    attributes=tuple(others),
    known=known,
  )


def _list(found, name, file) -> Sequence:
  value = found.get(name, [])
  if not isinstance(value, list):
    raise ValueError(f'{file}: {name!r} must be a list, got {value!r}.')
  return value


def _text(value, file) -> str:
  if not isinstance(value, str):
    raise ValueError(f'{file}: expected a text, got {value!r}.')
  return value


def _fact(value, file) -> Fact:
  if (
    not isinstance(value, dict)
    or not {'subject', 'answer'} <= set(value)
    or not set(value) <= _FACT_FIELDS
  ):
    raise ValueError(
      f'{file}: expected {{"subject": ..., "answer": ...}}, which may have '
      f'"attributes" and "known" too, got {value!r}.'
    )
  attributes = value.get('attributes', [])
  if not isinstance(attributes, list):
    raise ValueError(
      f'{file}: "attributes" must be a list, got {attributes!r}.'
    )
  known = value.get('known')
  if known is not None and not isinstance(known, bool):
    raise ValueError(f'{file}: "known" must be true or false, got {known!r}.')
  return Fact(
    subject=_text(value['subject'], file),
    answer=_text(value['answer'], file),
    attributes=tuple(_text(each, file) for each in attributes),
    known=known,
  )
