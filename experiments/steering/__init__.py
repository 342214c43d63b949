"""Steering a chat model with latents, and what that does to its answers.

  questions = make_questions(tokenizer, known, unknown)
  amounts = {'known': Amount(alpha=400.0), 'unknown': Amount(dose=2.0)}
  results, examples = steer(
    model, tokenizer, questions, targets, amounts, Settings()
  )

`arms.py` says what is compared with what, `outcomes.py` how answers are read,
`divergence.py` how far an arm moves the model, `summary.py` what is computed
from both.
"""

from experiments.steering.arms import (
  POSITIONS,
  Arm,
  Target,
  standard_arms,
  steered_positions,
)
from experiments.steering.divergence import measure_divergences
from experiments.steering.doses import (
  PUBLISHED,
  published_alpha,
  smallest_sufficient,
  stream_norms,
)
from experiments.steering.generation import generate_answers
from experiments.steering.orthogonalise import WAYS, orthogonalise
from experiments.steering.outcomes import (
  OUTCOMES,
  Rules,
  make_examples,
  outcome,
)
from experiments.steering.questions import Question, make_questions
from experiments.steering.study import Amount, Settings, steer
from experiments.steering.summary import summarise
