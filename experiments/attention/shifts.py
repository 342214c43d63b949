"""Runs of the study of attention: all prompts as they are, and steered.

Prompts of one class are steered with the latent of the other, and with its
random controls at the same norm: what a direction of no meaning does. Batches
are kept as files, so that a killed run goes on.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import pathlib

import numpy as np
from safetensors.numpy import load_file
import tqdm

from experiments.attention.cases import Case, pad_cases
from experiments.attention.entity_attention import (
  attention_to_entity,
  key_masks,
  unsteered_attention,
)
from experiments.attention.resuming import last_positions, record
from experiments.latents import Target
from experiments.runs.checksums import of_value
from experiments.runs.stages import stage
from experiments.steering import steered_positions
import gemma_jax as gj
from gemma_jax.whole_files import save_tensors

_FILE = 'attention.safetensors'


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Shift:
  """Attention of C prompts of one class, as they are and steered.

  Attributes:
    cases: The prompts.
    before: float32 [C, L, M, A, N], attention as it is; M and A are MEASURES
      and KEYS of entity_attention.
    target: The latent that was added; None for none.
    after: float32 [C, 1 + R, L', M, A, N], attention with the latent and with
      each of its controls, in the layers that it can change; None without a
      target.
  """

  cases: Sequence[Case]
  before: np.ndarray
  target: Target | None = None
  after: np.ndarray | None = None

  @property
  def first(self) -> int:
    """Returns the first layer whose attention can change."""
    return first_changed(self.target)

  @property
  def changes(self) -> np.ndarray:
    """Returns `after` less `before`, [C, 1 + R, L', M, A, N]."""
    return self.after - self.before[:, None, self.first :]


def first_changed(target: Target) -> int:
  """Returns the first layer whose attention adding the target can change."""
  return target.id.layer + (target.id.site != 'resid_pre')


def measure_shift(
  model: gj.Decoder,
  cases: Sequence[Case],
  target: Target | None,
  *,
  alpha: float = 0.0,
  positions: str = 'entity_last',
  rows_per_batch: int = 2048,
  folder: pathlib.Path,
  identity: Mapping,
  description: str = 'Attention',
) -> Shift:
  """Runs prompts, and runs them steered.

  Args:
    model: The model, stacked.
    cases: Prompts of one class.
    target: The latent to add, with its controls; None adds nothing.
    alpha: Coefficient of the latent's direction. Controls are added at the same
      norm.
    positions: The tokens that are steered, as `steering.POSITIONS` names them.
    rows_per_batch: Prompts times directions that are run at once.
    folder: The folder that keeps batches.
    identity: What results depend on besides the other arguments.
    description: What the progress bar says.
  """
  length = max(case.length for case in cases)
  firsts = [steered_positions(positions, case)[0] for case in cases]
  count = max(
    case.length - first for case, first in zip(cases, firsts, strict=True)
  )
  directions = coefficients = None
  rows = 1
  if target is not None:
    directions = np.stack([target.direction, *target.controls.values()])
    norms = np.linalg.norm(directions, axis=1)
    coefficients = (alpha * target.norm / norms).astype(np.float32)
    rows = len(directions)
  P = min(len(cases), max(1, rows_per_batch // rows))
  identity = {
    **identity,
    'cases': of_value([(case.ids, case.span) for case in cases]),
    'target': None if target is None else str(target.id),
    'directions': None if target is None else of_value(directions.tolist()),
    'alpha': alpha,
    'positions': positions,
    'batch': P,
  }

  def run(some: Sequence[Case]) -> dict[str, np.ndarray]:
    filled = [*some, *[some[-1]] * (P - len(some))]
    batch = pad_cases(filled, model.config.fill_id, length)
    first = np.array([steered_positions(positions, c)[0] for c in filled])
    again = last_positions(batch.positions, first.astype(np.int32), count)
    recording = record(model, *batch)
    keys = key_masks([case.span for case in filled], length)
    found = {'before': unsteered_attention(model, recording, again, keys)}
    if target is not None:
      steered = np.zeros((P, length), bool)
      for row, case in enumerate(filled):
        steered[row, slice(*steered_positions(positions, case))] = True
      after = attention_to_entity(
        model,
        recording,
        again,
        keys,
        steered,
        np.int32(target.id.layer),
        directions,
        coefficients,
        site=target.id.site,
      )
      found['after'] = after[:, :, first_changed(target) :]
    for values in found.values():
      gj.check_finite(values, model.dtype, 'Attention and values')
    return {k: np.asarray(v)[: len(some)] for k, v in found.items()}

  parts = []
  for number in tqdm.trange(0, len(cases), P, desc=description, unit='batch'):
    place = folder / f'{number // P:05d}'
    some = cases[number : number + P]
    stage(place, identity, lambda at, s=some: save_tensors(at / _FILE, run(s)))
    parts.append(load_file(place / _FILE))
  joined = {
    name: np.concatenate([part[name] for part in parts]) for name in parts[0]
  }
  return Shift(
    cases=cases,
    before=joined['before'],
    target=target,
    after=joined.get('after'),
  )
