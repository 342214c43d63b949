"""The last stages: training rows as files, and all numbers."""

import dataclasses
import pathlib

from experiments.inputs import corpus
from experiments.knowledge_probing.opening import Study, rule_settings
from experiments.knowledge_probing.probed import Probed
from experiments.knowledge_probing.refusal_texts import write_refusals
from experiments.knowledge_probing.row_files import write_rows as write_file
from experiments.knowledge_probing.rules import conflict
from experiments.knowledge_probing.stream_detectors import detectors
from experiments.knowledge_probing.summary import summarise
from experiments.knowledge_probing.training_rows import training_rows
from experiments.runs import outputs

ABOUT_ROWS = 'rows.json'


def write_rows(study: Study, probed: Probed):
  """Writes the rows of --rule, and rows.json about them.

  Raises:
    ValueError: the rule leaves a class empty, or a row has nothing to learn.
  """
  settings = study.settings
  written, refused = None, {}
  if settings.refusal_style == 'model':
    decisions = probed.decisions[settings.rule]
    declined = [
      q
      for q in probed.asked
      if probed.splits[q.id] == 'train'
      and decisions[q.id] in ('refuse', 'refuse_keep')
    ]
    found = write_refusals(study.model, study.format, declined)
    written, refused = found.texts, dict(found.left_out)
  rows = training_rows(
    probed,
    settings.rule,
    text=study.refusal,
    written=written,
    max_refusal_share=settings.max_refusal_share,
    seed=settings.seed,
  )
  left_out = write_file(
    study.folder / 'rows.jsonl', rows, study.format, settings.rows
  )
  outputs.write_json(
    study.folder / ABOUT_ROWS,
    {
      'written': len(rows) - left_out,
      'without_a_rejected_answer': left_out,
      'refusals': sum(row.refusal for row in rows),
      'rule': settings.rule,
      'format': settings.rows,
      'model_refusals_left_out': refused,
    },
  )


def report(study: Study, probed: Probed) -> dict:
  """Returns what results.json gets.

  Raises:
    FileNotFoundError: the stage of rows has not run.
  """
  settings = study.settings
  table, left_out = detectors(study, probed)
  return {
    'study': 'knowledge_probing',
    'mode': 'reference' if settings.judge == 'reference' else 'default',
    'seed': settings.seed,
    'versions': outputs.versions(),
    'model': {
      'name': study.name,
      'path': settings.model,
      **corpus.model_identity(study.reader),
    },
    'settings': dataclasses.asdict(settings),
    'format': study.format.name,
    'plan': dataclasses.asdict(study.plan),
    'rule': settings.rule,
    **summarise(probed, settings),
    'conflict': conflict(
      list(probed.scores.values()), probed.decisions, rule_settings(settings)
    ),
    'detectors': table,
    'detectors_left_out': left_out,
    'rows': _about_rows(study.folder),
  }


def _about_rows(folder: pathlib.Path) -> dict:
  path = folder / ABOUT_ROWS
  if not path.is_file():
    raise FileNotFoundError(
      f'{path} is not there: run --stage=rows first, or --stage=all.'
    )
  return outputs.read_json(path)
