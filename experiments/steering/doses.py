"""How much to add: in absolute terms, and against the stream it is added to.

The same coefficient is much in one model and nothing in another, so there is
no default for a model that nobody has tried: say a coefficient, say a dose (a
norm in units of the mean norm of the stream), or have one chosen on the
validation split.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import os

import numpy as np

from experiments.latents import CLASSES, Target
from experiments.stats.intervals import Estimate, bootstrap_mean
from experiments.steering import arms as arms_lib
from experiments.steering.arms import EXPECTED, Arm, steered_positions
from experiments.steering.questions import Question
import gemma_jax as gj

# Chat model -> label -> coefficient, for steering the last token of the entity
# to the end of the prompt with Gemma Scope's 16k SAEs: arXiv 2411.14257,
# section 5, and its authors in their issue 2.
PUBLISHED = {
  'gemma-2-2b-it': {'known': 400.0, 'unknown': 400.0},
  'gemma-2-9b-it': {'known': 400.0, 'unknown': 550.0},
}
# Beyond the last, random latents do as much, and answers fall apart.
GRID = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.5, 2.0)
# Effects that differ by less than this are taken for equal.
NEARLY = 0.05
# The class that a target's latent is silent on, and steering is to change.
OPPOSITE = dict(zip(CLASSES, reversed(CLASSES), strict=True))


def published_alpha(model_name: str, label: str) -> float:
  """Returns the coefficient of a public model's latent.

  Args:
    model_name: Hub id, or name of a folder, of the chat model.
    label: 'known' or 'unknown'.

  Raises:
    ValueError: none was published for this model.
  """
  name = os.path.basename(os.path.normpath(model_name))
  if name not in PUBLISHED:
    raise ValueError(
      f'There is no coefficient for {model_name!r}; published ones are for '
      f'{", ".join(PUBLISHED)}. Say how much to add: coefficients '
      "(--alpha_known, --alpha_unknown), a norm in units of the stream's "
      '(--dose), or what it is to bring about (--goal).'
    )
  return PUBLISHED[name][label]


def stream_norms(
  model: gj.Decoder,
  questions: Sequence[Question],
  site: str,
  layers: Sequence[int],
  positions: str,
  *,
  rows_per_batch: int = 64,
) -> dict[int, Estimate]:
  """Mean L2 norm of a site where it would be steered, nothing being steered.

  The mean over positions of a question, then over questions. BOS is left out:
  its norm is many times that of any other token.

  Args:
    model: The chat model.
    questions: Q of them.
    site: Where.
    layers: At which layers.
    positions: A mode of arms.POSITIONS.
    rows_per_batch: Bounds memory.

  Returns:
    Layer -> mean, with a bootstrap interval over questions.
  """
  layers = sorted(set(layers))
  order = sorted(range(len(questions)), key=lambda q: questions[q].length)
  found = np.zeros((len(layers), len(questions)))
  for start in range(0, len(order), rows_per_batch):
    some = order[start : start + rows_per_batch]
    asked = [questions[q] for q in some]
    # The last batch is filled up, so that it needs no program of its own.
    asked += asked[-1:] * (min(rows_per_batch, len(order)) - len(asked))
    padded = gj.pad_rows([q.ids for q in asked], model.config.fill_id)
    out = gj.run(model, *padded, capture=gj.capture(site, layers=layers))
    x = np.asarray(out[site], np.float32)
    norms = np.linalg.norm(x, axis=-1)  # [L, B, T]
    for row, q in enumerate(some):
      first, stop = steered_positions(positions, asked[row])
      at = padded.positions[row]
      here = (at >= max(first, 1)) & (at < stop)
      found[:, q] = norms[:, row, here].mean(1)
  return {
    layer: bootstrap_mean(found[i].tolist()) for i, layer in enumerate(layers)
  }


def grid_arms(
  targets: Sequence[Target],
  stream_norms: Mapping[int, float],
  doses: Sequence[float],
  positions: str,
  generated: bool = False,
) -> list[Arm]:
  """Returns the original, and each target at several doses and both signs.

  Args:
    targets: Candidates of one label, of different layers.
    stream_norms: Layer -> mean norm of the stream there.
    doses: In units of that norm.
    positions, generated: As `Arm` has them.
  """
  arms = []
  for target in targets:
    made = arms_lib.standard_arms(
      [dataclasses.replace(target, controls={}, mean_difference=None)],
      {target.label: 0.0},
      {target.label: stream_norms[target.id.layer]},
      positions=positions,
      generated=generated,
      num_random_directions=0,
      sweep=doses,
      weight_ablation=(),
    )
    kept = (arms_lib.SWEEP, arms_lib.SWEEP_WRONG)
    arms += made[: not arms]  # the original, once
    arms += [
      dataclasses.replace(arm, name=f'{arm.name} ({target.id})')
      for arm in made
      if arm.kind in kept
    ]
  return arms


def best_dose(
  rates: Sequence[Mapping], before: float, label: str
) -> tuple[Mapping, float]:
  """Returns the candidate and dose that change refusals most, by their sign.

  What counts is the change in the expected direction, less that of the opposite
  sign in the same direction: where both signs do the same, what is added breaks
  the model. Of those within NEARLY of the best, the smallest dose is taken, and
  of these the best.

  Args:
    rates: 'dose', 'steered' and 'reversed' (refusal rates) of each candidate.
    before: Refusal rate of the original.
    label: Label of the target.

  Returns:
    One of the rates, and how much it changes refusals by that measure.
  """
  sign = EXPECTED[label]

  def effect(rate):
    forward, backward = (
      sign * (rate[key] - before) for key in ('steered', 'reversed')
    )
    return forward - max(backward, 0.0)

  best = max(map(effect, rates))
  near = [rate for rate in rates if effect(rate) >= best - NEARLY]
  chosen = min(near, key=lambda rate: (rate['dose'], -effect(rate)))
  return chosen, effect(chosen)
