"""The steps: ask an arm, compare its answers, see what it cost, look inside."""

from collections.abc import Mapping
import dataclasses
import pathlib

from experiments import knowledge_probing as probing
from experiments.entities.completions import line_break_ids
from experiments.entities.sampling import fast
from experiments.inputs.sae_fit import check_fit
from experiments.refusal_tuning import answer_metrics, side_effects
from experiments.refusal_tuning.answering import Answered, ask_again, outcome
from experiments.refusal_tuning.arms import ABOUT, Arm
from experiments.refusal_tuning.look_inside import Inside, look_inside, verdict
from experiments.refusal_tuning.opening import Study
from experiments.refusal_tuning.settings import (
  HELD_OUT,
  PROMPTED,
  REAL,
  TEST,
  UNTUNED,
)
from experiments.runs import outputs

# Splits whose questions are asked again; no training row comes from them.
ASKED = ('validation', TEST, HELD_OUT)
_ANSWERS = 'answers.json'

Answers = Mapping[str, Answered]


def answer(study: Study, arm: Arm) -> dict[str, Answered]:
  """Returns id -> what an arm says to the questions of ASKED.

  A model that is not tuned is asked as in the probe, after demonstrations if
  there were any; its answers without an instruction are the probe's own. Tuned
  ones are asked without demonstrations, as they were trained.
  """
  questions, probed = study.questions(ASKED), study.probed
  if arm.name == UNTUNED:
    return {q.id: _first(probed, q.id) for q in questions}
  format, shots = study.probe.format, 0
  if arm.name == PROMPTED:
    format = dataclasses.replace(format, instruction=probing.ADMIT)
    shots = study.probe.plan.shots
  identity = {
    'arm': arm.name,
    'id': arm.id,
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
      arm.model,
      format,
      questions,
      study.probe.judges,
      probing.others_of(probed.questions),
      plan=probing.AskingPlan(
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

  folder = study.kept(f'answers/{arm.name}', identity, make)
  rows = outputs.read_objects(folder / _ANSWERS)
  return {row['id']: Answered(**row) for _, row in rows}


def _first(probed: probing.Probed, id: str) -> Answered:
  """Returns the first greedy answer of the probe."""
  said, judged = probed.sampled[id].greedy[0], probed.scores[id].greedy[0]
  return Answered(
    id=id, text=said.text, outcome=outcome(judged), rule=judged.rule
  )


def compare(study: Study, before: Answers, after: Answers) -> dict:
  """Returns what changed, on each split."""
  consistent = study.probe.settings.consistent_min
  seed = study.settings.seed

  def on(questions):
    outcomes = [
      [each[q.id].outcome for q in questions] for each in (before, after)
    ]
    clusters = [q.cluster for q in questions]
    certain = [
      probing.agreement(study.probed.scores[q.id]) >= consistent
      for q in questions
    ]
    return answer_metrics.compare(
      *outcomes, clusters, known=[q.known for q in questions], seed=seed
    ) | {
      'facts_kept': side_effects.facts_kept(*outcomes, clusters),
      'certainty': answer_metrics.refusals_of_errors(
        *outcomes, certain, clusters, seed=seed
      ),
    }

  found = {}
  for split in ASKED:
    if questions := study.questions([split]):
      found[split] = on(questions)
      real = [q for q in questions if q.known is None]
      if 0 < len(real) < len(questions):
        # Made-up entities are easy to tell: the real ones by themselves.
        found[f'{split}{REAL}'] = on(real)
  return found


def measure_costs(study: Study, arm: Arm) -> dict:
  """Returns what an arm costs on plain text and on ordinary requests."""
  format = study.probe.format
  stops = format.ends
  if format.stops_at_line_break:
    stops |= line_break_ids(format.tokenizer)
  identity = {
    'arm': arm.name,
    'id': arm.id,
    'text': study.text.tolist(),
    'stops': len(stops),
  }

  def make(folder: pathlib.Path):
    after = arm.model
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
        generators=(fast(study.before), fast(after)),
      )
    outputs.write_json(folder / ABOUT, found)

  folder = study.kept(f'side_effects/{arm.name}', identity, make)
  return outputs.read_json(folder / ABOUT)


def inside(study: Study, arm: Arm, untuned: Answers, tuned: Answers) -> dict:
  """Returns what is found inside before and after, with its verdict."""
  settings = study.settings
  identity = {
    'arm': arm.name,
    'id': arm.id,
    'layers': settings.layers,
    'closely': settings.closely,
    'seed': settings.seed,
    'saes': study.sae_fingerprints,
  }

  def known(question):
    """Returns the truth, or what the untuned model answers correctly."""
    if question.known is not None:
      return question.known
    if question.id in untuned:
      return untuned[question.id].outcome == 'correct'
    return probing.is_right(study.probed.scores[question.id])

  def make(folder: pathlib.Path):
    test = study.questions([TEST])
    saes = {
      layer: each.load(study.reader) for layer, each in study.saes.items()
    }
    check_fit(
      study.before,
      study.probe.format.tokenizer,
      list(saes.values()),
      [question.question for question in test],
      study.probe.settings.model,
    )
    found = look_inside(
      Inside(
        before=study.before,
        after=arm.model,
        format=study.probe.format,
        train=study.questions(['train']),
        test=test,
        known=known,
        refused={q.id: tuned[q.id].outcome == 'abstained' for q in test},
        saes=saes,
        layers=settings.layers,
        closely=settings.closely,
        refusal=study.probe.refusal,
        seed=settings.seed,
      )
    )
    outputs.write_json(folder / ABOUT, found)

  folder = study.kept(f'inside/{arm.name}', identity, make)
  found = outputs.read_json(folder / ABOUT)
  return found | {'verdict': verdict(found)}
