"""What is done to a model before it answers: one arm per way.

An arm adds coefficient * direction to a site of one layer, at some of the
prompt's tokens, or it takes a direction out of the weights. Which directions
are compared follows section 5 of arXiv 2411.14257, with stronger controls:

  original          nothing
  steered           the latent's decoder row, times alpha
  wrong sign        the same, times -alpha
  random latent     latents matched to it, at the same norm
  random direction  isotropic, at the same norm
  mean difference   between the classes' means, at the same norm
  weight ablation   the decoder row taken out of everything the model writes
  sweep             all but the last at other norms, every random one too

A *dose* is a norm in units of the mean norm of the stream where it is added,
so that it means the same in every layer and model.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import math
import zlib

import numpy as np

from experiments.latents import Target
from experiments.steering.questions import Question

POSITIONS = (
  'all',
  'entity',
  'entity_last',
  'entity_and_eoi',
  'entity_to_end',
  'entity_last_to_end',
)
# Where adding a latent of a label is to move refusals.
EXPECTED = {'known': -1, 'unknown': 1}
# Tokens after the entity that 'entity_and_eoi' steers too.
_END_OF_INSTRUCTION = 6

ORIGINAL, STEERED, WRONG_SIGN = 'original', 'steered', 'wrong sign'
RANDOM_LATENT, RANDOM_DIRECTION = 'random latent', 'random direction'
MEAN_DIFFERENCE, WEIGHT_ABLATION = 'mean difference', 'weight ablation'
SWEEP, SWEEP_WRONG = 'sweep', 'sweep of wrong sign'
SWEEP_MEANS = 'sweep of mean difference'
SWEEP_RANDOM = 'sweep of random latents'
SWEEP_DIRECTIONS = 'sweep of random directions'
KINDS = (
  ORIGINAL,
  STEERED,
  WRONG_SIGN,
  RANDOM_LATENT,
  RANDOM_DIRECTION,
  MEAN_DIFFERENCE,
  WEIGHT_ABLATION,
  SWEEP,
  SWEEP_WRONG,
  SWEEP_MEANS,
  SWEEP_RANDOM,
  SWEEP_DIRECTIONS,
)
# What is compared over doses -> its kinds of arms: at the dose, in the sweep.
LINES = {
  'latent': (STEERED, SWEEP),
  'wrong sign': (WRONG_SIGN, SWEEP_WRONG),
  'mean difference': (MEAN_DIFFERENCE, SWEEP_MEANS),
  'random latents': (RANDOM_LATENT, SWEEP_RANDOM),
  'random directions': (RANDOM_DIRECTION, SWEEP_DIRECTIONS),
}
SWEEP_KINDS = tuple(swept for _, swept in LINES.values())
RANDOM_LINES = ('random latents', 'random directions')
RANDOM_KINDS = (RANDOM_LATENT, RANDOM_DIRECTION)
RANDOM_SWEEPS = (SWEEP_RANDOM, SWEEP_DIRECTIONS)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Arm:
  """One way to change the model.

  Attributes:
    name: Name of its own.
    kind: One of KINDS.
    target: 'known' or 'unknown': the latent it steers with or is a control of;
      '' for the original.
    direction: float32 [D], added or taken out; None does nothing.
    site, layer: Where it is added.
    coefficient: What it is multiplied with.
    dose: coefficient * norm of direction / mean norm of the stream.
    positions: One of POSITIONS.
    generated: True if generated tokens are steered too, not only the prompt's.
    weights: '' for the model's own, or how the direction is taken out of them:
      'exact' or 'reference' (weight_ablation.py).
  """

  name: str
  kind: str
  target: str = ''
  direction: np.ndarray | None = None
  site: str | None = None
  layer: int | None = None
  coefficient: float = 0.0
  dose: float | None = None
  positions: str = 'entity_last_to_end'
  generated: bool = False
  weights: str = ''

  def __post_init__(self):
    if self.positions not in POSITIONS:
      raise ValueError(
        f'Arm {self.name!r} steers positions {self.positions!r}; they are one '
        f'of {", ".join(POSITIONS)}.'
      )

  @property
  def steers(self) -> bool:
    """Returns True if it adds anything to a site."""
    return self.direction is not None and not self.weights

  def to_dict(self) -> dict:
    """Returns a dict for JSON: the direction as its norm."""
    fields = dataclasses.asdict(self)
    direction = fields.pop('direction')
    norm = None if direction is None else float(np.linalg.norm(direction))
    return fields | {'direction_norm': norm}


def steered_positions(mode: str, question: Question) -> tuple[int, int]:
  """Positions [start, stop) of a question that a mode steers."""
  start, stop = question.span
  end = question.length
  return {
    'all': (0, end),
    'entity': (start, stop),
    'entity_last': (stop - 1, stop),
    'entity_and_eoi': (start, min(stop + _END_OF_INSTRUCTION, end)),
    'entity_to_end': (start, end),
    'entity_last_to_end': (stop - 1, end),
  }[mode]


def standard_arms(
  targets: Sequence[Target],
  alphas: Mapping[str, float],
  stream_norms: Mapping[str, float],
  *,
  positions: str = 'entity_last_to_end',
  generated: bool = False,
  num_random_directions: int = 20,
  sweep: Sequence[float] = (),
  weight_ablation: Sequence[str] = ('exact', 'reference'),
  seed: int = 0,
) -> list[Arm]:
  """Returns all arms of the top of this file, the original first.

  Args:
    targets: The latents.
    alphas: Label -> coefficient of the target's decoder row.
    stream_norms: Label -> mean norm of the stream where it is added.
    positions, generated: Those of every arm that adds something.
    num_random_directions: Per target.
    sweep: Doses at which everything is added too.
    weight_ablation: Ways to take each target's direction out of the weights.
    seed: Random seed of the random directions.
  """
  arms = [Arm(name='original', kind=ORIGINAL)]
  for target in targets:
    label, stream = target.label, stream_norms[target.label]
    norm = alphas[label] * target.norm

    def arm(name, kind, direction, added, target=target, stream=stream):
      """Adds a direction at norm `added`; negative is the other way."""
      direction = np.asarray(direction, np.float32)
      return Arm(
        name=name,
        kind=kind,
        target=target.label,
        direction=direction,
        site=target.id.site,
        layer=target.id.layer,
        coefficient=added / float(np.linalg.norm(direction)),
        dose=added / stream,
        positions=positions,
        generated=generated,
      )

    arms += [
      arm(f'+ {label}', STEERED, target.direction, norm),
      arm(f'- {label}', WRONG_SIGN, target.direction, -norm),
    ]
    if target.mean_difference is not None:
      name = f'mean difference to {label}'
      arms.append(arm(name, MEAN_DIFFERENCE, target.mean_difference, norm))
    for latent, row in target.controls.items():
      name = f'random latent {latent} for {label}'
      arms.append(arm(name, RANDOM_LATENT, row, norm))
    rng = np.random.default_rng([seed, zlib.crc32(label.encode())])
    isotropic = {}
    for i in range(num_random_directions):
      direction = rng.standard_normal(len(target.direction))
      name = f'random direction {i} for {label}'
      isotropic[name] = direction / np.linalg.norm(direction)
      arms.append(arm(name, RANDOM_DIRECTION, isotropic[name], norm))
    for way in weight_ablation:
      arms.append(
        Arm(
          name=f'{label} weight ablation, {way}',
          kind=WEIGHT_ABLATION,
          target=label,
          direction=np.asarray(target.direction, np.float32),
          weights=way,
        )
      )
    for dose in sweep:
      at, added = f'at dose {dose:g}', dose * stream
      if math.isclose(added, norm, rel_tol=1e-6):
        continue  # the arms above
      arms += [
        arm(f'+ {label} {at}', SWEEP, target.direction, added),
        arm(f'- {label} {at}', SWEEP_WRONG, target.direction, -added),
      ]
      if target.mean_difference is not None:
        name = f'mean difference to {label} {at}'
        arms.append(arm(name, SWEEP_MEANS, target.mean_difference, added))
      for latent, row in target.controls.items():
        name = f'random latent {latent} for {label} {at}'
        arms.append(arm(name, SWEEP_RANDOM, row, added))
      for name, unit in isotropic.items():
        arms.append(arm(f'{name} {at}', SWEEP_DIRECTIONS, unit, added))
  return arms
