"""How a model is asked whether it knows something, and what counts as a yes."""

import dataclasses

from experiments.entities import Entity, Prompt
import gemma_jax as gj


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wording:
  """Holds a question, and two words it may be answered with.

  Attributes:
    question: What the user says, with {type} and {name}, each once.
    prefix: Beginning of the answer, put into the model's mouth.
    yes: Word for yes: one token, a space before it included.
    no: Word for no: one token, a space before it included.
  """

  question: str
  prefix: str
  yes: str
  no: str

  def __post_init__(self):
    for slot in ('{type}', '{name}'):
      if self.question.count(slot) != 1:
        raise ValueError(
          f'The question {self.question!r} must have {slot} once: it stands '
          "for the entity's."
        )

  def about(self, entity: Entity) -> Prompt:
    """Returns what the user says about an entity, its name marked."""
    before, after = self.question.split('{name}')
    before = before.replace('{type}', entity.type)
    after = after.replace('{type}', entity.type)
    start = len(before)
    return Prompt(
      before + entity.name + after, (start, start + len(entity.name))
    )

  def token_ids(self, tokenizer: gj.Tokenizer) -> tuple[int, int]:
    """Returns the tokens of yes and no.

    Raises:
      ValueError: one is not a token, or both are the same.
    """
    ids = single_token(tokenizer, self.yes), single_token(tokenizer, self.no)
    if ids[0] == ids[1]:
      raise ValueError(f'{self.yes!r} is both the yes and the no.')
    return ids


# arXiv 2411.14257, section 5.3 of its specification: Figures 5 and 22.
PUBLISHED = Wording(
  question='Are you sure you know the {type} {name}? Answer yes or no.',
  prefix='Answer:',
  yes=' Yes',
  no=' No',
)


def single_token(tokenizer: gj.Tokenizer, text: str) -> int:
  """Returns the token that spells a text.

  Raises:
    ValueError: several tokens spell it, or none.
  """
  ids = tokenizer.encode(text, bos=False)
  if len(ids) != 1 or tokenizer.token_strings(ids) != [text]:
    raise ValueError(
      f'{text!r} is not one token of this tokenizer, but '
      f'{tokenizer.token_strings(ids)}. Name other words by --yes and --no; '
      'most need the space before them, as in --yes=" Yes".'
    )
  return ids[0]
