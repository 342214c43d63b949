"""The study: from a model to results, stage by stage.

A stage is one task with one number of demonstrations. It is kept in the
model's folder when it is complete, under the identity of all that it depends
on, so that the same command goes on where it was killed.
"""

from collections.abc import Mapping
import dataclasses
import pathlib
import time

from safetensors.numpy import load_file

from experiments import inputs
from experiments.factual_recall import path_patching, regression
from experiments.factual_recall.opening import Study
from experiments.factual_recall.steps import Context, inspect, price, recall
from experiments.factual_recall.summary import claims, likeness, table_rows
from experiments.inputs import corpus
from experiments.runs import outputs
from experiments.runs.checksums import of_value
from experiments.runs.stages import stage
from gemma_jax.whole_files import save_tensors

_RESULTS, _ARRAYS = 'found.json', 'arrays.safetensors'


def run_study(study: Study) -> dict:
  """Runs what is not finished; returns what results.json gets."""
  settings, start = study.settings, time.monotonic()
  bytes_held = path_patching.sweep_bytes(study.reader.config)
  print(
    f'{len(study.prompts)} stages; path patching holds at most '
    f'{bytes_held / 2**20:.0f} MiB at a time.',
    flush=True,
  )
  context = Context(study)
  fingerprint = corpus.fingerprint(study.reader)
  found, arrays = {}, {}
  for number, (key, prompts) in enumerate(study.prompts.items()):
    name = f'{key[0]}, {key[1]} demonstrations'
    _say(number, len(study.prompts), name, start)
    found[key], arrays[key] = _kept(
      study,
      fingerprint,
      prompts.task,
      f'{key[1]}-shot',
      lambda key=key: recall(context, study.prompts[key]),
    )
  for task in study.tasks:
    best = most_right(found, task.name)
    print(f'{task.name}: looking inside with {best} demonstrations', flush=True)
    key = task.name, best
    found[key]['inside'], _ = _kept(
      study,
      fingerprint,
      task,
      'inside',
      lambda key=key: (
        inspect(context, study.prompts[key], found[key]['argument_heads']),
        {},
      ),
      depends=key,
    )
    found[key]['price'], _ = _kept(
      study,
      fingerprint,
      task,
      'price',
      lambda key=key: (price(context, arrays[key]['intercepts'][-1]), {}),
      depends=key,
    )
  runs = [
    {'task': task, 'shots': shots, **found[task, shots]}
    for task, shots in study.prompts
  ]
  likenesses = likeness(study.prompts, arrays, settings.seed)
  intercepts = {
    str(shots): regression.compare_intercepts(
      {
        task.name: arrays[task.name, shots]['intercepts']
        for task in study.tasks
      }
    )
    for shots in settings.shots
  }
  return {
    'study': 'factual_recall',
    'mode': settings.mode,
    'seed': settings.seed,
    'versions': outputs.versions(),
    'model': {
      'name': inputs.short_name(settings.model),
      'path': settings.model,
      **corpus.model_identity(study.reader),
      'layers': study.reader.config.num_layers,
      'heads': study.reader.config.num_heads,
    },
    'settings': dataclasses.asdict(settings),
    'text': study.text_source,
    'tasks': {
      task.name: {'source': task.source, 'facts': len(task.facts)}
      for task in study.tasks
    },
    'runs': runs,
    'likeness': likenesses,
    'intercepts_alike': intercepts,
    'claims': claims(runs, likenesses),
    'table': table_rows(runs),
    'seconds': time.monotonic() - start,
  }


def most_right(found: Mapping, task: str) -> int:
  """Returns the number of demonstrations with the most right answers."""
  shots = [each for name, each in found if name == task]
  return max(shots, key=lambda k: found[task, k]['first']['top1']['value'])


def _kept(
  study, fingerprint, task, stage_name, make, depends=()
) -> tuple[dict, dict]:
  """Results and arrays of a task's stage, made unless they are there."""
  settings, name = study.settings, f'{task.name}/{stage_name}'
  identity = {
    'version': 4,
    'model': fingerprint,
    'tokenizer': corpus.tokenizer_sha256(study.reader),
    'task': dataclasses.asdict(task),
    'name': name,
    'depends': list(depends),
    'text': of_value(study.text),
    'saes': study.sae_fingerprints,
    'settings': {
      key: value
      for key, value in dataclasses.asdict(settings).items()
      if key not in ('out', 'model', 'tasks', 'shots', 'redo', 'rows_per_batch')
    },
  }
  if settings.redo:
    identity['redo'] = time.time()

  def fill(folder: pathlib.Path):
    found, arrays = make()
    outputs.write_json(folder / _RESULTS, found)
    if arrays:
      save_tensors(folder / _ARRAYS, arrays)

  folder = study.folder / 'stages' / name
  stage(folder, identity, fill)
  found = outputs.read_json(folder / _RESULTS)
  arrays = folder / _ARRAYS
  return found, load_file(arrays) if arrays.is_file() else {}


def _say(number, count, name, start):
  spent = time.monotonic() - start
  left = (
    f', about {spent / number * (count - number):.0f} s left' if number else ''
  )
  print(
    f'[{number + 1}/{count}] {name} (after {spent:.0f} s{left})', flush=True
  )
