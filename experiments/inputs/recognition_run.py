"""Latents to steer with, from a run that chose them or named by flags."""

from collections.abc import Mapping, Sequence
import functools
import os
import pathlib

import numpy as np

from experiments import inputs
from experiments.activations import GroupSums, read_sums
from experiments.entities import Entity, EntitySplits, people_of_names
from experiments.inputs import corpus
from experiments.inputs.settings import ChosenLatents
from experiments.latents import (
  CLASSES,
  Groups,
  LatentId,
  Target,
  class_sums,
  describe_random,
  difference_of_means,
)
from experiments.runs import checksums, outputs
import gemma_jax as gj
from sae.jumprelu import JumpReLUSAE

EXPERIMENT = 'entity_recognition'


class RecognitionFindings:
  """Holds what entity recognition found that one can steer with.

  Attributes:
    latents: Results about latents; {} if there are none.
  """

  def __init__(self, latents: Mapping, sums: Sequence[GroupSums] = ()):
    """Takes the results, and what was summed over entities, one per SAE."""
    self.latents, self._sums = latents, sums

  def sums(self) -> Sequence[GroupSums]:
    """Returns what was summed over entities, one per SAE."""
    return self._sums

  def chosen(self, label: str) -> LatentId | None:
    """Returns the latent that was chosen, if any."""
    if not self.latents or not self.latents['chosen'][label]:
      return None
    return LatentId.parse(self.latents['chosen'][label][0]['id'])

  def steered(self, label: str) -> LatentId | None:
    """Returns the latent that was steered with: the one chosen by its effect.

    The chosen one where the run steered with none.
    """
    return self.chosen(label)

  def candidates(self, label: str) -> list[LatentId]:
    """Returns the best latent of every SAE; the chosen one if only it is
    known."""
    found = self.latents.get('candidates', {}).get(label)
    if found:
      return [LatentId.parse(each['id']) for each in found]
    return [self.chosen(label)]

  def random(self, label: str, id: LatentId) -> Mapping | None:
    """Returns what is known of the controls of a latent, if it has some."""
    drawn = [self.latents.get('random', {}).get(label)]
    candidates = self.latents.get('candidates', {}).get(label, ())
    drawn += [each['random'] for each in candidates]
    return next(
      (each for each in drawn if each and each['of'] == str(id)), None
    )

  def controls(self, label: str, id: LatentId) -> list[LatentId] | None:
    """Returns the random latents, if they are controls of this one."""
    random = self.random(label, id)
    return random and list(map(LatentId.parse, random['ids']))

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
    """Returns a latent to steer with, beside its controls and the mean
    difference.

    Args:
      label: 'known' or 'unknown'.
      id: Id of the latent.
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


class RecognitionRun(RecognitionFindings):
  """A finished run of `experiments.entity_recognition`.

  What is done with its latents must be done with its SAEs, on entities that it
  held out: the checks say where that is not so. They go by contents, so that
  runs, SAEs and models can be moved.

  Attributes:
    folder: Folder of the run; None for no run, which has nothing.
    latents: Results about latents.
  """

  def __init__(self, folder: str | None):
    """Reads its results.

    Raises:
      ValueError, OSError: the folder has none, or those of something else.
    """
    self.folder = None if folder is None else pathlib.Path(folder)
    super().__init__({})
    if self.folder is None:
      return
    file = self.folder / outputs.RESULTS_FILE
    if not file.is_file():
      raise FileNotFoundError(
        f'{file} does not exist: --run is the folder of a finished run of '
        'experiments.entity_recognition.'
      )
    results = outputs.read_json(file)
    if results.get('experiment') != EXPERIMENT:
      raise ValueError(
        f'{file} is of {results.get("experiment")}: --run is the folder of a '
        f'finished run of experiments.{EXPERIMENT}.'
      )
    again = 'The same run again (its flags.txt) writes it anew.'
    try:
      models = results.get('models', {}).values()
      old = 'splits' not in results or any('files' not in m for m in models)
      if not old:
        self._take(results)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
      raise ValueError(
        f'{file} is not what experiments.{EXPERIMENT} writes: {error!r}. '
        f'{again}'
      ) from error
    if old:
      raise ValueError(
        f'{file} does not say which entities were chosen on, or with which '
        f'files of weights: it is of an older version. {again}'
      )

  def _take(self, results):
    """Takes what is used of the results, all of which must be there."""
    self.latents, self._models = results['latents'], results['models']
    for model in self._models.values():
      model['folder'], model['dtype'], model['fingerprint']
    lists = [self.latents['types']]
    for label in CLASSES:
      lists.append(self.latents['chosen'][label])
      if (id := self.chosen(label)) is None:
        raise ValueError(f'it has chosen no {label} latent')
      self.controls(label, id)
    lists += [each['ids'] for each in self.latents.get('random', {}).values()]
    for each in lists:
      if not isinstance(each, list):
        raise TypeError(f'{each!r:.80} is not a list')
    self._steered = {
      label: target['id']
      for label, target in results.get('steering', {})
      .get('targets', {})
      .items()
    }
    self._sums_sha256 = results['sums_sha256']
    self._names = results['splits']
    self._chosen_on = {
      (kind, name)
      for part in ('train', 'validation')
      for of_class in self._names[part].values()
      for kind, names in of_class.items()
      for name in names
    }
    self._saes = {
      where['layer']: (name, fingerprint)
      for where, name, fingerprint in zip(
        self.latents['saes'],
        results['saes'],
        results['sae_fingerprints'],
        strict=True,
      )
    }

  def steered(self, label: str) -> LatentId | None:
    """Returns the latent that the run steered with."""
    id = getattr(self, '_steered', {}).get(label)
    return self.chosen(label) if id is None else LatentId.parse(id)

  def sums(self) -> list[GroupSums]:
    """Returns the sums over entities, one per SAE; [] for no run."""
    return self._harvested

  @functools.cached_property
  def _harvested(self) -> list[GroupSums]:
    if self.folder is None:
      return []
    file = self.folder / 'harvest' / 'sums.safetensors'
    if checksums.sha256(file) != self._sums_sha256:
      raise ValueError(
        f'{file} is not what {self.folder / outputs.RESULTS_FILE} was computed '
        'from: it was changed, or another run in this folder was stopped. Let '
        'a run end there (its flags.txt repeats it).'
      )
    return read_sums(file)

  def people(self, entities: Mapping[str, Sequence[Entity]]) -> EntitySplits:
    """Its known and unknown entities, in its splits.

    Raises:
      ValueError: some are not among the entities.
    """
    try:
      return people_of_names(self._names, entities)
    except ValueError as error:
      raise ValueError(
        f'--run={self.folder} is of other entities than --entities: {error} '
        'Give the --entities of the run.'
      ) from error

  def check_held_out(self, people: EntitySplits):
    """Checks that latents were not chosen on what is to be tested on.

    Raises:
      ValueError: entities of test are in the run's other splits.
    """
    if self.folder is None:
      return
    tested = [
      (kind, entity.name)
      for label in CLASSES
      for kind, found in people.of('test', label).items()
      for entity in found
    ]
    if leaked := [each for each in tested if each in self._chosen_on]:
      kind, name = leaked[0]
      raise ValueError(
        f'--labels puts {len(leaked)} of {len(tested)} entities into test that '
        f'--run={self.folder} chose its latents on, the first the {kind} '
        f'{name!r}. Leave --labels away: the run has its own.'
      )

  def check_sae(self, named: inputs.SAESpec, sae: JumpReLUSAE):
    """Checks that the SAE is the run's of that layer, if it has one.

    Raises:
      ValueError: it is another one.
    """
    if self.folder is None or named.layer not in self._saes:
      return
    name, fingerprint = self._saes[named.layer]
    mine = inputs.sae_fingerprint(sae)
    if mine != fingerprint:
      raise ValueError(
        f'--run={self.folder} chose latents of {name} ({fingerprint[:8]}); '
        f'these flags choose {named.source}/{named.sae_id} ({mine[:8]}), which '
        'is another SAE. Give --sae, --width and --l0 as in '
        f'{self.folder / outputs.FLAGS_FILE}, or a run of this SAE.'
      )

  def is_at(self, role: str, reader: gj.CheckpointReader) -> bool:
    """Returns True if a model is in the folder of the run's own one."""
    return self.folder is not None and (
      os.path.realpath(self._models[role]['folder'])
      == os.path.realpath(reader.folder)
    )

  def check_model(self, role: str, reader: gj.CheckpointReader):
    """Checks that the model is the run's 'base' or 'chat' one, in any dtype.

    Raises:
      ValueError: it is another one, or its files have changed.
    """
    if self.folder is None:
      return
    its = self._models[role]
    place = reader.gguf.path if reader.gguf else reader.folder
    alike = gj.CheckpointReader(place, dtype=its['dtype'])
    mine = corpus.model_identity(alike)
    if mine['fingerprint'] == its['fingerprint']:
      return
    changed = [
      f'{name} has the SHA-256 {mine["files"][name][:8]} and had {sha256[:8]}'
      for name, sha256 in its['files'].items()
      if mine['files'].get(name, sha256) != sha256
    ]
    flag = {'base': 'model', 'chat': 'chat_model'}[role]
    raise ValueError(
      f'--run={self.folder} is of the {role} model {its["folder"]} '
      f'({its["fingerprint"][:8]}); --{flag} is {place} '
      f'({mine["fingerprint"][:8]}), another one'
      + (f': {", ".join(changed)}' if changed else '')
      + f'. Give --{flag} as in {self.folder / outputs.FLAGS_FILE}, or a run '
      'of this model.'
    )


def find_targets(
  settings: ChosenLatents, run: RecognitionRun, chat: gj.CheckpointReader
) -> tuple[list[Target], dict[str, str]]:
  """Returns the latents with their controls; and, per label, how these were
  drawn.

  Raises:
    ValueError, OSError: no latent is named, or one that no SAE has;
      or the run's are of another SAE.
  """
  named = {}
  for label in CLASSES:
    text = getattr(settings, f'{label}_latent')
    id = LatentId.parse(text) if text else run.steered(label)
    if id is not None:
      named[label] = id
  if not named:
    raise ValueError(
      'Which latents? Give --run, the folder of an entity_recognition run, or '
      '--known_latent and --unknown_latent.'
    )
  if len(set(named.values())) < len(named):
    raise ValueError(
      f'The known and the unknown latent are both {named[CLASSES[0]]}, which '
      'would be added twice. Name two: --known_latent, --unknown_latent.'
    )
  layers = sorted({id.layer for id in named.values()})
  chosen = settings.choose_saes(chat.config, layers)
  chosen = {one.layer: one for one in chosen}
  saes = {layer: one.load(chat) for layer, one in chosen.items()}
  targets, drawn = [], {}
  for label, id in named.items():
    sae = saes[id.layer]
    if id == run.steered(label):
      run.check_sae(chosen[id.layer], sae)
    controls = run.controls(label, id)
    if controls is not None:
      how = describe_random(run.random(label, id))
      drawn[label] = f'as the run chose them, {how}'
    else:
      rng = np.random.default_rng([settings.seed, id.layer, id.latent])
      order = rng.permutation(sae.width)
      controls = [id._replace(latent=int(i)) for i in order if i != id.latent]
      drawn[label] = 'uniform among all latents of the SAE'
    controls = controls[: getattr(settings, 'num_random', 0)]
    targets.append(run.target(label, id, sae, controls))
  return targets, drawn
