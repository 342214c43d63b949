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

from collections.abc import Mapping, Sequence
import pathlib

from absl import flags
import jax

from experiments import inputs
from experiments.entities import MODES, Entity, read_entities
from experiments.inputs import corpus
from experiments.labelling.study import FAMILIES, LabelConfig, label_entities
from experiments.runs import SEED, define_number, memory, outputs, real, whole
from experiments.sae_training import load


def define_flags(values: flags.FlagValues = flags.FLAGS) -> list[str]:
  """Defines this program's flags; returns their names."""
  before = set(values)
  inputs.define_model(values)
  inputs.define_entities(values)
  common = {'flag_values': values}
  flags.DEFINE_string(
    'out', None, 'Folder for everything that is written.', **common
  )
  flags.DEFINE_enum(
    'mode',
    'default',
    MODES,
    "'reference' does as the published code did, its defects included; it sets "
    '--correctness, --refusal_detector and --drop_qid_labels, which can be set '
    'apart.',
    **common,
  )
  flags.DEFINE_enum(
    'correctness',
    None,
    MODES,
    'How answers are told right from wrong. Default: by --mode.',
    **common,
  )
  flags.DEFINE_enum(
    'refusal_detector',
    None,
    MODES,
    'How refusals are told. Default: by --mode.',
    **common,
  )
  flags.DEFINE_bool(
    'drop_qid_labels',
    None,
    'Leave out raw entities whose label is a bare Q-id. Default: by --mode.',
    **common,
  )
  flags.DEFINE_list(
    'types',
    None,
    'Entity types to ask about. Default: all there are.',
    **common,
  )
  define_number(
    'max_entities',
    None,
    'Of each type, the first ones by name; to try things.',
    whole(),
    **common,
  )
  flags.DEFINE_enum(
    'family', 'base', FAMILIES, 'Which prompts; see above.', **common
  )
  define_number(
    'num_samples',
    10,
    'Sampled answers per question.',
    whole(1, 10_000),
    **common,
  )
  define_number('temperature', 1.0, 'Of the samples.', real(0, 100), **common)
  define_number(
    'max_new_tokens', 32, 'Most tokens per answer.', whole(), **common
  )
  flags.DEFINE_bool(
    'stop_at_line_break',
    False,
    'End answers at a line break, too. Faster; the paper went on, and scored '
    'what followed.',
    **common,
  )
  define_number(
    'min_correct',
    3,
    'Right samples that make an attribute known.',
    whole(),
    **common,
  )
  define_number(
    'min_known',
    2,
    'Known attributes that make an entity known.',
    whole(),
    **common,
  )
  define_number('seed', 0, 'Of the samples.', SEED, **common)
  define_number(
    'rows_per_batch',
    512,
    'Answers generated at once. Only speed and memory depend on it.',
    whole(),
    **common,
  )
  return sorted(set(values) - before)


def label(values: flags.FlagValues, names: Sequence[str]) -> dict:
  """Does what parsed flags say; returns what results.json says.

  Raises:
    ValueError, OSError, ImportError: something does not exist or does not fit;
      the error names it and the remedy.
  """
  if values.out is None:
    raise ValueError('Say where results go: --out=DIR.')
  _settle(values)
  config = _config(values)
  entities = _entities(values)
  path = inputs.resolve_path(values.model, inputs.BASE)
  reader = inputs.open_model(path, values.dtype)
  out = pathlib.Path(values.out)
  identity = corpus.model_identity(reader)

  def start():
    """The model: all has been checked, and there is something left to ask."""
    outputs.write_flags(out, values, names)
    return load(reader, reader.config.num_layers)

  labelled = label_entities(
    start,
    inputs.read_tokenizer(reader),
    entities,
    out,
    identity=identity,
    config=config,
    name=_alias(values.model),
    rows_per_batch=values.rows_per_batch,
  )
  outputs.write_flags(out, values, names)
  results = {
    'experiment': 'labelling',
    'mode': values.mode,
    'drop_qid_labels': values.drop_qid_labels,
    'seed': values.seed,
    'model': {'path': values.model, **identity},
    'entities': {kind: len(group) for kind, group in entities.items()},
    'records': _alias(values.model),
    **labelled.results,
    'versions': outputs.versions(),
  }
  outputs.write_results(out, results)
  return results


def run(values: flags.FlagValues, names: Sequence[str]) -> int:
  """Labels entities; returns the exit code."""
  try:
    results = label(values, names)
  except (OSError, ValueError, ImportError) as error:
    return outputs.failed(error)
  except (jax.errors.JaxRuntimeError, MemoryError) as error:
    if isinstance(error, MemoryError) or 'RESOURCE_EXHAUSTED' in str(error):
      return outputs.failed(
        memory.OutOfMemory(
          'The device ran out of memory. Lower --rows_per_batch and start the '
          'same command again: it goes on where it was. What JAX said: '
          f'{(str(error).splitlines() or [""])[0]}'
        )
      )
    raise
  for line in _summary(results):
    print(line)
  print(f'Written: {pathlib.Path(values.out) / outputs.RESULTS_FILE}')
  return 0


def _settle(values):
  """Fills in what depends on --mode, for flags.txt too."""
  values.correctness = values.correctness or values.mode
  values.refusal_detector = values.refusal_detector or values.mode
  if values.drop_qid_labels is None:
    values.drop_qid_labels = values.mode == 'default'


def _config(values) -> LabelConfig:
  return LabelConfig(
    family=values.family,
    num_samples=values.num_samples,
    temperature=values.temperature,
    max_new_tokens=values.max_new_tokens,
    stop_at_line_break=values.stop_at_line_break,
    seed=values.seed,
    mode=values.correctness,
    refusal_mode=values.refusal_detector,
    min_correct=values.min_correct,
    min_known=values.min_known,
  )


def _entities(values) -> dict[str, list[Entity]]:
  folder = inputs.resolve_path(values.entities, inputs.ENTITIES)
  entities = read_entities(folder, values.drop_qid_labels, values.types)
  return {
    kind: found[: values.max_entities] for kind, found in entities.items()
  }


def _alias(model: str) -> str:
  """The model's name as a folder: 'gemma-2-2b' of 'google/gemma-2-2b'."""
  return pathlib.PurePath(model).name or 'records'


def _summary(results: Mapping) -> list[str]:
  """A few lines for the terminal."""
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
  outputs.start(define_flags, run)
