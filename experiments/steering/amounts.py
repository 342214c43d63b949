"""How much of a latent to add, as flags say it."""

from collections.abc import Sequence
import os

from absl import flags

from experiments.steering.doses import GRID, PUBLISHED, published_alpha
from experiments.steering.study import Amount


def amount(
  values: flags.FlagValues,
  label: str,
  *,
  grid: Sequence[float] = GRID,
  goal: float | None = None,
) -> Amount:
  """From --alpha_<label>, --dose, --goal; else as published for the model.

  Args:
    values: Parsed flags; --chat_model names the model.
    label: 'known' or 'unknown'.
    grid: Doses to try for a goal.
    goal: Of a model without published coefficients; None refuses it.

  Raises:
    ValueError: flags do not say it, and nothing was published for the model.
  """
  alpha = getattr(values, f'alpha_{label}')
  if alpha is not None:
    return Amount(alpha=alpha)
  if values.dose is not None:
    return Amount(dose=values.dose)
  name = os.path.basename(os.path.normpath(values.chat_model))
  wanted = values.goal
  if wanted is None and name not in PUBLISHED:
    wanted = goal
  if wanted is not None:
    return Amount(goal=wanted, grid=grid, source='chosen on validation')
  return Amount(
    alpha=published_alpha(values.chat_model, label), source='published'
  )


def doses(given: Sequence[str]) -> list[float]:
  """The numbers of --sweep.

  Raises:
    ValueError: something is not a number.
  """
  try:
    return [float(dose) for dose in given]
  except ValueError as error:
    raise ValueError(
      f'--sweep={",".join(given)} must be numbers with commas between them.'
    ) from error
