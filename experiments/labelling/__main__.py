r"""What does a model know? It answers questions about entities.

  python -m experiments.labelling --out=out/labels           # MiniWorld

  python -m experiments.labelling --out=out/labels --dtype=bfloat16 \
    --model=google/gemma-2-2b --entities=wikidata --rows_per_batch=2048

Every attribute of every entity is asked for once greedily and 10 times at
temperature 1. An attribute is known if at least 3 samples are right; an entity
is known with two such attributes, unknown with none, else discarded.

--family=base asks a base model: question and beginning of the answer, as text.
A chat model gets the question in its template, with the beginning of the answer
(chat) or without (free).

--out gets

  MODEL/<type>_<attribute>.json   what was said, with labels; the format is that
                                  of the paper's code
  results.json                    accuracies with 95 % intervals, and how many
                                  entities are known, unknown and discarded
  flags.txt                       a flagfile that repeats the run
  run.json                        what the answers belong to

A killed run loses one batch at most; the same command goes on.
`experiments.entity_recognition --labels=OUT/MODEL` takes the answers.
"""

from collections.abc import Mapping
import pathlib

from experiments import inputs
from experiments.entities import Entity, read_entities
from experiments.inputs import corpus
from experiments.labelling.settings import Settings
from experiments.labelling.study import label_entities
from experiments.runs import KeepFlags, outputs, start
from experiments.runs.out_of_memory import explain_out_of_memory
from experiments.sae_training import load


def work(settings: Settings, keep_flags: KeepFlags) -> str:
  """Labels entities, writes the results; returns the summary."""
  config = settings.label_config()
  entities = _entities(settings)
  path = inputs.resolve_path(settings.model, inputs.BASE)
  reader = inputs.open_model(path, settings.dtype)
  identity = corpus.model_identity(reader)
  name = _alias(settings.model)

  def open_model():
    """Loads the model: all was checked, and there is something left to ask."""
    keep_flags()
    return load(reader, reader.config.num_layers)

  with explain_out_of_memory(
    'The device ran out of memory. Lower --rows_per_batch and start the same '
    'command again: it goes on where it was.'
  ):
    labelled = label_entities(
      open_model,
      inputs.read_tokenizer(reader),
      entities,
      settings.out,
      identity=identity,
      config=config,
      name=name,
      rows_per_batch=settings.rows_per_batch,
    )
  keep_flags()
  results = {
    'experiment': 'labelling',
    'mode': settings.mode,
    'drop_qid_labels': settings.drops_qid_labels,
    'seed': settings.seed,
    'model': {'path': settings.model, **identity},
    'entities': {kind: len(group) for kind, group in entities.items()},
    'records': name,
    **labelled.results,
    'versions': outputs.versions(),
  }
  outputs.write_results(settings.out, results)
  return '\n'.join(_summary(results))


def _entities(settings: Settings) -> dict[str, list[Entity]]:
  folder = inputs.resolve_path(settings.entities, inputs.ENTITIES)
  entities = read_entities(folder, settings.drops_qid_labels, settings.types)
  return {
    kind: found[: settings.max_entities] for kind, found in entities.items()
  }


def _alias(model: str) -> str:
  """Returns a model's name as a folder: 'gemma-2-2b' of 'google/gemma-2-2b'."""
  return pathlib.PurePath(model).name or 'records'


def _summary(results: Mapping) -> list[str]:
  """Returns a few lines for the terminal."""
  lines = []
  for name, shares in results['prompt_types'].items():
    right = shares['greedy']['correct']
    lines.append(
      f'{name}: {right["value"]:.1%} right '
      f'[{right["low"]:.1%}, {right["high"]:.1%}], n = {right["n"]:,}'
    )
  for kind, counts in results['types'].items():
    numbers = ', '.join(f'{count:,} {label}' for label, count in counts.items())
    lines.append(f'{kind}: {numbers}')
  return lines


if __name__ == '__main__':
  start(Settings, work)
