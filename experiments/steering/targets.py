"""Latents to steer with, from a run that chose them or named by flags."""

from collections.abc import Mapping, Sequence
import json
import pathlib

from absl import flags
import numpy as np

from experiments import inputs, outputs
from experiments.harvesting import GroupSums, read_sums
from experiments.latents import (
  CLASSES,
  Groups,
  LatentId,
  class_sums,
  difference_of_means,
)
from experiments.steering.arms import Target
import gemma_jax as gj
from sae.jumprelu import JumpReLUSAE


class Findings:
  """What entity recognition found that one can steer with.

  Attributes:
    latents: Its results about latents; {} if there are none.
  """

  def __init__(self, latents: Mapping, sums: Sequence[GroupSums] = ()):
    """Takes the results, and what was summed over entities, one per SAE."""
    self.latents, self._sums = latents, sums

  def sums(self) -> Sequence[GroupSums]:
    """What was summed over entities, one per SAE."""
    return self._sums

  def chosen(self, label: str) -> LatentId | None:
    """The latent that was chosen."""
    if not self.latents:
      return None
    return LatentId.parse(self.latents['chosen'][label][0]['id'])

  def controls(self, label: str, id: LatentId) -> list[LatentId] | None:
    """The random latents, if they are controls of this one."""
    random = self.latents.get('random', {}).get(label)
    if random is None or random['of'] != str(id):
      return None
    return list(map(LatentId.parse, random['ids']))

  def mean_difference(self, label: str, id: LatentId) -> np.ndarray | None:
    """Between the means of training entities, if the site was harvested."""
    if not self.latents:
      return None
    groups = Groups(tuple(self.latents['types']))
    for sums in self.sums():
      if (sums.site, sums.layer) == id[:2]:
        return difference_of_means(class_sums(sums, groups, ('train',)), label)
    return None

  def target(
    self,
    label: str,
    id: LatentId,
    sae: JumpReLUSAE,
    controls: Sequence[LatentId],
  ) -> Target:
    """A latent to steer with, beside its controls and the mean difference.

    Args:
      label: 'known' or 'unknown'.
      id: Of the latent.
      sae: Whose decoder rows are the directions.
      controls: Latents of the same SAE.

    Raises:
      ValueError: the SAE is of another site or layer, or has no such latent.
    """
    sae.check_reads(id.site, id.layer)
    for each in (id, *controls):
      if each.latent >= sae.width:
        raise ValueError(
          f'{each} does not exist: the SAE of layer {id.layer} has '
          f'{sae.width} latents.'
        )
    chosen = np.array([each.latent for each in (id, *controls)])
    rows = np.asarray(sae.W_dec[...][chosen], np.float32)  # [1 + controls, D]
    return Target(
      label=label,
      id=id,
      direction=rows[0],
      controls=dict(zip(controls, rows[1:], strict=True)),
      mean_difference=self.mean_difference(label, id),
    )


class RecognitionRun(Findings):
  """A finished run of `experiments.entity_recognition`.

  Attributes:
    folder: Of the run; None for no run, which has nothing.
    latents: Its results about latents.
  """

  def __init__(self, folder: str | None):
    """Reads its results.

    Raises:
      ValueError, OSError: the folder has none, or those of something else.
    """
    self.folder = None if folder is None else pathlib.Path(folder)
    super().__init__({})
    if self.folder is not None:
      file = self.folder / outputs.RESULTS_FILE
      if not file.is_file():
        raise FileNotFoundError(
          f'{file} does not exist: --run is the folder of a finished run of '
          'experiments.entity_recognition.'
        )
      results = json.loads(file.read_text(encoding='utf-8'))
      if 'latents' not in results:
        raise ValueError(f'{file} is not of experiments.entity_recognition.')
      self.latents = results['latents']
      self._labels = results['labels']['source']

  @property
  def labels(self) -> str | None:
    """Folder of the base model's answers, which label the entities."""
    if self.folder is None:
      return None
    if self._labels == 'generated':
      return str(self.folder / 'labels' / 'records')
    return self._labels

  def sums(self) -> list[GroupSums]:
    """What it summed over entities, one per SAE; [] for no run."""
    if self.folder is None:
      return []
    return read_sums(self.folder / 'harvest' / 'sums.safetensors')


def find_targets(
  values: flags.FlagValues, run: RecognitionRun, chat: gj.CheckpointReader
) -> tuple[list[Target], dict[str, str]]:
  """The latents with their controls; and, per label, how these were drawn.

  Raises:
    ValueError, KeyError, OSError: no latent is named, or one that no SAE has.
  """
  if values.layers is not None:
    raise ValueError('--layers has no meaning here: latents name theirs.')
  named = {}
  for label in CLASSES:
    text = getattr(values, f'{label}_latent')
    id = LatentId.parse(text) if text else run.chosen(label)
    if id is not None:
      named[label] = id
  if not named:
    raise ValueError(
      'Which latents? Give --run, the folder of an entity_recognition run, or '
      '--known_latent and --unknown_latent.'
    )
  saes = inputs.choose_saes(
    inputs.place(values.sae, inputs.SAES),
    chat.config,
    layers=sorted({str(id.layer) for id in named.values()}),
    width=values.width,
    l0=values.l0,
  )
  saes = {one.layer: one.load(chat) for one in saes}
  targets, drawn = [], {}
  for label, id in named.items():
    sae = saes[id.layer]
    controls, drawn[label] = run.controls(label, id), 'as the run chose them'
    if controls is None:
      rng = np.random.default_rng([values.seed, id.layer, id.latent])
      order = rng.permutation(sae.width)
      controls = [id._replace(latent=int(i)) for i in order if i != id.latent]
      drawn[label] = 'uniform among all latents of the SAE'
    controls = controls[: values.num_random]
    targets.append(run.target(label, id, sae, controls))
  return targets, drawn
