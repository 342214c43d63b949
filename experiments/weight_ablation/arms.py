"""Which direction is taken out, and the models that are compared."""

from collections.abc import Mapping, Sequence

import numpy as np

from experiments.inputs.study_inputs import StudyInputs
from experiments.steering import ORIGINAL, RANDOM_LATENT, WEIGHT_ABLATION, Arm
from experiments.weight_ablation.directions import read_direction

LATENT, MEAN_DIFFERENCE = 'latent', 'mean_difference'


def choose_direction(
  subject: StudyInputs,
) -> tuple[np.ndarray, Mapping, dict]:
  """What --label and --direction name.

  Returns:
    The direction [D]; random latents' rows, for comparison; and where it comes
    from, for results.json.

  Raises:
    ValueError, OSError: there is no such latent, mean or file.
  """
  values, label = subject.values, subject.values.label
  if label not in subject.targets:
    raise ValueError(
      f'There is no {label} latent: give --{label}_latent, or a --run.'
    )
  target = subject.targets[label]
  width = subject.reader.config.d_model
  if target.direction.shape != (width,):
    raise ValueError(
      f'{target.id} writes vectors of {len(target.direction)}; the stream of '
      f'this model has {width}. Name a latent of the stream.'
    )
  if values.direction == LATENT:
    direction, name = target.direction, f'decoder row of {target.id}'
  elif values.direction == MEAN_DIFFERENCE:
    direction = target.mean_difference
    if direction is None:
      raise ValueError(
        f'The run has no means of {target.id.site}.{target.id.layer}; give '
        '--run of a run that harvested it.'
      )
    name = (
      f'difference of means to {label} at {target.id.site}.{target.id.layer}'
    )
  else:
    direction = read_direction(values.direction, width)
    name = values.direction
  row = target.direction
  cosine = direction @ row / (np.linalg.norm(direction) * np.linalg.norm(row))
  source = {
    'name': name,
    'label': label,
    'norm': float(np.linalg.norm(direction)),
    'cosine_with_latent': float(cosine),
  }
  return direction, target.controls, source


def make_arms(
  label: str,
  direction: np.ndarray,
  controls: Mapping[object, np.ndarray],
  ways: Sequence[str],
) -> list[Arm]:
  """The original; each way; and random latents taken out in the first way.

  Args:
    label: 'known' or 'unknown', whose direction it is.
    direction: [D].
    controls: Random latents -> their rows [D].
    ways: Some of WAYS.
  """
  arms = [Arm(name=ORIGINAL, kind=ORIGINAL)]
  for way in ways:
    arms.append(
      Arm(
        name=way,
        kind=WEIGHT_ABLATION,
        target=label,
        direction=np.asarray(direction, np.float32),
        weights=way,
      )
    )
  for latent, row in controls.items():
    arms.append(
      Arm(
        name=f'random latent {latent}, {ways[0]}',
        kind=RANDOM_LATENT,
        target=label,
        direction=np.asarray(row, np.float32),
        weights=ways[0],
      )
    )
  return arms


def among_random(steering: Mapping) -> list[dict]:
  """Each way's change of refusals, among those of random latents.

  p is the share of edits, its own among them, that move refusals as far.
  """
  original, *others = steering['arms']
  rate = lambda arm, name: arm['counts'][name]['all']['refusal']['value']
  random = [arm for arm in others if arm['kind'] == RANDOM_LATENT]
  found = []
  for arm in others:
    if arm['kind'] == RANDOM_LATENT or not random:
      continue
    for name in original['counts']:
      change = rate(arm, name) - rate(original, name)
      theirs = [rate(each, name) - rate(original, name) for each in random]
      as_far = sum(abs(x) >= abs(change) - 1e-12 for x in theirs)
      found.append(
        {
          'arm': arm['name'],
          'class': name,
          'change': change,
          'random': theirs,
          'n': len(random),
          'p': (1 + as_far) / (1 + len(random)),
        }
      )
  return found
