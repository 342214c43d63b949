"""How a model is steered, as flags say it: how much, where, on what."""

from collections.abc import Sequence
import math
import os

from absl import flags

from experiments.latents import CLASSES
from experiments.steering.arms import POSITIONS
from experiments.steering.doses import PUBLISHED, published_alpha
from experiments.steering.orthogonalise import WAYS
from experiments.steering.outcomes import Rules
from experiments.steering.study import Amount, Settings

# Change of the refusal rate, for models without published coefficients.
GOAL = 0.8
SWEEP = ('0.1', '0.2', '0.3', '0.4', '0.6', '1', '2')


def define_flags(values: flags.FlagValues):
  """Defines the flags that `amount` and `settings` read, and --questions.

  --mode, --seed, --num_random and --chat_model are read too, and not defined.
  """
  common = {'flag_values': values}
  for label in CLASSES:
    flags.DEFINE_float(
      f'alpha_{label}',
      None,
      f"Coefficient of the {label} latent's decoder row.",
      **common,
    )
  flags.DEFINE_float(
    'dose', None, "Norm of what is added, in units of the stream's.", **common
  )
  flags.DEFINE_float(
    'goal',
    None,
    'Change of the refusal rate that the smallest sufficient dose is chosen '
    f'for, on validation questions. Default: {GOAL} where no coefficient was '
    'published.',
    lower_bound=0.0,
    upper_bound=1.0,
    **common,
  )
  flags.DEFINE_list(
    'sweep',
    list(SWEEP),
    'Doses of the curves of refusals and divergence.',
    **common,
  )
  flags.DEFINE_integer(
    'questions',
    100,
    'Steered per entity type and class; the paper has 100.',
    lower_bound=1,
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
  flags.DEFINE_integer(
    'max_new_tokens', 30, 'Most tokens of an answer.', lower_bound=1, **common
  )
  flags.DEFINE_list(
    'orthogonalise',
    list(WAYS),
    "Ways to take a latent's direction out of the weights, of "
    f'{" and ".join(WAYS)}.',
    **common,
  )
  flags.DEFINE_integer(
    'rows_per_batch',
    256,
    'Answers generated at once.',
    lower_bound=1,
    **common,
  )


def amount(values: flags.FlagValues, label: str) -> Amount:
  """From --alpha_<label>, --dose, --goal; else as published for the model.

  Args:
    values: Parsed flags; --chat_model names the model.
    label: 'known' or 'unknown'.

  Raises:
    ValueError: a coefficient or dose is not a number above 0.
  """
  alpha = getattr(values, f'alpha_{label}')
  for name, given in ((f'alpha_{label}', alpha), ('dose', values.dose)):
    if given is not None and not 0 < given < math.inf:
      raise ValueError(
        f'--{name}={given:g} must be above 0. Arms of the wrong sign, which '
        'take as much away, are there in any case.'
      )
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
    ValueError: a dose of --sweep is not a number, or --orthogonalise not a way.
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


def doses(given: Sequence[str]) -> list[float]:
  """The numbers of --sweep.

  Raises:
    ValueError: something is not a number above 0, or there twice: arms are
      named after what it prints as.
  """
  try:
    found = [float(dose) for dose in given]
  except ValueError:
    found = [-1.0]
  if not all(0 < dose < math.inf for dose in found):
    raise ValueError(
      f'--sweep={",".join(given)} must be numbers above 0 with commas between '
      'them.'
    )
  printed = [f'{dose:g}' for dose in found]
  if len(set(printed)) < len(printed):
    raise ValueError(f'--sweep={",".join(given)} has a dose twice.')
  return found
