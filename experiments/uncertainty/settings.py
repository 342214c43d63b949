"""What the study of uncertainty is told: its flags."""

import dataclasses
from typing import Annotated

from experiments.entities import Entity, read_entities
from experiments.inputs.models import BUNDLED, RARE
from experiments.inputs.settings import ChatStudy, SAELayers
from experiments.runs import Count, Many, real, whole
from experiments.uncertainty.begun_answers import AnswerOptions
from experiments.uncertainty.error_labels import MIN_CORRECT
from experiments.uncertainty.study import SearchOptions


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(ChatStudy, SAELayers):
  """Says how a chat model is asked, and where its errors are looked for.

  Attributes:
    tokens: Token of a question that latents are read at: 'model', 'last',
      'entity', or a text in the question.
    answer_prefix: Beginning of every answer, put into the model's mouth.
    rare: Folder of more entities to ask about, whatever the model knows of
      them; each says its 'split'. Default: none; for miniworld those that it
      has seldom seen.
    num_samples: Sampled answers per question; a question is answered correctly
      if 3 of them are right.
    temperature: Temperature of the samples.
    max_new_tokens: Most tokens of an answer.
    max_entities: Most entities of each type, class and split, the first ones;
      to try things.
    at_least: Number of errors, and of correct answers, that an entity type
      needs in train; other types are left out.
    num_chosen: Number of latents that are chosen for errors, and for correct
      answers.
    random_latents: Number of random latents that the best one is compared with,
      matched in layer, norm and firing frequency.
    p_true: Ask the model whether its answers are right.
    yes: Word for yes: one token, with the space before it.
    no: Word for no: one token, with the space before it.
    transfer: File of other questions, on which nothing is fitted: a JSON list
      of objects with `question`, `question_id` and `correct_answer`.
    transfer_limit: Most questions of that file, the first ones.
    rows_per_batch: Answers that are generated at once.
    harvest_batch: Questions that are read at once.
  """

  tokens: str = 'model'
  answer_prefix: str = ''
  rare: str | None = None
  num_samples: Annotated[int, whole(MIN_CORRECT, 10_000)] = 10
  temperature: Annotated[float, real(0, 100)] = 1.0
  max_new_tokens: Count = 32
  max_entities: Count | None = None
  at_least: Annotated[int, whole(2)] = 5
  num_chosen: Count = 5
  random_latents: Annotated[int, whole(0, 10_000)] = 20
  p_true: bool = True
  yes: str = ' Yes'
  no: str = ' No'
  transfer: str | None = None
  transfer_limit: Many | None = None
  rows_per_batch: Count = 1024
  harvest_batch: Count = 64

  def __post_init__(self):
    super().__post_init__()
    if self.transfer is not None and self.tokens == 'entity':
      raise ValueError(
        '--tokens=entity cannot be read in the questions of --transfer, which '
        'name no entity. Choose another token, or leave the file out.'
      )

  @property
  def answering(self) -> AnswerOptions:
    """Returns how questions are answered."""
    return AnswerOptions(
      prefix=self.answer_prefix,
      num_samples=self.num_samples,
      temperature=self.temperature,
      max_new_tokens=self.max_new_tokens,
      seed=self.seed,
    )

  def read_rare(self) -> dict[str, list[Entity]]:
    """Returns type -> more entities to ask about.

    Raises:
      ValueError, OSError: the folder has no entities, or malformed ones.
    """
    bundled = self.chat_model == BUNDLED and self.entities == BUNDLED
    folder = self.rare or (str(RARE) if bundled else None)
    return {} if folder is None else read_entities(folder)

  @property
  def search(self) -> SearchOptions:
    """Returns how latents and other detectors are found."""
    return SearchOptions(
      tokens=self.tokens,
      mode=self.mode,
      at_least=self.at_least,
      num_chosen=self.num_chosen,
      num_random=self.random_latents,
      batch_size=self.harvest_batch,
      seed=self.seed,
    )
