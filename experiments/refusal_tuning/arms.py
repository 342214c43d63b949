"""The arms: the untuned model, and what is trained on the rows of each rule."""

from collections.abc import Mapping, Sequence
import dataclasses
import pathlib

import numpy as np

from experiments import knowledge_probing as probing
from experiments.refusal_tuning.opening import Study
from experiments.refusal_tuning.rehearsed import own_answers
from experiments.refusal_tuning.settings import TUNED, UNTUNED, Settings
from experiments.runs import outputs
from experiments.stats.evenly import take_evenly
import gemma_jax as gj
from gemma_jax import training

ABOUT = 'about.json'
_MODEL, _ADAPTER = 'model', 'adapter'
# Settings that no training depends on.
_ELSEWHERE = frozenset(
  {
    'out',
    'probe',
    'arms',
    'inside',
    'sae',
    'layers',
    'text',
    'text_tokens',
    'closely',
    'max_new_tokens',
    'data',
    'model_parallel',
    'rows_per_batch',
    'redo',
  }
)


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Arm:
  """A model that is asked.

  Attributes:
    name: Name of the arm.
    study: The study.
    trained: All weights, or LoRA's adapters; None of an untuned model.
    id: Tells what was trained apart; '' of an untuned model.
    about: How it was trained, for results.json; {} of an untuned model.
  """

  name: str
  study: Study
  trained: Mapping | None = None
  id: str = ''
  about: Mapping = dataclasses.field(default_factory=dict)

  @property
  def model(self) -> gj.Decoder:
    """Returns the whole model, made anew: memory may not hold several."""
    if self.trained is None:
      return self.study.before
    return self.study.tuner.decoder(self.trained)


def make_arm(study: Study, name: str, others: Mapping[str, Arm]) -> Arm:
  """Trains an arm, unless it is there; or returns the untuned model.

  Args:
    study: The study.
    name: 'untuned', 'prompted', or one of TUNED.
    others: Arms that were made before; 'dpo' goes on from 'llama3', as
      preferences come after completions in arXiv 2401.13275.

  Raises:
    ValueError: the rule leaves a class empty, or training fails.
  """
  if name not in TUNED:
    return Arm(name=name, study=study)
  settings, rule = study.settings, TUNED[name]
  start = others['llama3'] if name == 'dpo' else None
  decisions = dict(study.probed.decisions[rule])
  about = {'rule': rule, 'starts_from': start.name if start else UNTUNED}
  if rule == 'craft':
    decisions, about['rehearsal'] = _rehearse(study, decisions)
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
  ordinary = {} if start else _ordinary(study)
  identity = {
    'arm': name,
    'settings': _training_settings(settings),
    'rows': [dataclasses.asdict(row) for row in (*rows, *validation)],
    'ordinary': ordinary,
    'start': start and start.id,
  }

  def make(folder: pathlib.Path):
    given = {'snapshot': _snapshot(study, name), 'name': name}
    if start:
      tuned = study.tuner.preferred(
        rows, validation, start=start.trained, **given
      )
    else:
      tuned = study.tuner.supervised(
        rows, validation, ordinary=ordinary, **given
      )
    _write(study, folder, tuned.trained)
    outputs.write_json(
      folder / ABOUT,
      about
      | {
        'rows': len(rows),
        'refusals': sum(row.refusal for row in rows),
        'ordinary': len(ordinary),
        'packed_rows': tuned.rows,
        'steps': tuned.steps,
        'records': tuned.records,
      },
    )

  folder = study.kept(f'arms/{name}', identity, make)
  _snapshot(study, name).unlink(missing_ok=True)
  trained = _read(study, folder)
  return Arm(
    name=name,
    study=study,
    trained=trained,
    id=training.fingerprint(trained),
    about=outputs.read_json(folder / ABOUT),
  )


def export(study: Study, arm: Arm):
  """Writes the whole model of an arm of which only adapters were kept."""
  if study.tuner.lora is not None:
    study.kept(
      'best',
      {'arm': arm.name, 'id': arm.id},
      lambda folder: _write_model(study, folder, arm.trained),
    )


def _ordinary(study: Study) -> dict[str, str]:
  """Ordinary requests to rehearse -> what the untuned model says to them."""
  settings = study.settings
  if not settings.ordinary:
    return {}

  def make(folder: pathlib.Path):
    answers = own_answers(
      study.before, study.probe.format, settings.ordinary, settings.seed
    )
    outputs.write_json(folder / ABOUT, answers)

  identity = {'most': settings.ordinary, 'seed': settings.seed}
  folder = study.kept('ordinary', identity, make)
  return outputs.read_json(folder / ABOUT)


def _training_settings(settings: Settings) -> dict:
  return {
    name: value
    for name, value in dataclasses.asdict(settings).items()
    if name not in _ELSEWHERE
  }


def _snapshot(study: Study, name: str) -> pathlib.Path:
  """Returns the file that a killed training goes on from."""
  return study.folder / 'work' / f'{name}.safetensors'


def _fewer(rows: Sequence[probing.Row], most: int, seed: int):
  """So many rows, as many of each relation and class as there is room for."""
  kinds = [(row.relation, row.refusal) for row in rows]
  taken = take_evenly(kinds, most, np.random.default_rng(seed))
  return [rows[i] for i in sorted(taken)]


def _write(study: Study, folder: pathlib.Path, trained: Mapping):
  """Writes all weights as HF reads them, or adapters as PEFT reads them."""
  if study.tuner.lora is None:
    _write_model(study, folder, trained)
    return
  training.save_peft(
    folder / _ADAPTER,
    trained,
    study.tuner.lora,
    study.before,
    study.probe.settings.model,
  )


def _write_model(study: Study, folder: pathlib.Path, trained: Mapping):
  gj.save_checkpoint(study.tuner.decoder(trained), folder / _MODEL)
  for name, content in study.reader.companions().items():
    (folder / _MODEL / name).write_bytes(content)


def _read(study: Study, folder: pathlib.Path) -> dict:
  """Returns what was trained, from its files."""
  if study.tuner.lora is not None:
    return training.load_peft(folder / _ADAPTER, study.before)[0]
  return gj.load_checkpoint(folder / _MODEL).weights()


def _rehearse(study: Study, decisions: Mapping) -> tuple[dict, dict]:
  """CRaFT's decisions after a short training on what is known.

  Wrong train questions are asked once more as the probe did; those that the
  rehearsal brings up were known after all.

  Args:
    study: The study.
    decisions: Id -> CRaFT's decision without a rehearsal.
  """
  settings, probed = study.settings, study.probed
  train = study.questions(['train'])
  right = probed.decisions['correctness']
  known = {q.id: 'answer' for q in train if right[q.id] == 'answer'}
  rows = probing.make_rows(
    train,
    probed.sampled,
    probed.scores,
    known,
    list(known),
    text=study.probe.refusal,
  )
  rows = _fewer(rows, settings.rows, settings.seed)
  wrong = {q.id: q for q in train if q.id not in known}
  identity = {
    'settings': _training_settings(settings),
    'rows': [dataclasses.asdict(row) for row in rows],
    'asked': list(wrong),
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
    judge = study.probe.judges
    for batch in probing.ask(
      model, study.probe.format, list(wrong.values()), pools, study.probe.plan
    ):
      for each in batch:
        question = wrong[each.id]
        verdicts = [
          probing.judge(question, s.text, judge, others[each.id])
          for s in each.samples
        ]
        found[each.id] = float(np.mean([v.correct for v in verdicts]))
    outputs.write_json(folder / ABOUT, found)

  folder = study.kept('arms/rehearsal', identity, make)
  _snapshot(study, 'rehearsal').unlink(missing_ok=True)
  after = probing.decide_all(
    'craft',
    [probed.scores[q.id] for q in train],
    probing.rule_settings(study.probe.settings),
    outputs.read_json(folder / ABOUT),
  )
  return {**decisions, **after}, {
    'rows': len(rows),
    'asked_again': len(wrong),
    'left_out': sum(after[id] != decisions[id] for id in after),
  }
