"""What the study works on, checked before any weight is read."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import pathlib
import time

import numpy as np

from experiments import inputs
from experiments import knowledge_probing as probing
from experiments.factual_recall import find_text, has_documents, text_rows
from experiments.inputs import corpus
from experiments.refusal_tuning.settings import Settings
from experiments.refusal_tuning.tuning import Tuner
from experiments.runs import outputs
from experiments.runs.checksums import of_value
from experiments.runs.stages import stage
import gemma_jax as gj
from gemma_jax import training

# The version of the steps; another one has all of them made anew.
_VERSION = 2


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Study:
  """A study whose input was checked; no weight is read yet.

  Attributes:
    settings: What it was told.
    folder: Where everything is written.
    probe: The study of the probe: reader, format, refusal.
    probed: What it found.
    reader: The checkpoint, as float32.
    text: int32 [R, T], rows of plain text.
    saes: Layer -> the SAE to read.
  """

  settings: Settings
  folder: pathlib.Path
  probe: probing.Study
  probed: probing.Probed
  reader: gj.CheckpointReader
  text: np.ndarray
  saes: Mapping[int, inputs.SAESpec]

  @functools.cached_property
  def before(self) -> gj.Decoder:
    """Returns the untuned model, float32; on a mesh if that is asked for."""
    data, parallel = self.settings.data, self.settings.model_parallel
    if data is None and parallel == 1:
      return self.reader.load()
    return self.reader.load(gj.make_mesh(data, parallel))

  @property
  def bundled(self) -> bool:
    """Returns True for the bundled world."""
    return self.probe.settings.model == inputs.BUNDLED

  @functools.cached_property
  def tuner(self) -> Tuner:
    """Returns what trains the arms."""
    settings = self.settings
    method = settings.method or ('full' if self.bundled else 'lora')
    lora = None
    if method == 'lora':
      lora = training.LoraConfig(rank=settings.rank, alpha=settings.alpha)
    return Tuner(
      settings,
      self.before,
      self.probe.format,
      lora=lora,
      length=settings.length or (64 if self.bundled else 128),
    )

  @functools.cached_property
  def fingerprint(self) -> str:
    """Tells the untuned model apart."""
    return corpus.fingerprint(self.reader)

  @functools.cached_property
  def sae_fingerprints(self) -> dict[str, str]:
    """Tells the SAEs apart, layer by layer."""
    return inputs.sae_fingerprints(self.saes, self.reader)

  @functools.cached_property
  def probe_sha256(self) -> str:
    """Tells questions, and what the untuned model said to them, apart."""
    probed = self.probed
    said = [
      list(probed.questions),
      sorted(probed.splits.items()),
      sorted(probed.scores.items(), key=lambda pair: pair[0]),
    ]
    return of_value(said)

  def kept(
    self, name: str, identity: Mapping, make: Callable[[pathlib.Path], None]
  ) -> pathlib.Path:
    """Returns a step's folder, made unless it is there.

    Args:
      name: Path of the folder within the run's.
      identity: What the step depends on, besides the untuned model.
      make: Fills the folder that it is given.
    """
    whole = {
      'version': _VERSION,
      'model': self.fingerprint,
      'tokenizer': corpus.tokenizer_sha256(self.reader),
      'probe': self.probe_sha256,
      'format': self.probe.format.name,
      **identity,
    }
    if self.settings.redo:
      whole['redo'] = time.time()
    stage(self.folder / name, whole, make)
    return self.folder / name

  def questions(self, splits: Sequence[str]) -> list[probing.Question]:
    """Returns the questions of some splits."""
    return [q for q in self.probed.asked if self.probed.splits[q.id] in splits]


def open_study(settings: Settings) -> Study:
  """Reads and checks everything but the weights.

  Raises:
    ValueError, OSError, ImportError: something is missing or does
      not fit; the error names it.
  """
  folder = pathlib.Path(settings.probe)
  probed = probing.read_probe(folder)
  results = outputs.read_json(folder / outputs.RESULTS_FILE)
  told = {
    name: tuple(value) if isinstance(value, list) else value
    for name, value in results['settings'].items()
  }
  probe = probing.open_study(probing.Settings(**told | {'out': str(folder)}))
  if probe.identity['model'] != results['model']['fingerprint']:
    raise ValueError(
      f'{folder} probed a model with the fingerprint '
      f'{results["model"]["fingerprint"][:12]}; {told["model"]} now has '
      f'{probe.identity["model"][:12]}. Probe again.'
    )
  if settings.ordinary and told['model'] == inputs.BUNDLED:
    raise ValueError(
      f'--ordinary={settings.ordinary}: the bundled model has no words for '
      'ordinary requests. Leave it out.'
    )
  reader, _ = inputs.open_named(told['model'], 'float32')
  for layer in settings.layers or ():
    if not 0 <= layer < reader.config.num_layers:
      raise ValueError(
        f'--layers has {layer}; the model has layers 0 to '
        f'{reader.config.num_layers - 1}.'
      )
  return Study(
    settings=settings,
    folder=pathlib.Path(settings.out),
    probe=probe,
    probed=probed,
    reader=reader,
    text=_text(settings, probe, reader),
    saes=_saes(settings, told['model'], reader.config),
  )


def _text(settings, probe, reader) -> np.ndarray:
  where = settings.text, probe.settings.model
  return text_rows(
    probe.format.tokenizer,
    find_text(*where)[0],
    context=min(64, reader.config.max_positions),
    tokens=settings.text_tokens,
    config=reader.config,
    documents=has_documents(*where),
  )


def _saes(settings, model, config) -> dict[int, inputs.SAESpec]:
  found = inputs.saes_by_layer(settings.sae, model, config, settings.layers)
  found.pop(config.num_layers - 1, None)  # no layer reads what is added there
  return found
