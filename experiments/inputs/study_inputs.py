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

import numpy as np

from experiments import inputs
from experiments.charts import Section, footer, write_report
from experiments.entities import (
  Entity,
  EntitySplits,
  activation_prompt,
  classify,
  read_entities,
  read_records,
  split_classes,
)
from experiments.inputs import corpus
from experiments.inputs.recognition_run import RecognitionRun, find_targets
from experiments.inputs.sae_fit import check_fit
from experiments.inputs.settings import (
  BaseModel,
  BaseStudy,
  ChatStudy,
  ChosenLatents,
)
from experiments.latents import (
  CLASSES,
  Groups,
  Target,
  class_sums,
  describe_random,
  matched_random,
)
from experiments.runs import KeepFlags, outputs
import gemma_jax as gj
from sae.jumprelu import JumpReLUSAE

# Where `make demo` leaves its run.
DEMO = 'out/demo'


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class StudyInputs:
  """Checked input; no weight of the model is read yet.

  Attributes:
    settings: What the study was told.
    keep_flags: Writes flags.txt.
    out: Folder of the run.
    reader: The model's checkpoint.
    tokenizer: The model's tokenizer.
    people: Known and unknown entities, split.
    targets: Label -> the latent, with its controls; {} if none is asked for.
    drawn: Label -> how its controls were drawn.
    run: Folder of the recognition run; None for none.
    findings: What the run found; nothing for no run.
    about: What tells the model apart, for results.json and for identities.
  """

  settings: BaseStudy | ChatStudy
  keep_flags: KeepFlags
  out: pathlib.Path
  reader: gj.CheckpointReader
  tokenizer: gj.Tokenizer
  people: EntitySplits
  targets: Mapping[str, Target]
  drawn: Mapping[str, str]
  run: str | None
  findings: RecognitionRun
  about: Mapping[str, str]

  def load(self) -> gj.Decoder:
    """Returns the model, stacked.

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
  def sae_choices(self) -> dict[int, inputs.SAESpec]:
    """The chosen SAE of each layer that --layers names, or of all."""
    layers = getattr(self.settings, 'layers', None)
    return {
      one.layer: one
      for one in self.settings.choose_saes(self.reader.config, layers)
    }

  def sae(self, layer: int) -> JumpReLUSAE:
    """Returns the SAE of a layer, also of one that --layers leaves out.

    Raises:
      ValueError: there is none, or the run has another one.
    """
    (choice,) = self.settings.choose_saes(self.reader.config, [layer])
    sae = choice.load(self.reader)
    self.findings.check_sae(choice, sae)
    return sae

  def begin(self):
    """Writes flags.txt, unless a run has left one.

    That one goes with its results until `write` replaces both: this run may
    yet be refused, or killed.
    """
    self.keep_flags(replace=False)

  def write(
    self,
    experiment: str,
    results: Mapping,
    title: str,
    summary: Sequence[str],
    sections: Sequence[Section],
  ) -> str:
    """Writes flags.txt, results.json and report.html.

    Args:
      experiment: Name of the binary.
      results: Numbers of the study.
      title: The question, as the title of the page.
      summary: Sentences that answer it.
      sections: Sections of the page; a footer is added that says what it was
        computed with.

    Returns:
      The summary, as a terminal shows it.
    """
    settings = self.settings
    results = {
      'experiment': experiment,
      'mode': settings.mode,
      'seed': settings.seed,
      'model': self.about,
      'sae': getattr(settings, 'sae', None),
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
    self.keep_flags()
    outputs.write_results(self.out, results)
    write_report(
      self.out / outputs.REPORT_FILE,
      title,
      list(summary),
      [*sections, _footer(results)],
    )
    return '\n'.join(summary)


def open_inputs(
  settings: BaseStudy | ChatStudy, keep_flags: KeepFlags
) -> StudyInputs:
  """Opens and checks what settings name.

  Args:
    settings: What the study is told. It runs the chat model if there is one in
      its settings and no base model.
    keep_flags: Writes flags.txt, see `experiments.runs`.

  Raises:
    ValueError, OSError, ImportError: something does not exist or
      does not fit; the error names it and the remedy.
  """
  role = 'base' if isinstance(settings, BaseModel) else 'chat'
  place = (
    inputs.resolve_path(settings.model, inputs.BASE)
    if role == 'base'
    else inputs.resolve_path(settings.chat_model, inputs.CHAT)
  )
  reader = inputs.open_model(place, settings.dtype)
  folder = settings.run
  if folder is None and settings.labels is None:
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
  bundled = role == 'base' or settings.chat_model == inputs.BUNDLED
  if bundled or run.is_at(role, reader):
    run.check_model(role, reader)
  targets, drawn = {}, {}
  if isinstance(settings, ChosenLatents):
    found, drawn = find_targets(settings, run, reader)
    for one in found:
      targets[one.label], more = _enough(settings, run, reader, one)
      drawn[one.label] = more or drawn[one.label]
  return StudyInputs(
    settings=settings,
    keep_flags=keep_flags,
    out=pathlib.Path(settings.out),
    reader=reader,
    tokenizer=inputs.read_tokenizer(reader),
    people=_people(settings, run),
    targets=targets,
    drawn=drawn,
    run=folder or None,
    findings=run,
    about=corpus.model_identity(reader),
  )


def known_and_unknown(
  entities: Mapping[str, Sequence[Entity]],
  labels: str | os.PathLike,
  types: Sequence[str] | None = None,
) -> EntitySplits:
  """Returns the entities, split, by answers of the base model.

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


def _people(settings, run: RecognitionRun) -> EntitySplits:
  """Known and unknown entities, as --labels or else the run have them."""
  if settings.labels is None and run.folder is None:
    raise ValueError(
      'What does the base model know? Give --labels, a folder of its answers '
      '(experiments.labelling makes them), or --run.'
    )
  types = run.latents.get('types')
  entities = read_entities(
    inputs.resolve_path(settings.entities, inputs.ENTITIES), types=types
  )
  if settings.labels is None:
    return run.people(entities)
  people = known_and_unknown(entities, settings.labels, types=types)
  run.check_held_out(people)
  return people


def _enough(
  settings, run: RecognitionRun, reader, target: Target
) -> tuple[Target, str]:
  """Returns the target with as many controls as are asked for; how they were
  drawn.

  A run keeps a few; more are drawn from the sums that it kept. '' if the
  target had enough or needs none, or no run says which latents are like it.
  """
  id = target.id
  count = getattr(settings, 'num_random', 0)
  if len(target.controls) >= count or run.controls(target.label, id) is None:
    return target, ''
  (one,) = (sums for sums in run.sums() if (sums.site, sums.layer) == id[:2])
  (choice,) = settings.choose_saes(reader.config, [id.layer])
  rows = np.asarray(choice.load(reader).W_dec[...], np.float32)
  drawn = matched_random(
    id,
    class_sums(one, Groups(tuple(run.latents['types'])), ('train',)),
    count=count,
    seed=settings.seed,
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
