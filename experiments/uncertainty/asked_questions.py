"""What is asked: attributes of entities, or questions of a file."""

from collections.abc import Mapping, Sequence
import dataclasses

from experiments.entities import (
  PROMPT_TYPES,
  Entity,
  EntitySplits,
  Prompt,
  is_refusal,
  label_completion,
  label_trivia,
  prompt_types_of,
  question_prompt,
)
from experiments.entities.mentions import titles_in
from experiments.latents import CLASSES, SPLITS

RARE = 'rare'
TRIVIA = 'trivia'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked:
  """Holds a question with its right answers.

  Attributes:
    id: A name that no other question has.
    cluster: The entity that it is about; its questions are resampled together.
    type: The entity's type, or TRIVIA.
    split: 'train', 'validation' or 'test'.
    entity_class: 'known' or 'unknown' to the base model, or RARE; '' without an
      entity.
    prompt_type: Name of what is asked about the entity; '' without one.
    prompt: What the user says: a text, or one with an entity marked in it.
    answers: Right answers: the entity's attribute, or all aliases.
  """

  id: str
  cluster: str
  type: str
  split: str
  entity_class: str
  prompt_type: str
  prompt: Prompt | str
  answers: Sequence[str]

  @property
  def text(self) -> str:
    """Returns what the user says."""
    return self.prompt if isinstance(self.prompt, str) else self.prompt.text

  def label(self, completion: str, mode: str) -> str:
    """Returns 'correct', 'error' or 'refusal'; see `entities.labels`."""
    if isinstance(self.prompt, str):
      return label_trivia(completion, self.answers, mode, question=self.prompt)
    return label_completion(
      PROMPT_TYPES[self.prompt_type],
      completion,
      self.answers[0],
      mode,
      subject=self.prompt.name,
    )

  def declines(self, completion: str, mode: str) -> bool:
    """Returns True if a completion declines, whatever else it says."""
    names = (
      titles_in(self.prompt)
      if isinstance(self.prompt, str)
      else [self.prompt.name]
    )
    return is_refusal(completion, mode, (*names, *self.answers))


def about_entities(
  people: EntitySplits,
  max_entities: int | None = None,
  rare: Mapping[str, Sequence[Entity]] | None = None,
) -> list[Asked]:
  """Returns all questions about all entities, split by entity.

  Args:
    people: Known and unknown entities.
    max_entities: Most entities of each type, class and split, the first ones.
    rare: Type -> further entities, whatever the model knows of them, each with
      its split; those of other types than `people` has are left out.

  Raises:
    ValueError: one of the further entities has no split.
  """
  without = [e for of in (rare or {}).values() for e in of if not e.split]
  if without:
    raise ValueError(
      f"{len(without)} further entities have no 'split', the first the "
      f'{without[0].type} {without[0].name!r}. Say train, validation or test.'
    )

  def found(split, label, kind):
    if label != RARE:
      return people.of(split, label)[kind]
    return [e for e in (rare or {}).get(kind, ()) if e.split == split]

  return [
    Asked(
      id=f'{prompt_type.name}/{entity.name}',
      cluster=f'{kind}/{entity.name}',
      type=kind,
      split=split,
      entity_class=label,
      prompt_type=prompt_type.name,
      prompt=question_prompt(prompt_type, entity),
      answers=(entity.attributes[prompt_type.attribute],),
    )
    for split in SPLITS
    for label in (*CLASSES, RARE)
    for kind in people.types
    for entity in found(split, label, kind)[:max_entities]
    for prompt_type in prompt_types_of(entity)
  ]
