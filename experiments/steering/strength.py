"""How strongly a latent is added, as settings say it."""

from collections.abc import Sequence
import os

from experiments.steering.doses import PUBLISHED, published_alpha
from experiments.steering.outcomes import Rules
from experiments.steering.study import SteeringOptions, Strength

# Change of the refusal rate, for models without published coefficients.
GOAL = 0.8


def strength_of(settings, label: str) -> Strength:
  """Returns the strength that settings say, else the published one.

  Args:
    settings: `Steered` settings, with alpha_<label>, dose and goal; chat_model
      names the model.
    label: 'known' or 'unknown'.
  """
  alpha = getattr(settings, f'alpha_{label}')
  if alpha is not None:
    return Strength(alpha=alpha)
  if settings.dose is not None:
    return Strength(dose=settings.dose)
  name = os.path.basename(os.path.normpath(settings.chat_model))
  if settings.goal is None and name in PUBLISHED:
    return Strength(alpha=published_alpha(name, label), source='published')
  goal = GOAL if settings.goal is None else settings.goal
  return Strength(goal=goal, source='chosen on validation')


def steering_options(settings) -> SteeringOptions:
  """Returns what `steer` takes of `Steered` settings."""
  return SteeringOptions(
    rules=Rules.of_mode(settings.mode),
    positions=settings.positions,
    generated=settings.generated,
    max_new_tokens=settings.max_new_tokens,
    rows_per_batch=settings.rows_per_batch,
    num_random_directions=settings.num_random,
    sweep=settings.sweep,
    weight_ablation=settings.weight_ablation,
    seed=settings.seed,
  )


def check_doses(sweep: Sequence[float]):
  """Raises ValueError if --sweep has a dose twice.

  Arms are named after what a dose prints as.
  """
  printed = [f'{dose:g}' for dose in sweep]
  if len(set(printed)) < len(printed):
    raise ValueError(f'--sweep={",".join(printed)} has a dose twice.')
