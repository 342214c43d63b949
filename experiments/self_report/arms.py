"""What is done to the model while it reads the question.

The arms are those of `experiments.steering`, without the ones that change
weights: one pass over the prompt answers.
"""

from collections.abc import Mapping, Sequence
import dataclasses

from experiments.entities.modes import is_reference
from experiments.latents import Target
from experiments.stats.intervals import Estimate
from experiments.steering import (
  ORIGINAL,
  RANDOM_LATENT,
  STEERED,
  Arm,
  standard_arms,
)


def self_report_arms(
  targets: Mapping[str, Target],
  alphas: Mapping[str, float],
  norms: Mapping[str, Estimate],
  *,
  mode: str = 'default',
  positions: str = 'entity_last',
  num_random: int = 20,
  sweep: Sequence[float] = (),
  seed: int = 0,
) -> list[Arm]:
  """Returns the original, both latents, and what they are compared with.

  Args:
    targets: Label -> latent.
    alphas: Label -> coefficient of its decoder row.
    norms: Label -> mean norm of the stream where it is added.
    mode: 'reference' has the published arms alone: the first random latent of
      the unknown latent's layer is the control of both (paper.md, 10.1 no. 7).
    positions: Tokens that are steered, one of `steering.POSITIONS`.
    num_random: Number of random directions per latent.
    sweep: Other doses to try.
    seed: Random seed of the random directions.
  """
  published = is_reference(mode)
  made = standard_arms(
    list(targets.values()),
    alphas,
    {label: norm.value for label, norm in norms.items()},
    positions=positions,
    num_random_directions=0 if published else num_random,
    sweep=() if published else sweep,
    weight_ablation=(),
    seed=seed,
  )
  if not published:
    return made
  kept = [a for a in made if a.kind in (ORIGINAL, STEERED)]
  random = [
    a for a in made if a.kind == RANDOM_LATENT and a.target == 'unknown'
  ][:1]
  for control in random:
    for label, alpha in alphas.items():
      kept.append(
        dataclasses.replace(
          control,
          name=f'{control.name.removesuffix(" for unknown")} for {label}',
          target=label,
          coefficient=alpha,
          dose=control.dose * alpha / control.coefficient,
        )
      )
  return kept
