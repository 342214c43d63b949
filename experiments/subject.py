"""What an experiment on known and unknown entities works on.

A model, entities split by what the base model knows of them, and latents that
were found to tell them apart, with controls. The entities' classes and the
latents come from a finished run of `experiments.entity_recognition` (--run),
or from flags.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import os
import pathlib

from absl import flags
import numpy as np

from experiments import inputs, model_and_text, outputs
from experiments.charts import Section, footer, write_report
from experiments.entities import (
  MODES,
  Entity,
  People,
  activation_prompt,
  classify,
  read_entities,
  read_records,
  split_classes,
)
from experiments.latents import (
  CLASSES,
  Groups,
  class_sums,
  describe_random,
  matched_random,
)
from experiments.runs import SEED, define_number, whole
from experiments.sae_fit import check_fit
from experiments.steering import Target
from experiments.steering.targets import RecognitionRun, find_targets
import gemma_jax as gj
from sae.jumprelu import JumpReLUSAE

# Where `make demo` leaves its run.
DEMO = 'out/demo'


def define_flags(
  values: flags.FlagValues,
  *,
  model: str = 'base',
  saes: bool = True,
  latents: bool = True,
  num_random: int | None = 20,
):
  """Defines the flags that `open_subject` reads.

  Args:
    values: Where they are defined.
    model: 'base' or 'chat', the one that is run.
    saes: Whether the experiment reads SAEs.
    latents: Whether it is about chosen latents.
    num_random: Default of --num_random; None is no such flag.
  """
  common = {'flag_values': values}
  flags.DEFINE_string(
    'out', None, 'Folder for everything that is written.', **common
  )
  if model == 'chat':
    inputs.define_chat_model(values)
    flags.DEFINE_enum(
      'dtype',
      None,
      ['float32', 'bfloat16'],
      'Of the model and its activations. Default: that of the checkpoint.',
      **common,
    )
  else:
    inputs.define_model(values)
  if saes:
    inputs.define_saes(values, layers=not latents)
  inputs.define_entities(values)
  flags.DEFINE_enum(
    'mode',
    'default',
    MODES,
    "'reference' does what the published code did, its defects included.",
    **common,
  )
  define_number('seed', 0, 'Of all draws.', SEED, **common)
  flags.DEFINE_string(
    'run',
    None,
    'Folder of an entity_recognition run of the same SAEs and entities: its '
    f'labels, latents and controls are used. Default: {DEMO}, which `make '
    "demo` makes; with --labels, none, which '' is too.",
    **common,
  )
  flags.DEFINE_string(
    'labels',
    None,
    'Folder of answers of the base model, which say what it knows. Default: '
    "the run's.",
    **common,
  )
  if latents:
    for label in CLASSES:
      flags.DEFINE_string(
        f'{label}_latent',
        None,
        f'Latent that fires on {label} entities, such as resid_post.12/7957. '
        "Default: the run's.",
        **common,
      )
    if num_random is not None:
      define_number(
        'num_random',
        num_random,
        'Random latents per latent, matched to it where a run is given.',
        whole(0, 10_000),
        **common,
      )


def finish_flags(values: flags.FlagValues, before: set[str]) -> list[str]:
  """Names of the flags defined since; --help of the binary lists them."""
  return sorted(set(values) - before)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Subject:
  """Checked input; no weight of the model is read yet.

  Attributes:
    values: Parsed flags.
    names: Of those that flags.txt keeps.
    out: Folder of the run.
    reader: Of the model.
    tokenizer: Its.
    people: Known and unknown entities, split.
    targets: Label -> the latent, with its controls; {} if none is asked for.
    drawn: Label -> how its controls were drawn.
    run: Folder of the recognition run; None for none.
    findings: What it found; nothing for no run.
    about: What tells the model apart, for results.json and for identities.
  """

  values: flags.FlagValues
  names: Sequence[str]
  out: pathlib.Path
  reader: gj.CheckpointReader
  tokenizer: gj.Tokenizer
  people: People
  targets: Mapping[str, Target]
  drawn: Mapping[str, str]
  run: str | None
  findings: RecognitionRun
  about: Mapping[str, str]

  def load(self) -> gj.Decoder:
    """The model, stacked.

    Raises:
      ValueError: the SAEs that its latents are of do not fit it.
    """
    model = self.reader.load()
    layers = sorted({target.id.layer for target in self.targets.values()})
    self.check_fit(model, [self.sae(layer) for layer in layers])
    return model

  def check_fit(self, model: gj.Decoder, saes: Sequence[JumpReLUSAE]):
    """Raises ValueError if SAEs are of another model than the one loaded."""
    texts = [
      activation_prompt(entity).text
      for label in CLASSES
      for of_type in self.people.of('test', label).values()
      for entity in of_type
    ]
    check_fit(model, self.tokenizer, saes, texts, str(self.reader.folder))

  @functools.cached_property
  def sae_choices(self) -> dict[int, inputs.NamedSAE]:
    """Layer -> its SAE by name, of those that --layers names, or of all."""
    layers = self.values.layers if 'layers' in self.values else None
    return {
      one.layer: one for one in _choices(self.values, self.reader, layers)
    }

  def sae(self, layer: int) -> JumpReLUSAE:
    """The SAE of a layer, also of one that --layers leaves out.

    Raises:
      ValueError: there is none, or the run has another one.
    """
    (choice,) = _choices(self.values, self.reader, [layer])
    sae = choice.load(self.reader)
    self.findings.check_sae(choice, sae)
    return sae

  def begin(self):
    """Writes flags.txt, unless a run has left one.

    That one goes with its results until `write` replaces both: this run may
    yet be refused, or killed.
    """
    outputs.write_flags(self.out, self.values, self.names, replace=False)

  def write(
    self,
    experiment: str,
    results: Mapping,
    title: str,
    summary: Sequence[str],
    sections: Sequence[Section],
  ):
    """Writes flags.txt, results.json and report.html; prints the summary.

    Args:
      experiment: Name of the binary.
      results: Its numbers.
      title: The question, as the title of the page.
      summary: Sentences that answer it.
      sections: Of the page; what it was computed with is added.
    """
    values = self.values
    results = {
      'experiment': experiment,
      'mode': values.mode,
      'seed': values.seed,
      'model': self.about,
      'sae': values.sae if 'sae' in values else None,
      'run': self.run,
      'latents': {
        label: {
          'id': str(target.id),
          'num_controls': len(target.controls),
          'controls': self.drawn[label],
        }
        for label, target in self.targets.items()
      },
      **results,
      'summary': list(summary),
      'versions': outputs.versions(),
    }
    outputs.write_flags(self.out, values, self.names)
    outputs.write_results(self.out, results)
    write_report(
      self.out / outputs.REPORT_FILE,
      title,
      list(summary),
      [*sections, _footer(results)],
    )
    print('\n'.join(summary))
    print(f'Written: {self.out / outputs.REPORT_FILE}')


def open_subject(
  values: flags.FlagValues, names: Sequence[str], *, model: str = 'base'
) -> Subject:
  """Opens and checks what flags name.

  Args:
    values: Parsed flags, of `define_flags`.
    names: Of all flags of the binary.
    model: As `define_flags` got it.

  Raises:
    ValueError, OSError, ImportError: something does not exist or
      does not fit; the error names it and the remedy.
  """
  if values.out is None:
    raise ValueError('Say where results go: --out=DIR.')
  place = (
    inputs.place(values.chat_model, inputs.CHAT)
    if model == 'chat'
    else inputs.place(values.model, inputs.BASE)
  )
  reader = inputs.open_model(place, values.dtype)
  folder = values.run
  if folder is None and values.labels is None:
    folder = DEMO
    if not pathlib.Path(DEMO, outputs.RESULTS_FILE).exists():
      raise FileNotFoundError(
        f'--run={DEMO} does not exist: `make demo` makes it, for the bundled '
        'world. For another model give the folder of a run of '
        'experiments.entity_recognition.'
      )
  run = RecognitionRun(folder or None)
  # Another chat model may be steered on purpose. The bundled one is by default,
  # and the run's own by its place: it must be what it was.
  bundled = model == 'base' or values.chat_model == inputs.BUNDLED
  if bundled or run.is_at(model, reader):
    run.check_model(model, reader)
  targets, drawn = {}, {}
  if 'known_latent' in values:
    found, drawn = find_targets(values, run, reader)
    for one in found:
      targets[one.label], more = _enough(values, run, reader, one)
      drawn[one.label] = more or drawn[one.label]
  return Subject(
    values=values,
    names=names,
    out=pathlib.Path(values.out),
    reader=reader,
    tokenizer=inputs.read_tokenizer(reader),
    people=_people(values, run),
    targets=targets,
    drawn=drawn,
    run=folder or None,
    findings=run,
    about=model_and_text.model_identity(reader),
  )


def known_and_unknown(
  entities: Mapping[str, Sequence[Entity]],
  labels: str | os.PathLike,
  types: Sequence[str] | None = None,
) -> People:
  """The entities, split, by answers of the base model.

  Args:
    entities: Type -> entities.
    labels: Folder of answers.
    types: Those to keep; all by default.

  Raises:
    ValueError, OSError: answers are missing or malformed, or a class is small.
  """
  classes = classify(read_records(labels))
  kept = {
    kind: found
    for kind, found in entities.items()
    if types is None or kind in types
  }
  for kind in kept:
    if kind not in classes:
      raise ValueError(f'{labels} has no answers about entities of {kind!r}.')
  return split_classes(kept, classes)


def _people(values, run: RecognitionRun) -> People:
  """Known and unknown entities, as --labels or else the run have them."""
  if values.labels is None and run.folder is None:
    raise ValueError(
      'What does the base model know? Give --labels, a folder of its answers '
      '(experiments.label_entities makes them), or --run.'
    )
  types = run.latents.get('types')
  entities = read_entities(
    inputs.place(values.entities, inputs.ENTITIES), types=types
  )
  if values.labels is None:
    return run.people(entities)
  people = known_and_unknown(entities, values.labels, types=types)
  run.check_held_out(people)
  return people


def _choices(values, reader, layers) -> list[inputs.NamedSAE]:
  return inputs.choose_saes(
    inputs.place(values.sae, inputs.SAES),
    reader.config,
    layers=layers,
    width=values.width,
    l0=values.l0,
  )


def _enough(
  values, run: RecognitionRun, reader, target: Target
) -> tuple[Target, str]:
  """The target with as many controls as are asked for; how they were drawn.

  A run keeps a few; more are drawn from the sums that it kept. '' if the
  target had enough or needs none, or no run says which latents are like it.
  """
  id = target.id
  if 'num_random' not in values or run.controls(target.label, id) is None:
    return target, ''
  if len(target.controls) >= values.num_random:
    return target, ''
  (one,) = (sums for sums in run.sums() if (sums.site, sums.layer) == id[:2])
  (choice,) = _choices(values, reader, [id.layer])
  rows = np.asarray(choice.load(reader).W_dec[...], np.float32)
  drawn = matched_random(
    id,
    class_sums(one, Groups(tuple(run.latents['types'])), ('train',)),
    count=values.num_random,
    seed=values.seed,
    norms=np.linalg.norm(rows, axis=1),
  )
  controls = {each: rows[each.latent] for each in drawn.ids}
  how = describe_random(drawn.to_dict())
  return dataclasses.replace(target, controls=controls), how


def _footer(results: Mapping) -> Section:
  return footer(
    results,
    [
      ['model', f'{results["model"]["folder"]}, {results["model"]["dtype"]}'],
      ['SAEs', results['sae'] or 'none'],
      ['entity recognition', results['run'] or 'none'],
      *(
        [
          f'{label} latent',
          f'{one["id"]}; {one["num_controls"]} random latents, '
          f'{one["controls"]}',
        ]
        for label, one in results['latents'].items()
      ),
    ],
  )
