"""What the study of self-report is told: its flags."""

import dataclasses
from typing import Annotated, Literal

from experiments.inputs.settings import ChatStudy, ControlledLatents
from experiments.runs import Count, Positive, Signed, whole
from experiments.self_report.wording import PUBLISHED, Wording
from experiments.steering import (
  Positions,
  Strength,
  check_doses,
  strength_of,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(ChatStudy, ControlledLatents):
  """Says how a chat model is asked what it knows, and steered meanwhile.

  Attributes:
    question: What the user says, with {type} and {name} in it. Default: 'Are
      you sure you know the {type} {name}? Answer yes or no.'
    prefix: Beginning of the answer, put into the model's mouth. Default:
      'Answer:'.
    yes: Word for yes: one token, with the space before it. Default: ' Yes'.
    no: Word for no: one token, with the space before it. Default: ' No'.
    metric: What the figures and the summary show; results.json has both. The
      difference of logits is that of log-probabilities, too.
    questions: Questions per entity type and class.
    positions: Tokens of a question that are steered.
    alpha_known: Coefficient of the known latent's decoder row.
    alpha_unknown: Coefficient of the unknown latent's decoder row.
    dose: Norm of what is added, in units of the mean norm of the residual
      stream there. Default: the published coefficient where there is one,
      else 1.
    sweep: Other doses to try, in units of the mean norm of the residual stream.
    rows_per_batch: Prompts that are run at once.
  """

  question: str | None = None
  prefix: str | None = None
  yes: str | None = None
  no: str | None = None
  metric: Literal['logit', 'prob'] = 'logit'
  questions: Annotated[int, whole(2)] = 100
  positions: Positions = 'entity_last'
  alpha_known: Signed | None = None
  alpha_unknown: Signed | None = None
  dose: Positive | None = None
  sweep: tuple[Positive, ...] = (0.25, 0.5, 1.0, 2.0)
  rows_per_batch: Count = 256

  def __post_init__(self):
    super().__post_init__()
    check_doses(self.sweep)

  @property
  def wording(self) -> Wording:
    """Returns the question and the two words that count.

    Raises:
      ValueError: the question lacks {type} or {name}.
    """
    given = {
      field.name: getattr(self, field.name)
      for field in dataclasses.fields(Wording)
    }
    return dataclasses.replace(
      PUBLISHED, **{k: v for k, v in given.items() if v is not None}
    )

  def strength(self, label: str) -> Strength:
    """Returns how much of the latent of a label is added."""
    return strength_of(self, label, Strength(dose=1.0, source='default'))
