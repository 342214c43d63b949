"""How strongly a latent is added, as settings say it."""

from collections.abc import Sequence
import dataclasses
import os

from experiments.steering.doses import GRID, PUBLISHED, published_alpha
from experiments.steering.outcomes import Rules
from experiments.steering.study import SteeringOptions, Strength

# Change of the refusal rate, for models without published coefficients.
GOAL = 0.8
_CHOSEN = 'chosen on validation'
_DEFAULT = Strength(goal=GOAL, source=_CHOSEN)


def strength_of(
  settings, label: str, otherwise: Strength = _DEFAULT
) -> Strength:
  """Returns the strength that settings say, else the published one.

  Args:
    settings: Settings with alpha_<label>, dose and perhaps goal; chat_model
      names the model.
    label: 'known' or 'unknown'.
    otherwise: The strength if nothing is said and none was published.
  """
  alpha = getattr(settings, f'alpha_{label}')
  if alpha is not None:
    return Strength(alpha=alpha)
  if settings.dose is not None:
    return Strength(dose=settings.dose)
  grid = getattr(settings, 'sweep', GRID)
  if (goal := getattr(settings, 'goal', None)) is not None:
    return Strength(goal=goal, grid=grid, source=_CHOSEN)
  name = os.path.basename(os.path.normpath(settings.chat_model))
  if name in PUBLISHED:
    return Strength(alpha=published_alpha(name, label), source='published')
  if otherwise.goal is not None:
    return dataclasses.replace(otherwise, grid=grid)
  return otherwise


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
