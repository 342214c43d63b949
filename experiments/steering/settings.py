"""How a model is steered: how much, where, on what."""

import dataclasses
from typing import Literal

from experiments.runs import Count, Positive, Share
from experiments.steering.arms import POSITIONS
from experiments.steering.strength import check_doses
from experiments.steering.weight_ablation import WAYS

Positions = Literal[*POSITIONS]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Steered:
  """Says how a chat model is steered while it reads questions.

  Attributes:
    alpha_known: Coefficient of the known latent's decoder row. Arms of the
      opposite sign are run in any case.
    alpha_unknown: Coefficient of the unknown latent's decoder row.
    dose: Norm of what is added, in units of the mean norm of the residual
      stream there.
    goal: Change of the refusal rate to reach. Layer and dose (one of --sweep)
      are chosen by their effect on validation questions; the goal says whether
      it is enough. Default: 0.8 where no coefficient was published.
    sweep: Doses of the curves of refusals and divergence, in units of the mean
      norm of the residual stream.
    questions: Questions that are steered, per entity type and class. The paper
      has 100.
    positions: Tokens of a question that are steered.
    generated: Steer generated tokens too.
    max_new_tokens: Most tokens of an answer.
    weight_ablation: Ways to take a latent's direction out of the weights.
    rows_per_batch: Answers that are generated at once.
  """

  alpha_known: Positive | None = None
  alpha_unknown: Positive | None = None
  dose: Positive | None = None
  goal: Share | None = None
  sweep: tuple[Positive, ...] = (0.1, 0.2, 0.3, 0.4, 0.6, 1.0, 2.0)
  questions: Count = 100
  positions: Positions = 'entity_last_to_end'
  generated: bool = False
  max_new_tokens: Count = 30
  weight_ablation: tuple[Literal[*WAYS], ...] = WAYS
  rows_per_batch: Count = 256

  def __post_init__(self):
    super().__post_init__()
    check_doses(self.sweep)
