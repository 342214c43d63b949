"""A training run of SAEs: what it needs checked, then trained.

`train.py` has the flags, and what comes after training.
"""

from collections.abc import Sequence
import dataclasses
import pathlib

from absl import flags
import jax
import tqdm

from experiments.inputs import corpus
from experiments.runs import memory, mesh_flags, outputs
from experiments.sae_training import sae_evaluation, settings
from experiments.sae_training.token_activations import ActivationStream
import gemma_jax as gj
from sae.jumprelu import Origin
from sae.training.logs import read_metrics
from sae.training.recipe import TrainConfig
from sae.training.train import Trained, train


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class TrainingPlan:
  """A run whose input was checked.

  Attributes:
    out: Its folder.
    config: How SAEs are trained.
    reader: Of the whole model.
    site: Of width W.
    layers: S of them.
    origins: What SAEs will say of themselves, one per layer.
    training, evaluation: Text.
    estimate: Of memory.
    mesh: None is one device.
  """

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


def prepare(values: flags.FlagValues, names: Sequence[str]) -> TrainingPlan:
  """Checks everything, and tokenises text; no weight is read.

  Raises:
    ValueError, OSError, ImportError, OutOfMemory: the run cannot be.
  """
  if values.out is None:
    raise ValueError('Say where results go: --out=DIR.')
  out = pathlib.Path(values.out)
  reader = corpus.open_model(values)
  site, layers = _site_and_layers(values, reader.config)
  d_in = gj.site_width(reader.config, site)
  config = settings.train_config(values, d_in)
  mesh = mesh_flags.make_mesh(values)
  estimate = memory.estimate_training(
    config,
    reader.config,
    site=site,
    layers=layers,
    dtype=reader.dtype,
    context=values.context,
    harvest_batch=values.harvest_batch,
    uniformity=bool(values.uniformity_tokens),
    **mesh_flags.sizes(mesh),
  )
  said = memory.check_memory(
    estimate, memory.available_bytes(), refuse=values.check_memory
  )
  print(said, flush=True)
  # Before anything in the folder of another run is touched.
  outputs.check_same_run(
    out / 'run.json',
    {
      'model': corpus.fingerprint(reader),
      'site': site,
      'layers': layers,
      'context': values.context,
      'eval_fraction': values.eval_fraction,
      'pack': values.pack,
      'parse_special': values.parse_special,
      **corpus.text_identity(values, reader),
      **config.identity,
    },
    resumes=any((out / 'checkpoints').glob('[0-9]*')),
  )
  training, evaluation = corpus.training_text(
    values,
    reader,
    out / 'tokens',
    num_tokens=config.num_steps * config.batch_size,
    eval_tokens=values.eval_tokens,
    eval_fraction=values.eval_fraction,
    repeat=values.repeat,
  )
  sae_evaluation.check_losses(evaluation.rows, values.eval_tokens)
  outputs.write_flags(out, values, names)
  name = corpus.model_name(values)
  return TrainingPlan(
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


def _site_and_layers(values, config: gj.ModelConfig):
  site, layer = gj.parse_site(values.site, config)
  if site not in gj.VECTOR_SITES:
    raise ValueError(
      f'SAEs read a vector per token; {site} has none. Expected one of '
      f'{", ".join(gj.VECTOR_SITES)}.'
    )
  if layer is not None and values.layer is not None:
    raise ValueError(
      f'--site={values.site} names a layer, and --layer another time. Give one '
      'of them.'
    )
  layers = [config.num_layers // 2 if layer is None else layer]
  if values.layer is not None:
    layers = values.layer
  bad = [x for x in layers if not 0 <= x < config.num_layers]
  if bad or not layers or len(set(layers)) < len(layers):
    raise ValueError(
      f'--layer={",".join(map(str, layers))}: expected distinct layers from 0 '
      f'to {config.num_layers - 1}, which the model has.'
    )
  return site, layers


def load(reader: gj.CheckpointReader, num_layers: int, mesh=None) -> gj.Decoder:
  """The first layers of a model, with a progress bar."""
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


def train_saes(plan: TrainingPlan, values: flags.FlagValues) -> Trained:
  """Trains, from the last checkpoint on if there is one."""
  opened = []

  def activations(first):
    # Loaded here: a run that is finished does not need it.
    stream = ActivationStream(
      load(plan.reader, max(plan.layers) + 1, plan.mesh),
      plan.training.rows,
      site=plan.site,
      layers=plan.layers,
      batch_size=values.harvest_batch,
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
        log_every=values.log_every,
        checkpoint_every=values.checkpoint_every,
        wandb_project=values.wandb_project,
      )
  finally:
    for stream in opened:
      stream.close()


def training_records(plan: TrainingPlan) -> dict[str, list[dict]]:
  """Name of a run -> its records of metrics.jsonl."""
  records = {}
  for record in read_metrics(plan.out):
    records.setdefault(record['run'], []).append(record)
  return records
