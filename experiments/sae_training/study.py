"""A training run of SAEs: what it needs checked, then trained."""

from collections.abc import Sequence
import dataclasses
import pathlib

import jax
import tqdm

from experiments.inputs import corpus
from experiments.runs import KeepFlags, outputs
from experiments.runs.host_memory import available_bytes
from experiments.sae_training import memory, memory_items, sae_evaluation
from experiments.sae_training.settings import Settings
from experiments.sae_training.token_activations import ActivationStream
import gemma_jax as gj
from sae.jumprelu import Origin
from sae.training.logs import read_metrics
from sae.training.monitor import TrainingDiverged
from sae.training.recipe import TrainConfig
from sae.training.train import Trained, train


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class TrainingPlan:
  """A run whose input was checked.

  Attributes:
    settings: What the run is told.
    out: Folder of the run.
    config: How SAEs are trained.
    reader: The checkpoint of the whole model.
    site: Site of width W.
    layers: S layers of the site.
    origins: What SAEs say of themselves, one per layer.
    training: Text to train on.
    evaluation: Text to measure SAEs on.
    estimate: How much memory is needed.
    mesh: The mesh of devices; None for one device.
  """

  settings: Settings
  out: pathlib.Path
  config: TrainConfig
  reader: gj.CheckpointReader
  site: str
  layers: Sequence[int]
  origins: Sequence[Origin]
  training: corpus.Text
  evaluation: corpus.Text
  estimate: memory.MemoryEstimate
  mesh: jax.sharding.Mesh | None


def prepare(settings: Settings, keep_flags: KeepFlags) -> TrainingPlan:
  """Checks everything, and tokenises text; no weight is read.

  Raises:
    ValueError, OSError, ImportError, OutOfMemory: the run cannot be.
  """
  out = pathlib.Path(settings.out)
  reader = settings.open_model()
  site, layers = site_and_layers(settings, reader.config)
  config = settings.train_config(gj.site_width(reader.config, site))
  mesh = settings.make_mesh()
  estimate = memory_items.estimate_training(
    config,
    reader.config,
    site=site,
    layers=layers,
    dtype=reader.dtype,
    context=settings.context,
    harvest_batch=settings.harvest_batch,
    uniformity=bool(settings.uniformity_tokens),
    mesh=mesh,
  )
  said = memory.check_memory(
    estimate, available_bytes(), refuse=settings.check_memory
  )
  print(said, flush=True)
  # Before anything in the folder of another run is touched.
  outputs.check_same_run(
    out / 'run.json',
    {
      'model': corpus.fingerprint(reader),
      'site': site,
      'layers': layers,
      'context': settings.context,
      'eval_fraction': settings.eval_fraction,
      'pack': settings.pack,
      'parse_special': settings.parse_special,
      **corpus.text_identity(settings, reader),
      'repeat': settings.repeats,
      **config.identity,
    },
    resumes=any((out / 'checkpoints').glob('[0-9]*')),
  )
  training, evaluation = corpus.training_text(
    settings,
    reader,
    out / 'tokens',
    num_tokens=config.num_steps * config.batch_size,
    eval_tokens=settings.eval_tokens,
    eval_fraction=settings.eval_fraction,
    repeat=settings.repeats,
  )
  sae_evaluation.check_losses(evaluation.rows, settings.eval_tokens)
  keep_flags()
  name = settings.exported_name
  return TrainingPlan(
    settings=settings,
    out=out,
    config=config,
    reader=reader,
    site=site,
    layers=layers,
    origins=[Origin(model=name, site=site, layer=layer) for layer in layers],
    training=training,
    evaluation=evaluation,
    estimate=estimate,
    mesh=mesh,
  )


def site_and_layers(
  settings: Settings, config: gj.ModelConfig
) -> tuple[str, list[int]]:
  """Returns the site and the layers that SAEs read.

  Raises:
    ValueError: the model has no such site or layer, or both flags name one.
  """
  site, layer = gj.parse_site(settings.site, config)
  if site not in gj.VECTOR_SITES:
    raise ValueError(
      f'SAEs read a vector per token; {site} has none. Expected one of '
      f'{", ".join(gj.VECTOR_SITES)}.'
    )
  if layer is not None and settings.layer is not None:
    raise ValueError(
      f'--site={settings.site} names a layer, and --layer another time. Give '
      'one of them.'
    )
  layers = [config.num_layers // 2 if layer is None else layer]
  if settings.layer is not None:
    layers = list(settings.layer)
  bad = [x for x in layers if not 0 <= x < config.num_layers]
  if bad or len(set(layers)) < len(layers):
    raise ValueError(
      f'--layer={",".join(map(str, layers))}: expected distinct layers from 0 '
      f'to {config.num_layers - 1}, which the model has.'
    )
  return site, layers


def load(reader: gj.CheckpointReader, num_layers: int, mesh=None) -> gj.Decoder:
  """Loads the first layers of a model, with a progress bar."""
  if num_layers < reader.config.num_layers:
    reader = gj.CheckpointReader(
      reader.folder, dtype=reader.dtype, num_layers=num_layers
    )
  with tqdm.tqdm(
    desc=f'Loading {num_layers} layers',
    total=reader.num_bytes,
    unit='B',
    unit_scale=True,
  ) as bar:
    return reader.load(mesh, on_bytes=bar.update)


def train_saes(plan: TrainingPlan) -> Trained:
  """Trains, from the last checkpoint on if there is one.

  Raises:
    ValueError: training diverged.
    OutOfMemory: the device has too little memory.
  """
  settings, opened = plan.settings, []

  def activations(first):
    # Loaded here: a run that is finished does not need it.
    stream = ActivationStream(
      load(plan.reader, max(plan.layers) + 1, plan.mesh),
      plan.training.rows,
      site=plan.site,
      layers=plan.layers,
      batch_size=settings.harvest_batch,
      num_tokens=plan.config.num_steps * plan.config.batch_size,
    )
    opened.append(stream(first))
    return opened[-1]

  try:
    with memory.explain_out_of_memory(plan.estimate, 'training'):
      return train(
        plan.config,
        activations,
        out=plan.out,
        origins=plan.origins,
        mesh=plan.mesh,
        log_every=settings.log_every,
        checkpoint_every=settings.checkpoint_every,
        wandb_project=settings.wandb_project,
      )
  except TrainingDiverged as error:
    raise ValueError(str(error)) from error
  finally:
    for stream in opened:
      stream.close()


def training_records(plan: TrainingPlan) -> dict[str, list[dict]]:
  """Returns name of a run -> its records of metrics.jsonl."""
  records = {}
  for record in read_metrics(plan.out):
    records.setdefault(record['run'], []).append(record)
  return records
