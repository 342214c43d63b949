"""The stages of an entity-recognition run, in order.

  labels     which entities the base model knows, from its own answers
  harvest    sums of every SAE's latents over entities, and over plain text
  latents    which latents say known and unknown; controls
  steering   what happens to a chat model's refusals when they are added

Each is kept in the run's folder and found there by the next run of the same
input (`experiments/runs/stages.py`); labels and steering also resume in the
middle.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import functools
import gc

import numpy as np

from experiments.activations import (
  DENOMINATORS,
  GroupSums,
  join,
  make_rows,
  read_sums,
  stream_scores,
  write_sums,
)
from experiments.entities import (
  EntitySplits,
  activation_prompt,
  classify,
  grades_of,
  split_classes,
)
from experiments.entity_recognition import repurposed
from experiments.entity_recognition.plan import RecognitionPlan, fingerprints
from experiments.entity_recognition.settings import Settings
from experiments.inputs import sae_fingerprint
from experiments.inputs.recognition_run import RecognitionFindings
from experiments.inputs.sae_fit import check_fit
from experiments.labelling import LabelConfig, label_entities, summarize
from experiments.latents import (
  CLASSES,
  SPLITS,
  AnalysisOptions,
  Groups,
  LabelledEntities,
  SplitData,
  analyse,
  name_tokens,
  read_arrays,
  to_arrays,
  to_results,
  write_arrays,
)
from experiments.latents.interpretation import sae_of
from experiments.runs import checksums, outputs
from experiments.runs.stages import digest, stage
from experiments.steering import (
  make_questions,
  steer,
  steering_options,
  strength_of,
)
import gemma_jax as gj
from sae.jumprelu import JumpReLUSAE

SUMS, ARRAYS = 'sums.safetensors', 'arrays.safetensors'


class RecognitionStages:
  """A run: what it works on, and where it leaves things."""

  def __init__(self, plan: RecognitionPlan, settings: Settings):
    """Takes a checked plan; nothing has run."""
    self.plan, self.settings = plan, settings
    self._strengths = {label: strength_of(settings, label) for label in CLASSES}
    self._steering = steering_options(settings)
    self.about = self._models = fingerprints(plan)

  @functools.cached_property
  def base(self) -> gj.Decoder:
    """Returns the base model, loaded when it is first needed.

    Raises:
      ValueError: the SAEs are of another model.
    """
    plan = self.plan
    model = plan.base.load()
    entities = [each for of in plan.entities.values() for each in of]
    check_fit(
      model,
      plan.tokenizer,
      self.saes,
      [activation_prompt(entity).text for entity in entities],
      str(plan.base.folder),
    )
    return model

  @functools.cached_property
  def saes(self) -> list[JumpReLUSAE]:
    """Returns all SAEs, loaded when they are first needed."""
    return [one.load(self.plan.base) for one in self.plan.saes]

  @functools.cached_property
  def sae_fingerprints(self) -> list[str]:
    """Returns what tells the SAEs apart."""
    return list(map(sae_fingerprint, self.saes))

  @property
  def sums_sha256(self) -> str:
    """Tells what was harvested from what a later run harvests in its place."""
    return checksums.sha256(self.plan.out / 'harvest' / SUMS)

  def label(self) -> tuple[EntitySplits, dict]:
    """Returns known and unknown entities, split; and numbers for results.json.

    `grades` then has the share of right samples of each (type, name).
    """
    plan, settings = self.plan, self.settings
    config = LabelConfig(
      num_samples=settings.num_samples, seed=settings.seed, mode=settings.mode
    )
    if plan.records is not None:
      records = plan.records
      classes = classify(plan.records, config.min_correct, config.min_known)
      results = summarize(plan.records, classes, config)
      results['source'] = settings.labels
    else:
      labelled = label_entities(
        lambda: self.base,
        plan.tokenizer,
        plan.entities,
        plan.out / 'labels',
        identity=self._models['base'],
        config=config,
        rows_per_batch=settings.rows_per_batch,
      )
      records = labelled.records
      classes, results = labelled.classes, labelled.results
      results['source'] = 'generated'
    self.grades = grades_of(records)
    return split_classes(plan.entities, classes), results

  def harvest(
    self, people: EntitySplits
  ) -> tuple[list[GroupSums], dict, list[str]]:
    """Sums over all parts, types and classes, and plain text.

    Returns:
      The sums of every SAE; numbers for results.json; and the SAEs'
      fingerprints.
    """
    plan, settings = self.plan, self.settings
    groups = Groups(people.types)
    entities = [
      (entity, groups.number(kind, label, part))
      for part in SPLITS
      for label in CLASSES
      for kind, found in people.of(part, label).items()
      for entity in found
    ]
    rows = make_rows(
      plan.tokenizer,
      [activation_prompt(entity) for entity, _ in entities],
      ids=[f'{entity.type}/{entity.name}' for entity, _ in entities],
    )
    of = rows.groups([group for _, group in entities])
    about, num_words = {'entities': rows.about()}, 0
    if plan.text is not None:
      words = make_rows(
        plan.tokenizer,
        [text for _, text in plan.text.read(0, settings.text_documents)],
        tokens='random',
        window=settings.text_window,
        seed=settings.seed,
        pile_denominator=DENOMINATORS[settings.mode == 'reference'],
      )
      about['text'] = words.about()
      rows = join(rows, words)
      num_words = words.denominator
      of = np.concatenate([of, np.full(len(words), groups.text, np.int32)])

    def make(folder):
      sums = stream_scores(
        self.base,
        self.saes,
        rows,
        of,
        groups.count,
        batch_size=settings.harvest_batch,
      )
      for one in sums if plan.text is not None else ():
        one.n[groups.text] = num_words
      write_sums(folder / SUMS, sums)

    folder = plan.out / 'harvest'
    identity = self._identity(
      'base', rows=digest(rows.tokens, rows.positions, of), words=num_words
    )
    stage(folder, identity, make)
    return read_sums(folder / SUMS), about, self.sae_fingerprints

  def find_latents(
    self, people: EntitySplits, sums: Sequence[GroupSums]
  ) -> tuple[dict, dict[str, np.ndarray]]:
    """Numbers for results.json, and arrays."""
    plan, settings = self.plan, self.settings
    types = people.types
    data, shown = {part: self._split(people, part) for part in SPLITS}, []
    for label in CLASSES:
      for kind, of_type in people.of('test', label).items():
        shown += [
          (f'{label} {kind} {i}', activation_prompt(entity))
          for i, entity in enumerate(of_type[:2], 1)
        ]
    options = AnalysisOptions.for_mode(
      settings.mode,
      num_random=settings.num_random,
      num_permutations=settings.num_permutations,
      seed=settings.seed,
    )

    def make(folder):
      findings = analyse(
        self.base,
        plan.tokenizer,
        self.saes,
        sums,
        Groups(types),
        data,
        options,
        examples=make_rows(
          plan.tokenizer,
          [prompt for _, prompt in shown],
          ids=[name for name, _ in shown],
          tokens='last',
        ),
      )
      outputs.write_results(folder, to_results(findings))
      write_arrays(folder / ARRAYS, to_arrays(findings))

    folder = plan.out / 'latents'
    identity = self._identity(
      'base',
      settings=dataclasses.asdict(options),
      sums=self.sums_sha256,
      entities=digest(*([one.rows.tokens for one in data.values()])),
      grades=digest(*([one.grades for one in data.values()])),
    )
    stage(folder, identity, make)
    results = outputs.read_json(folder / outputs.RESULTS_FILE)
    return results, read_arrays(folder / ARRAYS)

  def steer(
    self,
    people: EntitySplits,
    latents: Mapping,
    arrays: Mapping[str, np.ndarray],
    sums: Sequence[GroupSums],
  ) -> tuple[dict, list[dict]]:
    """Returns numbers for results.json, and a record per answer.

    Answers of other latents, questions or settings are thrown away.
    """
    plan, settings = self.plan, self.settings
    findings, targets = RecognitionFindings(latents, sums), []
    for label in CLASSES:
      ids = [findings.chosen(label)]
      if self._strengths[label].goal is not None:
        ids = findings.candidates(label)  # one is chosen by its effect
      for id in ids:
        controls = findings.controls(label, id)
        sae = sae_of(id, self.saes)
        targets.append(findings.target(label, id, sae, controls))
    # Directions towards known entities, of the detectors at one site.
    site = targets[0].id.site
    detectors = {}
    for name, direction in arrays.items():
      detector = name.removeprefix('direction/')
      if detector != name and f' at {site}.' in detector:
        layer = int(detector.rpartition('.')[2])
        detectors[detector] = layer, -direction
    # It is in the way of the chat model.
    self.__dict__.pop('base', None)
    gc.collect()
    ask = lambda part, count: make_questions(
      plan.chat_tokenizer,
      people.of(part, 'known'),
      people.of(part, 'unknown'),
      per_class=count,
    )
    chat, questions = plan.chat.load(), ask('test', settings.questions)
    results, examples = steer(
      chat,
      plan.chat_tokenizer,
      questions,
      targets,
      self._strengths,
      self._steering,
      validation=ask('validation', settings.questions),
      texts=plan.ordinary_text(),
      detectors=detectors,
      folder=plan.out / 'steering',
      identity=self._models['chat'],
      redo=True,
    )
    steered = [
      target
      for target in targets
      if str(target.id) == results['targets'][target.label]['id']
    ]
    test = self._split(people, 'test')
    read = {
      target.label: (sae_of(target.id, self.saes), target.id.latent)
      for target in steered
    }
    reading = {'chat': repurposed.read_in(chat, read, test)}
    del chat
    gc.collect()
    reading['base'] = repurposed.read_in(self.base, read, test)
    results['repurposed'] = {
      'reading': reading,
      'steering': repurposed.steer_in(
        self.base,
        plan.chat_tokenizer,
        questions,
        steered,
        results,
        self._steering,
        folder=plan.out / 'steering' / 'base',
        identity=self._models['base'],
      ),
    }
    return results, examples

  def _split(self, people: EntitySplits, part: str) -> SplitData:
    """Returns the entities of a split, their rows, names and grades."""
    found = [
      (entity, label == 'known')
      for label in CLASSES
      for of_type in people.of(part, label).values()
      for entity in of_type
    ]
    prompts = [activation_prompt(entity) for entity, _ in found]
    return SplitData(
      entities=LabelledEntities(
        types=people.types,
        names=tuple(entity.name for entity, _ in found),
        type_of=np.array([people.types.index(e.type) for e, _ in found]),
        known=np.array([known for _, known in found]),
      ),
      rows=make_rows(self.plan.tokenizer, prompts),
      name_tokens=name_tokens(self.plan.tokenizer, prompts),
      grades=np.array([self.grades[e.type, e.name] for e, _ in found]),
    )

  def _identity(self, model: str, **more) -> dict:
    return {
      'model': self._models[model],
      'saes': self.sae_fingerprints,
      **more,
    }
