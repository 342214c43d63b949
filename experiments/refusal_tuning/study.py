"""The study: train the arms, ask again, compare, look inside.

Every step is kept in the run's folder when it is complete, under the identity
of all that it depends on, so that the same command goes on where it was killed;
training itself goes on from its last snapshot.

  arms/<arm>      a tuned model: all weights as HF writes them, or PEFT adapters
  answers/<arm>   what it says to questions that no row came from
  side_effects/   plain text and ordinary requests
  inside/         detectors, controllers, patched weights
  best/model      the best arm as HF reads it, adapters merged
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
import json
import pathlib
import time

import jax
import jax.numpy as jnp
import numpy as np

from experiments import inputs, model_and_text, outputs
from experiments import knowledge_probing as probing
from experiments.entities.completions import line_break_ids
from experiments.factual_recall import find_text, has_documents, text_rows
from experiments.refusal_tuning import metrics, side_effects
from experiments.refusal_tuning.answering import Answered, ask_again, outcome
from experiments.refusal_tuning.inside import Inside, look_inside, verdict
from experiments.refusal_tuning.settings import (
  PROMPTED,
  TUNED,
  UNTUNED,
  Settings,
)
from experiments.refusal_tuning.tuning import Tuner
from experiments.stages import stage
import gemma_jax as gj
from gemma_jax import training

HELD_OUT = 'held_out_relation'
# Splits whose questions are asked again; no training row comes from them.
ASKED = ('validation', 'test', HELD_OUT)
# Ends the names of parts without made-up entities, where there are such.
REAL = ', real entities'
_MODEL, _ADAPTER, _ABOUT = 'model', 'adapter', 'about.json'
_ANSWERS = 'answers.json'
_VERSION = 1


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
  saes: Mapping[int, inputs.NamedSAE]

  @functools.cached_property
  def before(self) -> gj.Decoder:
    """The untuned model, float32; on a mesh if that is asked for."""
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
    """What trains the arms."""
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
    """Of the untuned model."""
    return model_and_text.fingerprint(self.reader)

  def questions(self, splits: Sequence[str]) -> list[probing.Question]:
    """Those of some splits."""
    return [q for q in self.probed.asked if self.probed.splits[q.id] in splits]


def open_study(settings: Settings) -> Study:
  """Reads and checks everything but the weights.

  Raises:
    ValueError, OSError, KeyError, ImportError: something is missing or does
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


def _saes(settings, model, config) -> dict[int, inputs.NamedSAE]:
  layers = None if settings.layers is None else list(map(str, settings.layers))
  found = inputs.saes_by_layer(settings.sae, model, config, layers)
  found.pop(config.num_layers - 1, None)  # no layer reads what is added there
  return found


def run_study(study: Study) -> dict:
  """Runs what is not finished; returns what results.json gets."""
  settings, start = study.settings, time.monotonic()
  arms = (UNTUNED, *settings.arms)
  found, answers, trained = {}, {}, {}
  for number, arm in enumerate(arms):
    spent = time.monotonic() - start
    print(f'[{number + 1}/{len(arms)}] {arm} (after {spent:.0f} s)', flush=True)
    found[arm] = {'arm': arm}
    model = study.before
    if arm in TUNED:
      trained[arm], found[arm]['training'] = _arm(study, arm, trained)
      model = study.tuner.decoder(trained[arm])
    answers[arm] = _answers(study, arm, model)
    found[arm] |= _compared(study, answers[UNTUNED], answers[arm])
    if arm in TUNED:
      found[arm]['side_effects'] = _side_effects(study, arm, model)
  best = settings.inside or max(
    (arm for arm in arms if arm in TUNED),
    key=lambda arm: _validation_score(found[arm]),
  )
  spent = time.monotonic() - start
  print(f'Looking inside {best} (after {spent:.0f} s)', flush=True)
  inside = _inside(study, best, study.tuner.decoder(trained[best]), answers)
  _export(study, best, trained[best])
  return {
    'study': 'refusal_tuning',
    'mode': 'default',
    'seed': settings.seed,
    'versions': outputs.versions(),
    'model': {
      'name': study.probe.name,
      'path': study.probe.settings.model,
      'dtype': 'float32',
      'fingerprint': study.fingerprint,
    },
    'settings': dataclasses.asdict(settings),
    'method': 'lora' if study.tuner.lora else 'full',
    'questions': {
      split: len(study.questions([split])) for split in (*ASKED, 'train')
    },
    'arms': list(found.values()),
    'best': best,
    'inside': inside,
    'examples': _examples(study, answers),
    'seconds': time.monotonic() - start,
  }


def _validation_score(arm: Mapping) -> float:
  value = arm['validation']['metrics']['honesty']['after']['value']
  return -1.0 if value is None else value


def _stage(study: Study, name: str, identity: Mapping, make: Callable):
  """A step's folder, made unless it is there."""
  whole = {
    'version': _VERSION,
    'model': study.fingerprint,
    'format': study.probe.format.name,
    **identity,
  }
  if study.settings.redo:
    whole['redo'] = time.time()
  folder = study.folder / name
  stage(folder, whole, make)
  return folder


def _training_identity(settings: Settings) -> dict:
  left_out = ('out', 'probe', 'arms', 'inside', 'sae', 'layers', 'text')
  left_out += ('text_tokens', 'rows_per_batch', 'redo')
  left_out += ('closely', 'max_new_tokens', 'data', 'model_parallel')
  return {
    key: value
    for key, value in dataclasses.asdict(settings).items()
    if key not in left_out
  }


def _arm(study: Study, arm: str, trained: Mapping) -> tuple[dict, dict]:
  """What training gives, and how it went."""
  settings, rule = study.settings, TUNED[arm]
  start = None
  if arm == 'dpo':  # preferences come after completions, as in 2401.13275
    start = trained['llama3']
  decisions = dict(study.probed.decisions[rule])
  about = {'rule': rule, 'starts_from': 'llama3' if start else UNTUNED}
  if rule == 'craft':
    decisions, about['rehearsal'] = _rehearsed(study)
  rows, validation = (
    probing.training_rows(
      study.probed,
      rule,
      decisions=decisions,
      split=split,
      text=study.probe.refusal,
      max_refusal_share=settings.max_refusal_share,
      seed=settings.seed,
    )
    for split in ('train', 'validation')
  )
  rows = _fewer(rows, settings.rows, settings.seed)
  identity = {
    'arm': arm,
    'settings': _training_identity(settings),
    'rows': [dataclasses.asdict(row) for row in (*rows, *validation)],
    'start': start and _digest(start),
  }

  def make(folder: pathlib.Path):
    train = study.tuner.preferred if arm == 'dpo' else study.tuner.supervised
    tuned = train(
      rows,
      validation,
      snapshot=_snapshot(study, arm),
      name=arm,
      start=start,
    )
    _save(study, folder, tuned.trained)
    outputs.write_json(
      folder / _ABOUT,
      about
      | {
        'rows': len(rows),
        'refusals': sum(row.refusal for row in rows),
        'packed_rows': tuned.rows,
        'steps': tuned.steps,
        'records': tuned.records,
      },
    )

  folder = _stage(study, f'arms/{arm}', identity, make)
  _snapshot(study, arm).unlink(missing_ok=True)
  return _load(study, folder), outputs.read_json(folder / _ABOUT)


def _snapshot(study: Study, arm: str) -> pathlib.Path:
  """The file that a killed training goes on from."""
  return study.folder / 'work' / f'{arm}.safetensors'


def _digest(weights: Mapping) -> list[float]:
  """Tells weights apart: sums of them all."""
  return [float(jnp.abs(weights[name]).sum()) for name in sorted(weights)]


def _fewer(rows, most: int, seed: int):
  """So many rows, as many of each relation and class as there is room for."""
  if len(rows) <= most:
    return rows
  rng, seen, keyed = np.random.default_rng(seed), {}, []
  for row in rng.permutation(len(rows)):
    key = rows[row].relation, rows[row].refusal
    seen[key] = seen.get(key, -1) + 1
    keyed.append((seen[key], row))
  keyed.sort(key=lambda each: each[0])
  return [rows[row] for row in sorted(row for _, row in keyed[:most])]


def _save(study: Study, folder: pathlib.Path, trained: Mapping):
  """Writes all weights as HF reads them, or adapters as PEFT reads them."""
  if study.tuner.lora is not None:
    training.save_peft(
      folder / _ADAPTER,
      trained,
      study.tuner.lora,
      study.before,
      study.probe.settings.model,
    )
    return
  gj.save_checkpoint(study.tuner.decoder(trained), folder / _MODEL)
  for name, content in study.reader.companions().items():
    (folder / _MODEL / name).write_bytes(content)


def _export(study: Study, arm: str, trained: Mapping):
  """Writes the whole tuned model of an arm, where only adapters were kept."""
  if study.tuner.lora is None:
    return

  def make(folder: pathlib.Path):
    gj.save_checkpoint(study.tuner.decoder(trained), folder / _MODEL)
    for name, content in study.reader.companions().items():
      (folder / _MODEL / name).write_bytes(content)

  _stage(study, 'best', {'arm': arm, 'weights': _digest(trained)}, make)


def _load(study: Study, folder: pathlib.Path) -> dict:
  """What was trained, from its files."""
  if study.tuner.lora is not None:
    return training.load_peft(folder / _ADAPTER, study.before)[0]
  return gj.load_checkpoint(folder / _MODEL).weights()


def _rehearsed(study: Study) -> tuple[dict, dict]:
  """CRaFT's decisions after a short training on what is known.

  Wrong train questions are asked once more as the probe did; those that the
  rehearsal brings up were known after all.
  """
  settings, probed = study.settings, study.probed
  known = {
    id: decision if decision == 'answer' else 'drop'
    for id, decision in probed.decisions['correctness'].items()
  }
  train = study.questions(['train'])
  ids = [q.id for q in train if known[q.id] == 'answer']
  rows = probing.make_rows(
    train, probed.sampled, probed.scores, known, ids, text=study.probe.refusal
  )
  rows = _fewer(rows, settings.rows, settings.seed)
  wrong = [q for q in train if known[q.id] != 'answer']
  identity = {
    'settings': _training_identity(settings),
    'rows': [dataclasses.asdict(row) for row in rows],
    'asked': [q.id for q in wrong],
    'plan': dataclasses.asdict(study.probe.plan),
  }

  def make(folder: pathlib.Path):
    tuned = study.tuner.supervised(
      rows,
      (),
      snapshot=_snapshot(study, 'rehearsal'),
      name='rehearsal',
      epochs=settings.rehearsal_epochs,
    )
    model, found = study.tuner.decoder(tuned.trained), {}
    pools = probing.pools_of(probed.questions, probed.splits)
    others = probing.others_of(probed.questions)
    judges = study.probe.judges
    for batch in probing.ask(
      model, study.probe.format, wrong, pools, study.probe.plan
    ):
      for each in batch:
        question = next(q for q in wrong if q.id == each.id)
        right = [
          probing.judge(question, s.text, judges, others[each.id]).correct
          for s in each.samples
        ]
        found[each.id] = float(np.mean(right))
    outputs.write_json(folder / _ABOUT, found)

  folder = _stage(study, 'arms/rehearsal', identity, make)
  _snapshot(study, 'rehearsal').unlink(missing_ok=True)
  rehearsed = outputs.read_json(folder / _ABOUT)
  rules = probing.rule_settings(study.probe.settings)
  scores = [probed.scores[q.id] for q in train]
  decisions = probing.decide_all('craft', scores, rules, rehearsed)
  without = probing.decide_all('craft', scores, rules)
  validation = {
    q.id: probed.decisions['craft'][q.id]
    for q in study.questions(['validation'])
  }
  return decisions | validation, {
    'rows': len(rows),
    'asked_again': len(wrong),
    'left_out': sum(decisions[id] != without[id] for id in without),
  }


def _answers(study: Study, arm: str, model) -> dict[str, Answered]:
  """Id -> what an arm says to the questions of ASKED.

  A model that is not tuned is asked as in the probe, after demonstrations if
  there were any; its answers without an instruction are the probe's own. Tuned
  ones are asked without demonstrations, as they were trained.
  """
  questions, probed = study.questions(ASKED), study.probed
  if arm == UNTUNED:
    found = {}
    for q in questions:
      (said, *_), (verdict, *_) = (
        probed.sampled[q.id].greedy,
        probed.scores[q.id].greedy,
      )
      found[q.id] = Answered(
        id=q.id, text=said.text, outcome=outcome(verdict), rule=verdict.rule
      )
    return found
  format, shots = study.probe.format, 0
  if arm == PROMPTED:
    format = dataclasses.replace(format, instruction=probing.ADMIT)
    shots = study.probe.plan.shots
  identity = {
    'arm': arm,
    'weights': _digest(model.weights()),
    'instruction': format.instruction,
    'questions': [q.id for q in questions],
    'judge': dataclasses.asdict(study.probe.judges),
    'max_new_tokens': study.settings.max_new_tokens,
  }
  if shots:
    identity['plan'] = dataclasses.asdict(study.probe.plan)

  def make(folder: pathlib.Path):
    found = []
    for batch in ask_again(
      model,
      format,
      questions,
      study.probe.judges,
      probing.others_of(probed.questions),
      plan=probing.Plan(
        shots=shots,
        samples=0,
        max_new_tokens=study.settings.max_new_tokens,
        seed=study.probe.plan.seed,
        rows_per_batch=study.settings.rows_per_batch,
      ),
      pools=probing.pools_of(probed.questions, probed.splits),
    ):
      found += [dataclasses.asdict(each) for each in batch]
    outputs.write_lines(folder / _ANSWERS, found)

  folder = _stage(study, f'answers/{arm}', identity, make)
  rows = (folder / _ANSWERS).read_bytes().splitlines()
  return {row['id']: Answered(**row) for row in map(json.loads, rows)}


def _compared(study: Study, before: Mapping, after: Mapping) -> dict:
  """What changed, on each split."""
  consistent, seed = (
    study.probe.settings.consistent_min,
    study.settings.seed,
  )

  def compare(questions):
    outcomes = [
      [each[q.id].outcome for q in questions] for each in (before, after)
    ]
    clusters = [q.cluster for q in questions]
    certain = [
      probing.agreement(study.probed.scores[q.id]) >= consistent
      for q in questions
    ]
    return metrics.compare(
      *outcomes, clusters, known=[q.known for q in questions], seed=seed
    ) | {
      'facts_kept': side_effects.facts_kept(*outcomes, clusters),
      'certainty': metrics.refusals_of_errors(
        *outcomes, certain, clusters, seed=seed
      ),
    }

  found = {}
  for split in ASKED:
    if questions := study.questions([split]):
      found[split] = compare(questions)
      real = [q for q in questions if q.known is None]
      if 0 < len(real) < len(questions):
        # Made-up entities are easy to tell: the real ones by themselves.
        found[f'{split}{REAL}'] = compare(real)
  return found


def _side_effects(study: Study, arm: str, after: gj.Decoder) -> dict:
  format = study.probe.format
  stops = format.ends
  if format.stops_at_line_break:
    stops |= line_break_ids(format.tokenizer)
  identity = {
    'arm': arm,
    'weights': _digest(after.weights()),
    'text': study.text.tolist(),
    'stops': len(stops),
  }

  def make(folder: pathlib.Path):
    found = {
      'perplexity': side_effects.perplexity(
        study.before, after, study.text, seed=study.settings.seed
      )
    }
    if not study.bundled:  # which has no words for ordinary requests
      prompts = side_effects.ordinary_prompts(
        format, side_effects.read_ordinary()
      )
      found['ordinary'] = side_effects.ordinary_answers(
        study.before,
        after,
        prompts,
        stop_ids=sorted(stops),
        decode=lambda ids: format.tokenizer.decode(ids, skip_special=True),
        refuses=probing.declines,
        generators=(_fast(study.before), _fast(after)),
      )
    outputs.write_json(folder / _ABOUT, found)

  folder = _stage(study, f'side_effects/{arm}', identity, make)
  return outputs.read_json(folder / _ABOUT)


def _fast(model: gj.Decoder) -> gj.Decoder:
  if jax.default_backend() == 'cpu' and model.is_stacked:
    return gj.unstack_layers(model)
  return model


def _inside(study: Study, arm: str, after: gj.Decoder, answers) -> dict:
  settings = study.settings
  identity = {
    'arm': arm,
    'weights': _digest(after.weights()),
    'layers': settings.layers,
    'closely': settings.closely,
    'seed': settings.seed,
    'saes': {str(k): dataclasses.asdict(v) for k, v in study.saes.items()},
  }
  if study.saes:
    identity['chosen'] = 2  # how latents are chosen

  def known(question):
    """The truth, or what the untuned model answers correctly."""
    if question.known is not None:
      return question.known
    if question.id in answers[UNTUNED]:
      return answers[UNTUNED][question.id].outcome == 'correct'
    return probing.is_right(study.probed.scores[question.id])

  def make(folder: pathlib.Path):
    test = study.questions(['test'])
    found = look_inside(
      Inside(
        before=study.before,
        after=after,
        format=study.probe.format,
        train=study.questions(['train']),
        test=test,
        known=known,
        refused={q.id: answers[arm][q.id].outcome == 'abstained' for q in test},
        saes={
          layer: each.load(study.reader) for layer, each in study.saes.items()
        },
        layers=settings.layers,
        closely=settings.closely,
        refusal=study.probe.refusal,
        seed=settings.seed,
      )
    )
    outputs.write_json(folder / _ABOUT, found)

  folder = _stage(study, f'inside/{arm}', identity, make)
  found = outputs.read_json(folder / _ABOUT)
  return found | {'verdict': verdict(found)}


def _examples(study: Study, answers: Mapping) -> list[dict]:
  """Some test questions with what every arm said."""
  questions = study.questions(['test'])
  rng = np.random.default_rng(study.settings.seed)
  chosen = rng.permutation(len(questions))[:12]
  return [
    {
      'question': questions[i].question,
      'answers': list(questions[i].answers[:2]),
      'known': questions[i].known,
      'said': {
        arm: each[questions[i].id].text for arm, each in answers.items()
      },
    }
    for i in sorted(chosen)
  ]
