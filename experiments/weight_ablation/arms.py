"""Which direction is taken out, and the models that are compared."""

from collections.abc import Mapping, Sequence

import numpy as np

from experiments.inputs.study_inputs import StudyInputs
from experiments.latents import LatentId
from experiments.steering import ORIGINAL, RANDOM_LATENT, WEIGHT_ABLATION, Arm
from experiments.weight_ablation.directions import read_direction


def choose_direction(
  given: StudyInputs,
) -> tuple[np.ndarray, Mapping[LatentId, np.ndarray], dict]:
  """Returns what --label and --direction name.

  Returns:
    The direction [D]; random latents' rows, for comparison; and where it comes
    from, for results.json.

  Raises:
    ValueError, OSError: there is no such latent, mean or file.
  """
  label, name = given.settings.label, given.settings.direction
  if label not in given.targets:
    raise ValueError(
      f'There is no {label} latent: give --{label}_latent, or a --run.'
    )
  target = given.targets[label]
  width = given.reader.config.d_model
  if target.direction.shape != (width,):
    raise ValueError(
      f'{target.id} writes vectors of {len(target.direction)}; the stream of '
      f'this model has {width}. Name a latent of the stream.'
    )
  where = f'{target.id.site}.{target.id.layer}'
  if name == 'latent':
    direction, name = target.direction, f'decoder row of {target.id}'
  elif name == 'mean_difference':
    direction = target.mean_difference
    if direction is None:
      raise ValueError(
        f'The run has no means of {where}; give --run of a run that harvested '
        'it.'
      )
    name = f'difference of means to {label} at {where}'
  else:
    direction = read_direction(name, width)
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
  """Returns the original, each way, and random latents in the first way.

  Args:
    label: Class whose direction it is, 'known' or 'unknown'.
    direction: The direction [D].
    controls: Random latents -> their rows [D].
    ways: Ways to take it out, of `steering.WAYS`.
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
  """Compares each way's change of refusals with those of random latents.

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
