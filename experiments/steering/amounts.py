"""How a model is steered, as flags say it: how much, where, on what."""

from collections.abc import Sequence
import os

from absl import flags

from experiments.latents import CLASSES
from experiments.runs import (
  POSITIVE,
  SHARE,
  define_number,
  define_numbers,
  whole,
)
from experiments.steering.arms import POSITIONS
from experiments.steering.doses import PUBLISHED, published_alpha
from experiments.steering.orthogonalise import WAYS
from experiments.steering.outcomes import Rules
from experiments.steering.study import Amount, Settings

# Change of the refusal rate, for models without published coefficients.
GOAL = 0.8
SWEEP = (0.1, 0.2, 0.3, 0.4, 0.6, 1.0, 2.0)


def define_flags(values: flags.FlagValues):
  """Defines the flags that `amount` and `settings` read, and --questions.

  --mode, --seed, --num_random and --chat_model are read too, and not defined.
  """
  common = {'flag_values': values}
  for label in CLASSES:
    define_number(
      f'alpha_{label}',
      None,
      f"Coefficient of the {label} latent's decoder row. Arms of the other "
      'sign are there in any case.',
      POSITIVE,
      **common,
    )
  define_number(
    'dose',
    None,
    "Norm of what is added, in units of the stream's.",
    POSITIVE,
    **common,
  )
  define_number(
    'goal',
    None,
    'Change of the refusal rate that the smallest sufficient dose is chosen '
    f'for, on validation questions. Default: {GOAL} where no coefficient was '
    'published.',
    SHARE,
    **common,
  )
  define_numbers(
    'sweep',
    SWEEP,
    'Doses of the curves of refusals and divergence.',
    POSITIVE,
    fewest=0,
    **common,
  )
  define_number(
    'questions',
    100,
    'Steered per entity type and class; the paper has 100.',
    whole(),
    **common,
  )
  flags.DEFINE_enum(
    'positions',
    'entity_last_to_end',
    list(POSITIONS),
    'Which tokens of a question are steered.',
    **common,
  )
  flags.DEFINE_bool('generated', False, 'Steer generated tokens too.', **common)
  define_number(
    'max_new_tokens', 30, 'Most tokens of an answer.', whole(), **common
  )
  flags.DEFINE_list(
    'orthogonalise',
    list(WAYS),
    "Ways to take a latent's direction out of the weights, of "
    f'{" and ".join(WAYS)}.',
    **common,
  )
  define_number(
    'rows_per_batch', 256, 'Answers generated at once.', whole(), **common
  )


def amount(values: flags.FlagValues, label: str) -> Amount:
  """From --alpha_<label>, --dose, --goal; else as published for the model.

  Args:
    values: Parsed flags; --chat_model names the model.
    label: 'known' or 'unknown'.
  """
  alpha = getattr(values, f'alpha_{label}')
  if alpha is not None:
    return Amount(alpha=alpha)
  if values.dose is not None:
    return Amount(dose=values.dose)
  name = os.path.basename(os.path.normpath(values.chat_model))
  if values.goal is None and name in PUBLISHED:
    return Amount(alpha=published_alpha(name, label), source='published')
  goal = GOAL if values.goal is None else values.goal
  return Amount(goal=goal, source='chosen on validation')


def settings(values: flags.FlagValues) -> Settings:
  """All else.

  Raises:
    ValueError: a dose of --sweep is there twice, or --orthogonalise not a way.
  """
  return Settings(
    rules=Rules.of_mode(values.mode),
    positions=values.positions,
    generated=values.generated,
    max_new_tokens=values.max_new_tokens,
    rows_per_batch=values.rows_per_batch,
    num_random_directions=values.num_random,
    sweep=doses(values.sweep),
    orthogonalise=values.orthogonalise,
    seed=values.seed,
  )


def doses(given: Sequence[float]) -> list[float]:
  """Returns the doses of --sweep.

  Raises:
    ValueError: one is there twice: arms are named after what it prints as.
  """
  printed = [f'{dose:g}' for dose in given]
  if len(set(printed)) < len(printed):
    raise ValueError(f'--sweep={",".join(printed)} has a dose twice.')
  return list(given)
