"""Did chat tuning put the base model's latents to a new use?

The latents are of the base model's SAEs. If the base model has them too, and
does not refuse, then their causing refusals in the chat model is something that
chat tuning made of what was there (arXiv 2411.14257, section 5). Two things are
measured in both models, on the same test entities and questions:

  reading    the AUROC of the latents that are steered with, at the last token
             of a name
  steering   the probability of beginning a refusal, and the share of refusals,
             with each latent added at the dose that was chosen for the chat
             model, with its opposite, and with its random controls
"""

from collections.abc import Mapping, Sequence
import pathlib

import numpy as np

from experiments.activations import latents_at_positions
from experiments.latents import CLASSES, SplitData, Target, detection
from experiments.stats.resampling import crossed_bootstrap
from experiments.steering import (
  ORIGINAL,
  RANDOM_LATENT,
  REFUSAL,
  STEERED,
  WRONG_SIGN,
  AnswerRunner,
  Question,
  SteeringOptions,
  by_arm,
  standard_arms,
)
import gemma_jax as gj
from sae.jumprelu import JumpReLUSAE

MODELS = ('base', 'chat')


def read_in(
  model: gj.Decoder,
  targets: Mapping[str, tuple[JumpReLUSAE, int]],
  test: SplitData,
) -> dict:
  """Returns how well latents tell known from unknown in a model.

  Args:
    model: The base or the chat model.
    targets: Label -> SAE and number of the latent.
    test: Test entities, with rows at the last tokens of their names.

  Returns:
    Label -> 'mean' AUROC over types, for the label's entities.
  """
  values = latents_at_positions(model, list(targets.values()), test.rows)
  return {
    label: detection(test.entities, activations, label)['mean']
    for label, activations in zip(targets, values, strict=True)
  }


def steer_in(
  model: gj.Decoder,
  tokenizer: gj.Tokenizer,
  questions: Sequence[Question],
  targets: Sequence[Target],
  steering: Mapping,
  options: SteeringOptions,
  *,
  folder: pathlib.Path,
  identity: Mapping,
) -> list[dict]:
  """Returns what the chosen doses do to refusals in the base model.

  Args:
    model: The base model.
    tokenizer: The chat model's, whose template questions are put in.
    questions: Those that the chat model was steered on.
    targets: The latents that were steered with, and their controls.
    steering: Results of `steering.steer` on the chat model: amounts, and the
      tokens that begin refusals.
    options: Those of the chat model.
    folder: Where answers are kept.
    identity: Identity of the base model.

  Returns:
    For each target and class 'refused' and 'p_refusal' (NaN is None) of the
    'original', 'steered', 'wrong sign' and the mean of 'random latent' arms.
  """
  amounts = steering['targets']
  arms = standard_arms(
    targets,
    {label: amounts[label]['alpha'] for label in amounts},
    {label: amounts[label]['stream_norm']['value'] for label in amounts},
    positions=options.positions,
    generated=options.generated,
    num_random_directions=0,
    weight_ablation=(),
  )
  kept = (ORIGINAL, STEERED, WRONG_SIGN, RANDOM_LATENT)
  arms = [arm for arm in arms if arm.kind in kept]
  ask = AnswerRunner(
    model, tokenizer, options, folder, identity=identity, redo=True
  )
  records = by_arm(
    ask.and_measure(
      questions,
      arms,
      description='Answering as the base model',
      refusal_ids=steering['refusal_ids'],
    )
  )
  classes = np.array([question.entity_class for question in questions])
  entities = np.array([f'{q.type}/{q.entity}' for q in questions])
  found = []
  for target in targets:
    for name in CLASSES:
      at = np.flatnonzero(classes == name)
      cell = {'target': target.label, 'class': name, 'n': len(at)}
      for kind in kept:
        of = [
          [records[arm.name][i] for i in at]
          for arm in arms
          if arm.kind == kind and arm.target in ('', target.label)
        ]
        if of:
          cell[kind] = {
            'arms': len(of),
            'refused': _mean(of, entities[at], _refused),
            'p_refusal': _mean(of, entities[at], _p_refusal),
          }
      found.append(cell)
  return found


def _refused(record) -> float:
  return float(record['outcome'] == REFUSAL)


def _p_refusal(record) -> float:
  log = record['log_refusal']
  return np.nan if log is None else float(np.exp(log))


def _mean(of, entities, value) -> dict:
  values = np.array([[value(record) for record in arm] for arm in of])
  rows = values if len(values) > 1 else np.repeat(values, 2, axis=0)
  return crossed_bootstrap(rows, entities).to_dict()


def sentences(found: Mapping) -> list[str]:
  """Says what both models do, in words."""
  lines = []
  for label in found['reading']['base']:
    base, chat = (found['reading'][model][label] for model in MODELS)
    lines.append(
      f'The {label} latent that is steered with reads AUROC '
      f'{base["value"]:.3f} in the base model and {chat["value"]:.3f} in the '
      'chat model, on the same test entities.'
    )
  for cell in found['steering']:
    if (cell['target'], cell['class']) != ('unknown', 'known'):
      continue
    before, after = cell[ORIGINAL], cell[STEERED]
    p = [each['p_refusal']['value'] for each in (before, after)]
    said = (
      'In the base model, adding the unknown latent takes refusals of '
      f'questions about known entities from {before["refused"]["value"]:.0%} '
      f'to {after["refused"]["value"]:.0%} of {cell["n"]}'
    )
    if None not in p:
      said += f', and the probability of one from {p[0]:.3g} to {p[1]:.3g}'
    lines.append(said + '.')
  return lines
