"""Prompts about entities, and where in them the entity's name stands.

  activation_prompt   "The city 'Paris'": where latents are found
  base_prompt         question and beginning of an answer, for a base model
  question_prompt     the question alone, what a user says to a chat model
  refusal_question    "In which country is the city Paris?", likewise
  is_known_question   "Do you know the city 'Paris'?", likewise
  statement_prompt    "The city Paris is located in"

Prompts are put together from parts, and the name's place comes from the parts
before it, so that an entity called 'The', or 'city', is found where it stands.
For token ids see `prompt_tokens.py`.
"""

import dataclasses

from experiments.entities.entity import Entity
from experiments.entities.prompt_types import PROMPT_TYPES, PromptType

# The paper's code has these two statements the wrong way round.
_SWAPPED = {
  'player_date_birth': 'player_place_birth',
  'player_place_birth': 'player_date_birth',
}


@dataclasses.dataclass(frozen=True)
class Prompt:
  """A text with an entity in it.

  Attributes:
    text: The whole text; for a chat model, what the user says.
    entity: The characters [start, stop) of the entity's name; the first time,
      if it stands there twice.
  """

  text: str
  entity: tuple[int, int]

  @property
  def name(self) -> str:
    """Returns the name of the entity."""
    return self.text[slice(*self.entity)]


def activation_prompt(entity: Entity, with_type: bool = True) -> Prompt:
  """ "The city 'Paris'"; without its type, "The 'Paris'"."""
  return _fill(f"The {entity.type} '{{}}'" if with_type else "The '{}'", entity)


def base_prompt(prompt_type: PromptType, entity: Entity) -> Prompt:
  """Returns the question, and the beginning of its answer, as one text."""
  _check_type(prompt_type, entity)
  text = f'{prompt_type.question} {prompt_type.base_stub}'
  return _fill(text.rstrip(), entity)  # is_known has no answer's beginning


def question_prompt(prompt_type: PromptType, entity: Entity) -> Prompt:
  """Returns the question; a chat model's answer may begin with `chat_stub`."""
  _check_type(prompt_type, entity)
  return _fill(prompt_type.question, entity)


def is_known_question(entity: Entity) -> Prompt:
  """Asks whether the model knows the entity."""
  return question_prompt(PROMPT_TYPES[f'{entity.type}_is_known'], entity)


def refusal_question(prompt_type: PromptType, entity: Entity) -> Prompt:
  """Returns the question of the steering experiments, section 5 of the paper.

  Raises:
    ValueError: the prompt type has no relation.
  """
  _check_type(prompt_type, entity)
  relation = _given(prompt_type, 'relation')
  return _fill(f'{relation} the {entity.type} {{}}?', entity)


def statement_prompt(
  prompt_type: PromptType, entity: Entity, swapped: bool = False
) -> Prompt:
  """Returns the beginning of a statement, for the study of attention.

  Args:
    prompt_type: Prompt type of the entity's type.
    entity: Any.
    swapped: As published: 'was born in the year' for the place of birth, and
      'was born in the city of' for the year.

  Raises:
    ValueError: the prompt type has no statement.
  """
  _check_type(prompt_type, entity)
  if swapped:
    other = _SWAPPED.get(prompt_type.name, prompt_type.name)
    prompt_type = PROMPT_TYPES[other]
  statement = _given(prompt_type, 'statement')
  return _fill(f'The {entity.type} {{}} {statement}', entity)


def _fill(template: str, entity: Entity) -> Prompt:
  """Returns the template with the name in every '{}'."""
  parts = template.split('{}')
  start = len(parts[0])
  return Prompt(entity.name.join(parts), (start, start + len(entity.name)))


def _check_type(prompt_type, entity):
  if prompt_type.entity_type != entity.type:
    raise ValueError(
      f'{prompt_type.name} asks about a {prompt_type.entity_type}; '
      f'{entity.name!r} is a {entity.type}.'
    )


def _given(prompt_type, part):
  text = getattr(prompt_type, part)
  if text is None:
    having = [
      p.name
      for p in PROMPT_TYPES.values()
      if p.entity_type == prompt_type.entity_type and getattr(p, part)
    ]
    raise ValueError(
      f'{prompt_type.name} has no {part}. Those of a '
      f'{prompt_type.entity_type} that have one: {", ".join(having)}.'
    )
  return text
