"""Steering a chat model with latents, and what that does to its answers.

  questions = make_questions(tokenizer, known, unknown)
  strengths = {'known': Strength(alpha=400.0), 'unknown': Strength(dose=2.0)}
  results, examples = steer(
    model, tokenizer, questions, targets, strengths, SteeringOptions()
  )

`arms.py` says what is compared with what, `outcomes.py` how answers are read,
`divergence.py` how far an arm moves the model, `summary.py` what is computed
from both.
"""

from experiments.latents import Target
from experiments.steering.arm_batches import (
  identity_of,
  pad,
  run_rows,
  steering,
)
from experiments.steering.arms import (
  EXPECTED,
  LINES,
  MEAN_DIFFERENCE,
  ORIGINAL,
  POSITIONS,
  RANDOM_KINDS,
  RANDOM_LATENT,
  STEERED,
  SWEEP_KINDS,
  WEIGHT_ABLATION,
  WRONG_SIGN,
  Arm,
  standard_arms,
  steered_positions,
)
from experiments.steering.divergence import measure_divergences
from experiments.steering.doses import (
  OPPOSITE,
  PUBLISHED,
  best_dose,
  published_alpha,
  stream_norms,
)
from experiments.steering.figures import sections
from experiments.steering.generation import generate_answers
from experiments.steering.kl_matched import MATCHED
from experiments.steering.outcome_look import (
  ORIGINAL_COLOUR,
  OUTCOME_COLOURS,
  classes_of,
)
from experiments.steering.outcomes import (
  OUTCOMES,
  REFUSAL,
  Rules,
  by_arm,
  make_examples,
  outcome,
)
from experiments.steering.questions import Question, make_questions
from experiments.steering.settings import Positions, Steered
from experiments.steering.strength import (
  check_doses,
  steering_options,
  strength_of,
)
from experiments.steering.study import (
  AnswerRunner,
  SteeringOptions,
  Strength,
  steer,
)
from experiments.steering.summary import ALL, summarise
from experiments.steering.tables import percent, verdict
from experiments.steering.weight_ablation import (
  WAYS,
  ablate_weights,
  written_at_first,
)
