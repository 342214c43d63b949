"""The study: from a model to what it knows, stage by stage.

  questions   what is asked, and which split each question is in
  samples     what the model says
  scores      what its answers amount to
  decisions   what every rule makes of each question
  rows        training rows of one rule
  report      numbers

Every stage leaves JSON lines in the run's folder. What took long is kept in
stages/ as it goes, from which the same command goes on where it was killed.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import pathlib
import shutil

import tqdm

from experiments import inputs
from experiments.entities import read_entities
from experiments.inputs import corpus
from experiments.knowledge_probing import asking, judging, passages
from experiments.knowledge_probing import probe_records as lib
from experiments.knowledge_probing.cities import city_questions
from experiments.knowledge_probing.clustering import normal_alike
from experiments.knowledge_probing.model_judges import entailment, llm_verdicts
from experiments.knowledge_probing.opening import Study, rule_settings
from experiments.knowledge_probing.probed import (
  Probed,
  decisions_file,
  pools_of,
)
from experiments.knowledge_probing.question_splits import split_questions
from experiments.knowledge_probing.rules import RULES, decide_all
from experiments.knowledge_probing.scoring import score
from experiments.knowledge_probing.settings import STAGES, Settings
from experiments.knowledge_probing.sources import (
  entity_questions,
  read_questions,
)
from experiments.knowledge_probing.world_questions import (
  bundled_world,
  world_questions,
)
from experiments.runs import checksums, outputs
from experiments.runs.stages import Chunks

# Questions scored between two writes.
_CHUNK = 200


def probe(study: Study) -> Probed:
  """Runs the stages up to decisions that are not finished, and reads them.

  Raises:
    ValueError, OSError: input is malformed, or --stage names a stage whose
      input no earlier stage has written.
  """
  chosen = study.settings.stage
  needed = STAGES if chosen == 'all' else STAGES[: STAGES.index(chosen) + 1]
  runs = {stage: chosen in ('all', stage) for stage in STAGES}
  questions, splits = _questions(study, runs['questions'])
  sampled, scores, decisions = {}, {}, {}
  if 'samples' in needed:
    sampled = _samples(study, questions, splits, runs['samples'])
  if 'scores' in needed:
    scores = _scores(study, questions, sampled, runs['scores'])
  if 'decisions' in needed:
    decisions = _decisions(study, scores, splits)
  return Probed(
    questions=questions,
    splits=splits,
    sampled=sampled,
    scores=scores,
    decisions=decisions,
  )


def source(settings: Settings) -> dict:
  """Returns where questions come from, with the hash of a file."""
  for name in ('questions', 'snippets', 'cities'):
    if (path := getattr(settings, name)) is not None:
      path = pathlib.Path(path).expanduser()
      if not path.is_file():
        raise FileNotFoundError(f'There is no file {path} (--{name}).')
      return {name: path.name, 'sha256': checksums.sha256(path)}
  if settings.entities is not None:
    folder = pathlib.Path(settings.entities)
    files = sorted(folder.glob('*.json'))
    return {'entities': checksums.by_name(folder, files)}
  return {'world': checksums.sha256(inputs.BUNDLE / 'run.json')}


def _questions(study: Study, run: bool):
  """Returns all questions, each with its split."""
  settings = study.settings
  identity = {
    **source(settings),
    'seed': settings.seed,
    'held_out_relation': settings.held_out_relation,
    'shots': study.plan.shots,
    'limit': settings.limit,
  }
  if settings.snippets is not None:
    identity |= study.identity

  def make(_):
    questions = _make_questions(study)
    splits = split_questions(
      questions,
      seed=settings.seed,
      held_out_relation=settings.held_out_relation,
      shots=12 if study.plan.shots else 0,
    )
    made = [dataclasses.replace(q, split=splits[q.id]) for q in questions]
    yield _limited(made, settings.limit)

  rows = _rows(study, 'questions', identity, make, run)
  questions = [lib.read_question(row) for row in rows.values()]
  return questions, {q.id: q.split for q in questions}


def _rows(
  study: Study,
  stage: str,
  identity: Mapping,
  make: Callable[[list[str]], Iterator[Sequence]],
  run: bool,
  ids: Sequence[str] | None = None,
) -> dict[str, dict]:
  """Makes what is missing of a stage's rows, and writes its file of JSON lines.

  Args:
    study: What is probed.
    stage: One of STAGES.
    identity: What the rows depend on.
    make: Gives records, some at a time, for the ids that are missing.
    run: False if the rows must all be there.
    ids: Ids of all rows; None for those that `make` gives.

  Returns:
    Id -> row.
  """
  path = study.folder / 'stages' / stage
  if study.settings.redo and run:
    shutil.rmtree(path, ignore_errors=True)
  chunks = Chunks(path, identity)
  rows = {row['id']: row for row in chunks.rows()}
  missing = [id for id in ids or () if id not in rows]
  if missing or not rows:
    if not run:
      raise FileNotFoundError(
        f'{path} is not there or not complete: run --stage={stage} first, or '
        '--stage=all.'
      )
    for some in make(missing):
      made = [lib.to_json(each) for each in some]
      chunks.append(made)
      rows |= {row['id']: row for row in made}
  if run:
    outputs.write_lines(study.folder / f'{stage}.jsonl', rows.values())
  return rows


def _limited(questions, most: int | None) -> list[lib.Question]:
  """Returns the first questions of each relation, split and truth."""
  counts, kept = {}, []
  for q in questions:
    key = q.relation, q.split, q.known
    counts[key] = counts.get(key, 0) + 1
    if most is None or q.split == 'shots' or counts[key] <= most:
      kept.append(q)
  return kept


def _make_questions(study: Study) -> list[lib.Question]:
  settings = study.settings
  if settings.questions is not None:
    return read_questions(settings.questions)
  if settings.cities is not None:
    return city_questions(settings.cities, seed=settings.seed)
  if settings.entities is not None:
    return entity_questions(read_entities(settings.entities))
  if settings.snippets is not None:
    snippets = passages.read_snippets(settings.snippets)
    written = passages.write_questions(
      study.model, study.format, snippets, seed=settings.seed
    )
    print(
      f'{len(written.questions)} questions about {len(snippets)} passages; '
      f'refused: {written.refused}',
      flush=True,
    )
    return written.questions
  return world_questions(bundled_world(inputs.BUNDLE), settings.seed)


def _samples(study: Study, questions, splits, run: bool):
  """Id -> what the model says, of all questions but demonstrations."""
  asked = {q.id: q for q in questions if splits[q.id] != 'shots'}
  plan = {
    name: value
    for name, value in dataclasses.asdict(study.plan).items()
    if name != 'rows_per_batch'
  }
  identity = study.identity | {'plan': plan, 'questions': _digest(questions)}

  def make(missing):
    return asking.ask(
      study.model,
      study.format,
      [asked[id] for id in missing],
      pools_of(questions, splits),
      study.plan,
    )

  rows = _rows(study, 'samples', identity, make, run, list(asked))
  return {id: lib.read_sampled(row) for id, row in rows.items()}


def _digest(items) -> str:
  """Returns a hash of records."""
  return checksums.of_value([lib.to_json(each) for each in items])


def _scores(study: Study, questions, sampled, run: bool):
  """Id -> score, of every question that was asked."""
  settings = study.settings
  how = {
    name: getattr(settings, name)
    for name in ('judge', 'f1_threshold', 'fuzzy', 'judge_model', 'nli_model')
  }
  identity = how | {'samples': _digest(sampled.values())}
  identity |= {'judging_files': _judging_files(settings)}
  if settings.judge == 'llm':
    identity |= study.identity
  by_id = {q.id: q for q in questions}

  def make(missing):
    others, alike = judging.others_of(questions), _alike(settings)
    for start in tqdm.trange(0, len(missing), _CHUNK, desc='Scoring'):
      part = [by_id[id] for id in missing[start : start + _CHUNK]]
      verdicts = _model_verdicts(study, part, sampled)
      yield [
        score(
          q,
          sampled[q.id],
          study.judges,
          others.get(q.id, ()),
          alike=alike(q),
          verdicts=verdicts.get(q.id),
        )
        for q in part
      ]

  ids = [id for id in by_id if id in sampled]
  rows = _rows(study, 'scores', identity, make, run, ids)
  return {id: lib.read_score(row) for id, row in rows.items()}


def _judging_files(settings: Settings) -> dict:
  """Returns hashes of the models that judge, by the names of flags."""
  found = {}
  if settings.judge == 'llm' and settings.judge_model is not None:
    reader, _ = inputs.open_named(settings.judge_model, bundled=inputs.CHAT)
    found['judge_model'] = corpus.model_identity(reader)
  if settings.nli_model is not None:
    folder = pathlib.Path(settings.nli_model).expanduser()
    files = sorted(each for each in folder.rglob('*') if each.is_file())
    found['nli_model'] = checksums.by_name(folder, files)
  return found


def _alike(settings: Settings):
  """Returns, for a question, what tells if two answers mean the same."""
  if settings.nli_model is None:
    return lambda question: normal_alike
  model = entailment(settings.nli_model)
  return lambda question: model.about(question.question)


def _model_verdicts(study: Study, questions, sampled):
  """Id -> text -> verdict, where a model judges; nothing where none does."""
  if study.settings.judge != 'llm':
    return {}
  texts = [
    [said.text for said in (*sampled[q.id].greedy, *sampled[q.id].samples)]
    for q in questions
  ]
  found, unreadable = llm_verdicts(*study.judge_model, questions, texts)
  if any(unreadable.values()):
    print(f'Replies that cannot be read, taken for no: {unreadable}')
  return dict(zip((q.id for q in questions), found, strict=True))


def _decisions(study: Study, scores, splits):
  """Rule -> id -> decision; CRaFT's without a rehearsal, which tuning does.

  Split by split: CRaFT compares questions, and train must not know the others.
  """
  by_split, found = {}, {}
  for id, each in scores.items():
    by_split.setdefault(splits[id], []).append(each)
  for rule in RULES:
    found[rule] = {}
    for mine in by_split.values():
      found[rule] |= decide_all(rule, mine, rule_settings(study.settings))
    outputs.write_lines(
      decisions_file(study.folder, rule),
      [
        lib.to_json(
          lib.Decided(id=id, rule=rule, decision=decision, split=splits[id])
        )
        for id, decision in found[rule].items()
      ],
    )
  return found
